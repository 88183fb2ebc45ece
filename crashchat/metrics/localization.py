"""When: the crash's interval, and the first sign before it. All times in seconds from the clip's start."""

import numpy as np

from crashchat.data.predictions import clip_name
from crashchat.data.record_faults import is_number
from crashchat.metrics.sums import Counted, Sums, Totals, ratio, sums

THRESHOLDS = {"AP@30": 0.3, "AP@50": 0.5, "AP@70": 0.7}
_COUNTED: Counted = dict.fromkeys(("mIoU", *THRESHOLDS), (("n",),))
EARLY_BY = 0.5  # seconds before the annotated first sign within which an answer is still wholly right


def interval_iou(truth: tuple[float, float], answer: tuple[float, float]) -> float:
    """Overlap of two intervals over the span of both; swapped ends are put right, an empty span gives 0."""
    (truth_start, truth_end), (start, end) = sorted(truth), sorted(answer)
    overlap = max(0.0, min(truth_end, end) - max(truth_start, start))
    # Where they overlap the span is the union; where they don't, the overlap is 0 anyway. (Lengths minus
    # overlap is the same number but for rounding, and rounding decides on which side of a threshold 0.3 / 1.0
    # falls.)
    span = max(truth_end, end) - min(truth_start, start)
    return overlap / span if span > 0 else 0.0


def first_sign_score(crash_start: float, truth: float, answer: float) -> float:
    """How right a predicted first sign is: 0 too late or too early, 1 just before the truth,
    else a ratio of TTAs.
    """
    if answer >= crash_start or answer < truth - EARLY_BY:
        return 0.0
    if answer <= truth:
        return 1.0
    true_tta, tta = crash_start - truth, crash_start - answer
    return min(true_tta, tta) / max(true_tta, tta)


def interval_sums(records: list[dict]) -> Sums:
    """gt_start, gt_end against pred_start, pred_end (docs/reference.md, Metrics).

    mIoU; AP@X: share with IoU >= X %. No answer has IoU 0. start_MAE, end_MAE: seconds, over the answers that
    there are.
    num_swapped: answers whose end lies before their start; num_empty_truth: annotations of no length, which
    nothing can overlap.
    """
    counts = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    counts |= {"num_swapped": 0, "num_empty_truth": 0}
    questions = []
    for record in records:
        truth = (record["gt_start"], record["gt_end"])
        answer = (record["pred_start"], record["pred_end"])
        if not all(map(is_number, truth)):
            counts["num_no_truth"] += 1
            continue
        counts["num_empty_truth"] += truth[0] == truth[1]
        answered = record.get("error") is None and all(map(is_number, answer))
        if not answered:
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
            answer = truth  # no errors in seconds
        else:
            counts["num_swapped"] += answer[0] > answer[1]
        errors = {"start_error": abs(min(truth) - min(answer)), "end_error": abs(max(truth) - max(answer))}
        score = interval_iou(truth, answer) if answered else 0.0
        questions.append({"video": clip_name(record["video_path"]), **_scored(answered, score), **errors})
    return sums(
        questions,
        _interval_figures,
        counts,
        counted=_COUNTED,
        shares=tuple(THRESHOLDS),
        parsed_only=("start_MAE", "end_MAE"),
        empty=("n", "answers", "score", *THRESHOLDS, "start_error", "end_error"),
    )


def _interval_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {
        **_score_figures(totals),
        "start_MAE": ratio(totals["start_error"], totals["answers"]),
        "end_MAE": ratio(totals["end_error"], totals["answers"]),
    }


def time_left_sums(
    records: list[dict],
    truth_field: str = "gt_time",
    answer_field: str = "pred_time",
    crash_starts: dict[str, float] | None = None,
) -> Sums:
    """Moments before a crash by time to accident, TTA = crash start - time (docs/reference.md, Metrics).

    crash_starts: {video file name: annotated crash start}, for records that carry no `crash_start` of their
    own. mIoU and AP@X of first_sign_score; mTTA_gt, mTTA_pred (clipped at 0) and TTA_MAE in seconds. No
    answer scores 0 and warns 0 s ahead. late_pred_count: answers at or after the crash; too_early_pred_count:
    before EARLY_BY ahead of the truth.
    Left out, and counted: missing_video_count (crash start unknown), bad_gt_tta_count (TTA_gt <= 0).
    """
    counts = {"num_records": len(records), "num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    counts |= {"missing_video_count": 0, "bad_gt_tta_count": 0}
    questions = []
    for record in records:
        truth, answer = record[truth_field], record[answer_field]
        video = clip_name(record["video_path"])
        crash_start = record.get("crash_start")
        if crash_start is None and crash_starts is not None:
            crash_start = crash_starts.get(video)
        if not is_number(truth):
            counts["num_no_truth"] += 1
            continue
        if not is_number(crash_start):
            counts["missing_video_count"] += 1
            continue
        if crash_start - truth <= 0:
            counts["bad_gt_tta_count"] += 1
            continue
        answered = record.get("error") is None and is_number(answer)
        if not answered:
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
        true_tta = crash_start - truth
        tta = max(crash_start - answer, 0.0) if answered else 0.0
        questions.append(
            {
                "video": video,
                **_scored(answered, first_sign_score(crash_start, truth, answer) if answered else 0.0),
                "tta_gt": true_tta,
                "tta_pred": tta,
                "tta_error": abs(true_tta - tta),
                "late_pred_count": answered and answer >= crash_start,
                "too_early_pred_count": answered and answer < min(crash_start, truth - EARLY_BY),
            }
        )
    tallies = ("late_pred_count", "too_early_pred_count")
    empty = ("n", "answers", "score", *THRESHOLDS, "tta_gt", "tta_pred", "tta_error", *tallies)
    return sums(
        questions,
        _tta_figures,
        counts,
        counted=_COUNTED,
        shares=tuple(THRESHOLDS),
        tallies=tallies,
        empty=empty,
    )


def _tta_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {
        "Num_samples": totals["n"],
        **_score_figures(totals),
        "mTTA_gt": ratio(totals["tta_gt"], totals["n"]),
        "mTTA_pred": ratio(totals["tta_pred"], totals["n"]),
        "TTA_MAE": ratio(totals["tta_error"], totals["n"]),
    }


def _scored(answered: bool, score: float) -> dict:
    """The columns of a score between 0 and 1 and of the thresholds it reaches."""
    reached = {name: float(score >= threshold) for name, threshold in THRESHOLDS.items()}
    return {"answered": answered, "n": 1, "answers": answered, "score": score, **reached}


def _score_figures(totals: Totals) -> dict[str, np.ndarray]:
    return {
        "mIoU": ratio(totals["score"], totals["n"]),
        **{name: ratio(totals[name], totals["n"]) for name in THRESHOLDS},
    }
