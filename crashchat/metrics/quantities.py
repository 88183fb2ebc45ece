"""Numbers, moments that are scored by their distance, and several intervals."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from crashchat.data.predictions import clip_name
from crashchat.data.record_faults import is_number
from crashchat.metrics.localization import interval_iou
from crashchat.metrics.sums import Sums, Totals, ratio, sums

WITHIN = {"within_0.5s": 0.5, "within_1s": 1.0, "within_2s": 2.0}  # seconds
CLOSE = "within_1s"  # what makes a moment right where it is one of several answers
OVERLAP = 0.5  # IoU from which two intervals are the same


def number_sums(records: list[dict], truth_field: str, answer_field: str, tolerance: float) -> Sums:
    """Numbers (docs/reference.md, Metrics). Accuracy: share of answers no further than `tolerance` from the
    annotated number. MAE: over the answers that there are.
    """

    def score(truth: float, answer: float) -> dict[str, float]:
        return {"score": abs(truth - answer) <= tolerance + 1e-9}

    def figures(totals: Totals) -> dict[str, np.ndarray]:
        return {
            "Accuracy": ratio(totals["score"], totals["n"]),
            "MAE": ratio(totals["error"], totals["answers"]),
        }

    return _distances(records, (truth_field, answer_field), score, figures, shares=("Accuracy",))


def moment_sums(records: list[dict], truth_field: str, answer_field: str) -> Sums:
    """Times in seconds (docs/reference.md, Metrics). within_*: shares of answers that are so near. MAE: in
    seconds, over the answers that there are.
    """

    def score(truth: float, answer: float) -> dict[str, float]:
        near = {name: abs(truth - answer) <= seconds + 1e-9 for name, seconds in WITHIN.items()}
        return {"score": near[CLOSE], **near}

    def figures(totals: Totals) -> dict[str, np.ndarray]:
        shares = {name: ratio(totals[name], totals["n"]) for name in WITHIN}
        return {**shares, "MAE": ratio(totals["error"], totals["answers"])}

    return _distances(records, (truth_field, answer_field), score, figures, shares=tuple(WITHIN))


def _distances(
    records: list[dict],
    fields: tuple[str, str],
    score: Callable[[float, float], dict[str, float]],
    figures: Callable[[Totals], dict[str, np.ndarray]],
    *,
    shares: tuple[str, ...],
) -> Sums:
    counts = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    questions = []
    names = list(score(0.0, 0.0))
    for record in records:
        truth, answer = (record[field] for field in fields)
        if not is_number(truth):
            counts["num_no_truth"] += 1
            continue
        answered = record.get("error") is None and is_number(answer)
        if not answered:
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
        own = score(truth, answer) if answered else dict.fromkeys(names, 0.0)
        error = abs(truth - answer) if answered else 0.0
        video = clip_name(record["video_path"])
        questions.append(
            {"video": video, "answered": answered, "n": 1, "answers": answered, "error": error, **own}
        )
    return sums(
        questions,
        figures,
        counts,
        counted=dict.fromkeys(shares, (("n",),)),
        shares=shares,
        parsed_only=("MAE",),
        empty=("n", "answers", "error", *names),
    )


def intervals_sums(records: list[dict], truth_field: str, answer_field: str) -> Sums:
    """Lists of intervals in seconds (docs/reference.md, Metrics).

    F1@50: over the intervals of all questions, an annotated and an answered one being the same from an IoU of
    0.5 on, each in one pair at most, the closest first. coverage_iou: mean over questions of the IoU of all
    annotated time and all answered time; 1 where both say that there is none.
    """
    counts = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    questions = []
    for record in records:
        truth, answer = record[truth_field], record[answer_field]
        if not isinstance(truth, list):
            counts["num_no_truth"] += 1
            continue
        answered = record.get("error") is None and isinstance(answer, list)
        if not answered:
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
            answer = []
        questions.append(
            {
                "video": clip_name(record["video_path"]),
                "answered": answered,
                "n": 1,
                "same": matched(truth, answer),
                "said": len(answer),
                "true": len(truth),
                "score": coverage(truth, answer) if answered else 0.0,
            }
        )

    def figures(totals: Totals) -> dict[str, np.ndarray]:
        return {
            "F1@50": ratio(2 * totals["same"], totals["said"] + totals["true"]),
            "coverage_iou": ratio(totals["score"], totals["n"]),
        }

    return sums(
        questions,
        figures,
        counts,
        counted=dict.fromkeys(("F1@50", "coverage_iou"), (("n",),)),
        empty=("n", "same", "said", "true", "score"),
    )


def matched(truth: list, answer: list) -> int:
    """How many intervals of two lists are the same."""
    pairs = [
        (interval_iou(tuple(one), tuple(other)), at, to)
        for at, one in enumerate(truth)
        for to, other in enumerate(answer)
    ]
    taken: tuple[set[int], set[int]] = (set(), set())
    for iou, at, to in sorted(pairs, reverse=True):
        if iou >= OVERLAP and at not in taken[0] and to not in taken[1]:
            taken[0].add(at)
            taken[1].add(to)
    return len(taken[0])


def coverage(truth: list, answer: list) -> float:
    """IoU of the time that two lists of intervals cover; 1 where both are empty."""
    edges = sorted({float(time) for ends in [*truth, *answer] for time in ends})
    both = either = 0.0
    for start, end in pairwise(edges):
        inside = [any(min(ends) <= start and end <= max(ends) for ends in one) for one in (truth, answer)]
        both += (end - start) * all(inside)
        either += (end - start) * any(inside)
    return both / either if either else float(not truth and not answer)
