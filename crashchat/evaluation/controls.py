"""What text scores give to answers that must not score well: what a model's figures are to be held against.

All of them are made of the annotated answers of the file that is scored, so that they say what wording alone
is worth on these very questions.
"""

import random
from collections import Counter
from dataclasses import replace

from crashchat.data.predictions import with_answers
from crashchat.metrics.sums import format_value
from crashchat.metrics.text import Extras, text_sums
from crashchat.tasks import Task

SEED = 0
PADDING = 10  # so many of the most frequent annotated answers
FIGURES = ("BLEU", "rougeL_f", "CIDEr", "BERTScore", "exact_match", "facts_f1", "semantic")


def control_answers(task: Task, records: list[dict]) -> dict[str, list[str]]:
    """{control: an answer a record} of a text task.

    empty; the no-accident answer to all; the most frequent annotated answer that tells of a crash, to all;
    the annotated answers, each to another question; the annotated answers, each with the most frequent ones
    behind it; and these alone, without the annotated one.
    """
    truths = [record[task.gt_fields[0]] or "" for record in records]
    often = [text for text, _ in Counter(truths).most_common()]
    crashes = [text for text in often if text != task.negative_answer]
    swapped = truths.copy()
    random.Random(SEED).shuffle(swapped)
    padding = " ".join(often[:PADDING])
    found = {
        "empty": [""] * len(records),
        "no accident": [task.negative_answer or ""] * len(records),
        "most frequent": (crashes or often)[:1] * len(records),
    }
    return found | {
        "swapped": swapped,
        "padded": [f"{truth} {padding}" for truth in truths],
        "padding": [" ".join([text for text in often if text != truth][:PADDING]) for truth in truths],
    }


def control_scores(task: Task, records: list[dict], extras: Extras) -> dict[str, dict]:
    """{control: {figure: value}} of a text task, every question counted; METEOR is left out, it is slow."""
    quick = replace(extras, meteor=False)
    found = {}
    for name, answers in control_answers(task, records).items():
        answered = with_answers(task, records, answers)
        metrics = text_sums(answered, task.gt_fields[0], task.pred_fields[0], quick).metrics()
        found[name] = {figure: metrics[figure] for figure in FIGURES}
    return found


def control_table(scored: dict, found: dict[str, dict]) -> str:
    """The controls below the answers, a line each. scored: the strict figures of the answers."""
    rows = {"these answers": scored} | found
    figures = [figure for figure in FIGURES if scored[figure] is not None]
    lines = [("", figures)]
    lines += [(name, [format_value(row[figure]) for figure in figures]) for name, row in rows.items()]
    return "\n".join(f"{name:15}" + "".join(f"{cell:>13}" for cell in cells) for name, cells in lines)
