"""How far the runs of a row give the same answers, question by question: what chance decides.

The runs may be several draws from the same weights (`crashchat evaluate … temperature=0.7 seed=1`), or
several trainings. The spread of the figures alone hides that answers change which are as often right as
before.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from crashchat.data.prediction_files import PredictionFile
from crashchat.data.predictions import clip_name, video_name
from crashchat.metrics.by_kind import per_question_score
from crashchat.metrics.sums import Sums
from crashchat.reporting.runs import Run
from crashchat.reporting.tables import Table, filled
from crashchat.tasks import TASKS

COLUMNS = (("agreement", "agreement"), ("unanimous", "unanimous"), ("score_range", "score range"))


@dataclass(frozen=True)
class Steadiness:
    """One question in all runs of a row.

    agreement: the share of pairs of runs that give the same answer, as it is read (two that do not parse are
    the same); answers: how many different ones. low, high: the worst and the best score, 0 to 1, of its
    answers; None where it is not scored.
    """

    video: str
    data_id: int | str
    agreement: float
    answers: int
    low: float | None
    high: float | None


Stability = dict[str, dict[str, list[Steadiness]]]  # {row: {task: its questions}}


def steadiness(task: str, files: Sequence[PredictionFile], sums: Sums) -> list[Steadiness]:
    """The questions of a task in the runs of one row. sums: of the same runs, joined."""
    scores: dict[str, list[float]] = {}
    for video, score in zip(sums.videos, per_question_score(TASKS[task], sums), strict=True):
        scores.setdefault(video, []).append(float(score))
    fields = TASKS[task].pred_fields
    given: dict[str, list[str]] = {}  # as JSON: what is read of an answer may be a list
    for file in files:
        for record in file.records:
            answer = json.dumps([record[name] for name in fields], sort_keys=True)
            given.setdefault(video_name(record["video_path"]), []).append(answer)
    found = []
    for record in files[0].records:
        video = video_name(record["video_path"])
        pairs = list(combinations(given[video], 2))
        own = scores.get(clip_name(video))
        found.append(
            Steadiness(
                video=video,
                data_id=record["data_id"],
                agreement=sum(one == other for one, other in pairs) / len(pairs),
                answers=len(set(given[video])),
                low=min(own) if own else None,
                high=max(own) if own else None,
            )
        )
    return found


def stability_of(runs: Mapping[str, Sequence[Run]], sums: Mapping[str, Mapping[str, Sums]]) -> Stability:
    """Of every row with several runs."""
    return {
        name: {task: steadiness(task, [run[task] for run in of_row], sums[name][task]) for task in of_row[0]}
        for name, of_row in runs.items()
        if len(of_row) > 1
    }


def figures(questions: Sequence[Steadiness]) -> dict[str, float | None]:
    """Means over a task's questions: agreement; unanimous, the share with one answer in all runs;
    score_range, from the worst answer's score to the best's.
    """
    ranges = [one.high - one.low for one in questions if one.high is not None and one.low is not None]
    return {
        "agreement": sum(one.agreement for one in questions) / len(questions),
        "unanimous": sum(one.answers == 1 for one in questions) / len(questions),
        "score_range": sum(ranges) / len(ranges) if ranges else None,
    }


def stability_tables(stability: Stability) -> list[Table]:
    """One table, a line a row with several runs; none without such a row."""
    if not stability:
        return []
    found = {
        name: {task: figures(questions) for task, questions in row.items()} for name, row in stability.items()
    }
    columns = [
        (TASKS[task].title, heading, task, metric)
        for task in TASKS
        if any(task in row for row in found.values())
        for metric, heading in COLUMNS
    ]
    return [filled(Table("stability of answers over the runs", columns), found)]


def stability_notes(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """Whether the runs of a row are draws from the same weights, as far as the manifests say, a sentence
    each.
    """
    notes = []
    for name, of_row in runs.items():
        files = [file for run in of_row for file in run.values()]
        if len(of_row) < 2 or not all(file.manifest for file in files):
            continue
        made = [file.manifest for file in files if file.manifest]
        weights = {(one.checkpoint.sha256, one.adapter.sha256 if one.adapter else None) for one in made}
        if len(weights) == 1:
            ways = ", ".join(dict.fromkeys(one.decoding for one in made))
            notes.append(f"{name}: {len(of_row)} runs of the same weights ({ways}).")
        else:
            notes.append(f"{name}: {len(of_row)} runs of {len(weights)} different weights.")
    return notes


def as_stability_csv(stability: Stability) -> str:
    """A line a question: how far the runs of its row agree on it."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("row", "task", "video", "data_id", "agreement", "answers", "low", "high"))
    for name, row in stability.items():
        for task, questions in row.items():
            for one in questions:
                writer.writerow(
                    (name, task, one.video, one.data_id, one.agreement, one.answers, one.low, one.high)
                )
    return out.getvalue()
