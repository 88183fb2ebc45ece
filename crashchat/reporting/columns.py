"""Which figures of a task are shown, what they are called, and which way is better."""

from crashchat.metrics.sums import is_count

_TEXT = (
    ("BLEU", "BLEU"),
    ("rougeL_f", "ROUGE-L"),
    ("BERTScore", "BERTScore"),
    ("facts_f1", "facts F1"),
    ("semantic", "semantic"),
)
_TIMES = tuple((name, name) for name in ("mIoU", "AP@30", "AP@50", "AP@70"))
# The columns of the paper's tables, and what tells of a text's content: {task: ((metric, its heading), …)}.
HEADLINES = {
    "crash_recognition": (
        ("macro_precision", "macro P"),
        ("macro_recall", "macro R"),
        ("macro_f1", "macro F1"),
    ),
    "crash_description": _TEXT,
    "causal_reasoning": (*_TEXT, ("closed_set_accuracy", "closed set")),
    "prevention_reasoning": _TEXT,
    "crash_localization": _TIMES,
    "pre_crash_localization": _TIMES,
}
TITLES = {
    "crash_recognition": "recognition",
    "crash_description": "description",
    "causal_reasoning": "causes",
    "prevention_reasoning": "prevention",
    "crash_localization": "crash interval",
    "pre_crash_localization": "first sign",
}
# What one number a task is broken down and compared by.
MAIN = {
    "crash_recognition": ("Accuracy", "accuracy"),
    "crash_description": ("rougeL_f", "ROUGE-L"),
    "causal_reasoning": ("rougeL_f", "ROUGE-L"),
    "prevention_reasoning": ("rougeL_f", "ROUGE-L"),
    "crash_localization": ("mIoU", "mIoU"),
    "pre_crash_localization": ("mIoU", "mIoU"),
}
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
    "judged_",
)
LOWER = ("calibration_error", "start_MAE", "end_MAE", "TTA_MAE")


def best_rows(values: dict[str, float | int | None], metric: str) -> set[str]:
    """Which of {row: value} are best; none where all are alike or the metric has no better and worse."""
    known = {name: value for name, value in values.items() if value is not None}
    if is_count(metric) or not metric.startswith(HIGHER + LOWER) or len(set(known.values())) < 2:
        return set()
    best = (max if metric.startswith(HIGHER) else min)(known.values())
    return {name for name, value in known.items() if value == best}
