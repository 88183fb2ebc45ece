"""Which way figures are better."""

from crashchat.metrics.early_warning import FALSE_ALARMS
from crashchat.metrics.sums import is_count

# Which figures are scores, by the start of their names; of the errors the lowest is best, of all else nothing
# is.
HIGHER = (
    "ROC_AUC",
    "average_precision",
    "Accuracy",
    "Precision",
    "Recall",
    "F1",
    "macro_",
    "BLEU",
    "rouge",
    "METEOR",
    "CIDEr",
    "BERTScore",
    "exact_match",
    "semantic",
    "facts_",
    "closed_set",
    "mIoU",
    "AP@",
    "mAP",
    "right_time",
    "joint",
    "set_",
    "exact_set",
    "within_",
    "coverage_",
    "part",
    "all_right",
    "judged_",
)
LOWER = ("calibration_error", "start_MAE", "end_MAE", "TTA_MAE", "MAE", FALSE_ALARMS)


def best_rows(values: dict[str, float | int | None], metric: str) -> set[str]:
    """Which of {row: value} are best; none where all are alike or the metric has no better and worse."""
    known = {name: value for name, value in values.items() if value is not None}
    if is_count(metric) or not metric.startswith(HIGHER + LOWER) or len(set(known.values())) < 2:
        return set()
    best = (max if metric.startswith(HIGHER) else min)(known.values())
    return {name for name, value in known.items() if value == best}
