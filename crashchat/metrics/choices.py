"""Answers from a list: one option, or any number of them."""

from collections.abc import Sequence

import numpy as np

from crashchat.data.predictions import clip_name
from crashchat.metrics.probability import reliability
from crashchat.metrics.sums import Sums, Totals, ratio, sums

MOST_SHOWN = 12  # options of which a confusion matrix can still be read


def choice_sums(
    records: list[dict],
    truth_field: str,
    answer_field: str,
    options: Sequence[str],
    candidates: Sequence[str] | None = None,
) -> Sums:
    """One of `options` in `answer_field` against that in `truth_field` (docs/reference.md, Metrics).

    Accuracy: share of right answers. macro_f1: mean F1 of the options that are true of some question; it is
    not raised by answering the most frequent one. An answer that is none is wrong, and is no option's.
    confusion: {truth: {answer: records}}, where answer is an option, unparsed or failed; left out where the
    options are more than MOST_SHOWN. calibration_error: how far the likeliest answer's probability is from
    how often it is right, as for recognition; None without probabilities. candidates: the options as answers
    name them, where that is another way (letters).
    """
    counts: dict = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    confusion = {truth: dict.fromkeys((*options, "unparsed", "failed"), 0) for truth in options}
    columns = [f"{what} {place}" for what in ("true", "said", "hit") for place in range(len(options))]
    questions = []
    for record in records:
        truth, answer = record[truth_field], record[answer_field]
        if truth not in options:
            counts["num_no_truth"] += 1
            continue
        answered = record.get("error") is None and answer in options
        fault = "unparsed" if record.get("error") is None else "failed"
        counts[f"num_{fault}"] += not answered
        confusion[truth][answer if answered else fault] += 1
        cells = dict.fromkeys(columns, 0) | {f"true {options.index(truth)}": 1}
        if answered:
            cells[f"said {options.index(answer)}"] = 1
        if answered and answer == truth:
            cells[f"hit {options.index(truth)}"] = 1
        right = answered and answer == truth
        video = clip_name(record["video_path"])
        questions.append({"video": video, "answered": answered, "n": 1, "score": right, **cells})
    named = dict(zip(candidates or options, options, strict=True))
    counts["calibration_error"] = _calibration(records, truth_field, named)
    if len(options) <= MOST_SHOWN:
        counts["confusion"] = confusion

    def figures(totals: Totals) -> dict[str, np.ndarray]:
        scores, known = [], []
        for place in range(len(options)):
            true, said, hit = (totals[f"{what} {place}"] for what in ("true", "said", "hit"))
            scores.append(ratio(2 * hit, true + said, empty=0.0) * (np.asarray(true) > 0))
            known.append(np.asarray(true) > 0)
        return {
            "Accuracy": ratio(totals["score"], totals["n"]),
            "macro_f1": ratio(np.sum(scores, axis=0), np.sum(known, axis=0)),
        }

    return sums(
        questions,
        figures,
        counts,
        counted={"Accuracy": (("n",),), "macro_f1": (("n",),)},
        shares=("Accuracy",),
        empty=("n", "score", *columns),
    )


def _calibration(records: list[dict], truth_field: str, named: dict[str, str]) -> float | None:
    """named: {an answer: its option}."""
    known = [record for record in records if record.get("option_probabilities") and record[truth_field]]
    if not known:
        return None
    tops = [max(record["option_probabilities"].items(), key=lambda one: one[1]) for record in known]
    sure = np.array([share for _, share in tops])
    right = np.array(
        [named.get(said) == record[truth_field] for (said, _), record in zip(tops, known, strict=True)]
    )
    mean, share, size = reliability(right, sure)
    return float((np.abs(mean - share) * size).sum() / size.sum())


def choices_sums(records: list[dict], truth_field: str, answer_field: str) -> Sums:
    """Lists of options (docs/reference.md, Metrics).

    set_precision, set_recall, set_f1: over the options of all questions, each alike. exact_set: share of
    answers with all right options and no other. An answer that is none names nothing, and is never exact.
    """
    counts = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    questions = []
    for record in records:
        if not isinstance(record[truth_field], list):
            counts["num_no_truth"] += 1
            continue
        answered = record.get("error") is None and isinstance(record[answer_field], list)
        if not answered:
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
        truth, answer = set(record[truth_field]), set(record[answer_field] or ()) if answered else set()
        both, all_of_them = len(truth & answer), len(truth) + len(answer)
        questions.append(
            {
                "video": clip_name(record["video_path"]),
                "answered": answered,
                "n": 1,
                "exact": answered and truth == answer,
                "score": answered and (2 * both / all_of_them if all_of_them else 1.0),
                "both": both,
                "said": len(answer),
                "true": len(truth),
            }
        )
    figures = ("set_precision", "set_recall", "set_f1", "exact_set")
    return sums(
        questions,
        _set_figures,
        counts,
        counted=dict.fromkeys(figures, (("n",),)),
        shares=("exact_set",),
        empty=("n", "exact", "score", "both", "said", "true"),
    )


def _set_figures(totals: Totals) -> dict[str, np.ndarray]:
    both, said, true = (np.asarray(totals[name]) for name in ("both", "said", "true"))
    scores = {
        "set_precision": ratio(both, said, 0.0),
        "set_recall": ratio(both, true, 0.0),
        "set_f1": ratio(2 * both, said + true),
    }
    found = {name: np.where(said + true > 0, score, np.nan) for name, score in scores.items()}
    return {**found, "exact_set": ratio(totals["exact"], totals["n"])}
