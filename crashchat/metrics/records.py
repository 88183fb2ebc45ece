"""Records: several answers at once, each right or wrong by its own kind."""

import numpy as np

from crashchat.data.predictions import clip_name
from crashchat.metrics.localization import interval_iou
from crashchat.metrics.quantities import CLOSE, OVERLAP, WITHIN, coverage
from crashchat.metrics.sums import Sums, Totals, ratio, sums
from crashchat.tasks.kinds import Kind, Text, Value
from crashchat.tasks.quantities import Interval, Intervals, Moment, Number
from crashchat.tasks.reading import plain
from crashchat.tasks.records import Record


def is_right(kind: Kind, truth: Value, answer: Value | None) -> bool:
    """Whether a part's answer is right: a text in the same words, a time within a second, intervals from an
    IoU of 0.5 on, a number within its tolerance, all else the same.
    """
    if answer is None:
        return False
    if isinstance(kind, Text):
        return plain(str(truth)) == plain(str(answer))
    if isinstance(kind, Number) and isinstance(truth, float | int) and isinstance(answer, float | int):
        return abs(truth - answer) <= kind.tolerance + 1e-9
    if isinstance(kind, Moment) and isinstance(truth, float | int) and isinstance(answer, float | int):
        return abs(truth - answer) <= WITHIN[CLOSE] + 1e-9
    if isinstance(kind, Interval) and isinstance(truth, list) and isinstance(answer, list):
        return interval_iou((truth[0], truth[1]), (answer[0], answer[1])) >= OVERLAP
    if isinstance(kind, Intervals) and isinstance(truth, list) and isinstance(answer, list):
        return coverage(truth, answer) >= OVERLAP
    return truth == answer


def record_sums(records: list[dict], truth_field: str, answer_field: str, kind: Record) -> Sums:
    """Objects of named answers (docs/reference.md, Metrics).

    part_<name>: share of questions whose part of this name is right. parts_right: mean over the parts.
    all_right: share of questions with every part right. An answer that is no object has no part right; a
    question whose annotation lacks a part is not counted.
    """
    counts = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    names = {name: f"part_{name}" for name in kind.parts}
    questions = []
    for record in records:
        truth, answer = record[truth_field], record[answer_field]
        if not isinstance(truth, dict) or any(truth.get(name) is None for name in names):
            counts["num_no_truth"] += 1
            continue
        answered = record.get("error") is None and isinstance(answer, dict)
        if not answered:
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
        right = {
            column: answered and is_right(kind.parts[name], truth[name], answer.get(name))
            for name, column in names.items()
        }
        questions.append(
            {
                "video": clip_name(record["video_path"]),
                "answered": answered,
                "n": 1,
                "score": sum(right.values()) / len(right),
                "all": all(right.values()),
                **right,
            }
        )

    def figures(totals: Totals) -> dict[str, np.ndarray]:
        return {
            "parts_right": ratio(totals["score"], totals["n"]),
            "all_right": ratio(totals["all"], totals["n"]),
            **{column: ratio(totals[column], totals["n"]) for column in names.values()},
        }

    shares = ("all_right", *names.values())
    return sums(
        questions,
        figures,
        counts,
        counted=dict.fromkeys(("parts_right", *shares), (("n",),)),
        shares=shares,
        empty=("n", "score", "all", *names.values()),
    )
