"""When: the crash's interval, and the first sign before it. All times in seconds from the clip's start."""

from pathlib import PurePosixPath

from crashchat.predictions import is_number

THRESHOLDS = {"AP@30": 0.3, "AP@50": 0.5, "AP@70": 0.7}
EARLY_BY = 0.5  # seconds before the annotated first sign within which an answer is still wholly right


def interval_iou(truth: tuple[float, float], answer: tuple[float, float]) -> float:
    """Overlap of two intervals over the span of both; swapped ends are put right, an empty span gives 0."""
    (truth_start, truth_end), (start, end) = sorted(truth), sorted(answer)
    overlap = max(0.0, min(truth_end, end) - max(truth_start, start))
    # Where they overlap the span is the union; where they don't, the overlap is 0 anyway. (Lengths minus overlap is the
    # same number but for rounding, and rounding decides on which side of a threshold 0.3 / 1.0 falls.)
    span = max(truth_end, end) - min(truth_start, start)
    return overlap / span if span > 0 else 0.0


def crash_localization(records: list[dict]) -> dict:
    """Scores of gt_start, gt_end against pred_start, pred_end (SPEC.md, Predictions and metrics).

    Plain keys: only records with two predicted times. mIoU; AP@X: share with IoU >= X %; start_MAE, end_MAE: seconds.
    strict_*: no answer has IoU 0 (errors in seconds have no strict form).
    num_swapped: answers whose end lies before their start; num_empty_truth: annotations of no length, which nothing
    can overlap.
    """
    counts = {"num_unparsed": 0, "num_failed": 0, "num_no_truth": 0, "num_swapped": 0, "num_empty_truth": 0}
    ious, missing, start_errors, end_errors = [], 0, [], []
    for record in records:
        truth = (record["gt_start"], record["gt_end"])
        answer = (record["pred_start"], record["pred_end"])
        if not all(map(is_number, truth)):
            counts["num_no_truth"] += 1
            continue
        counts["num_empty_truth"] += truth[0] == truth[1]
        if record.get("error") is not None:
            counts["num_failed"] += 1
            missing += 1
        elif not all(map(is_number, answer)):
            counts["num_unparsed"] += 1
            missing += 1
        else:
            counts["num_swapped"] += answer[0] > answer[1]
            ious.append(interval_iou(truth, answer))
            start_errors.append(abs(min(truth) - min(answer)))
            end_errors.append(abs(max(truth) - max(answer)))
    return {
        "num_records": len(records),
        "num_scored": len(ious),
        **counts,
        **_iou_scores(ious),
        "start_MAE": _mean(start_errors),
        "end_MAE": _mean(end_errors),
        **{f"strict_{key}": value for key, value in _iou_scores(ious + [0.0] * missing).items()},
    }


def video_name(path: str) -> str:
    """What joins `data/videos/x.mp4` of a prediction and `videos/x.mp4` of an annotation: the file's name."""
    return PurePosixPath(path.replace("\\", "/")).name


def first_sign_score(crash_start: float, truth: float, answer: float) -> float:
    """How right a predicted first sign is: 0 too late or too early, 1 just before the truth, else a ratio of TTAs."""
    if answer >= crash_start or answer < truth - EARLY_BY:
        return 0.0
    if answer <= truth:
        return 1.0
    true_tta, tta = crash_start - truth, crash_start - answer
    return min(true_tta, tta) / max(true_tta, tta)


def pre_crash_localization(records: list[dict], crash_starts: dict[str, float] | None = None) -> dict:
    """Scores of gt_time against pred_time by time to accident, TTA = crash start - time (SPEC.md, same section).

    crash_starts: {video file name: annotated crash start}, for records that carry no `crash_start` of their own.
    Plain keys: only records with a predicted time. mIoU and AP@X of first_sign_score; mTTA_gt, mTTA_pred (clipped at 0)
    and TTA_MAE in seconds; late_pred_count (at or after the crash), too_early_pred_count.
    strict_*: no answer scores 0 and warns 0 s ahead.
    Left out of both, and counted: missing_video_count (crash start unknown), bad_gt_tta_count (TTA_gt <= 0).
    """
    counts = {"num_unparsed": 0, "num_failed": 0, "num_no_truth": 0, "missing_video_count": 0, "bad_gt_tta_count": 0}
    late = too_early = 0
    scored, unanswered = [], []  # (score, TTA_gt, TTA_pred)
    for record in records:
        truth, answer = record["gt_time"], record["pred_time"]
        crash_start = record.get("crash_start")
        if crash_start is None and crash_starts is not None:
            crash_start = crash_starts.get(video_name(record["video_path"]))
        if not is_number(truth):
            counts["num_no_truth"] += 1
        elif not is_number(crash_start):
            counts["missing_video_count"] += 1
        elif crash_start - truth <= 0:
            counts["bad_gt_tta_count"] += 1
        elif record.get("error") is not None or not is_number(answer):
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
            unanswered.append((0.0, crash_start - truth, 0.0))
        else:
            late += answer >= crash_start
            too_early += answer < crash_start and answer < truth - EARLY_BY
            score = first_sign_score(crash_start, truth, answer)
            scored.append((score, crash_start - truth, max(crash_start - answer, 0.0)))
    return {
        "num_records": len(records),
        "num_scored": len(scored),
        "Num_samples": float(len(scored)),
        **counts,
        "late_pred_count": late,
        "too_early_pred_count": too_early,
        **_tta_scores(scored),
        **{f"strict_{key}": value for key, value in _tta_scores(scored + unanswered).items()},
    }


def _tta_scores(triples: list[tuple[float, float, float]]) -> dict:
    return {
        **_iou_scores([score for score, _, _ in triples]),
        "mTTA_gt": _mean([truth for _, truth, _ in triples]),
        "mTTA_pred": _mean([answer for _, _, answer in triples]),
        "TTA_MAE": _mean([abs(truth - answer) for _, truth, answer in triples]),
    }


def _iou_scores(scores: list[float]) -> dict:
    shares = {name: _mean([float(score >= threshold) for score in scores]) for name, threshold in THRESHOLDS.items()}
    return {"mIoU": _mean(scores), **shares}


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
