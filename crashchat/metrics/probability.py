"""How good recognition's probabilities are, whatever the answer at the threshold: ranking (ROC,
precision) and calibration.
"""

import numpy as np

from crashchat.data.record_faults import is_number

BINS = 10


def judged(records: list[dict], truth_field: str = "gt_label") -> tuple[np.ndarray, np.ndarray]:
    """(bool[P] whether there is a crash, float64[P] its predicted probability)
    of the records that carry one.
    """
    known = [r for r in records if r[truth_field] in ("Yes", "No") and is_number(r.get("crash_probability"))]
    return np.array([r[truth_field] == "Yes" for r in known], dtype=bool), np.array(
        [r["crash_probability"] for r in known], float
    )


def probability_scores(records: list[dict], truth_field: str = "gt_label") -> dict[str, float | None]:
    """ROC_AUC, average_precision, calibration_error; None without probabilities,
    the first two without both classes.

    calibration_error: mean distance between the probability and how often it comes true, over BINS bins,
    weighted by their size.
    """
    truth, probability = judged(records, truth_field)
    figures: dict[str, float | None] = dict.fromkeys(("ROC_AUC", "average_precision", "calibration_error"))
    if len(truth):
        mean, share, size = reliability(truth, probability)
        figures["calibration_error"] = float((np.abs(mean - share) * size).sum() / size.sum())
    if truth.any() and not truth.all():
        false, true, precision = curve(truth, probability)
        figures["ROC_AUC"] = float(np.trapezoid(true, false))
        figures["average_precision"] = float((np.diff(true) * precision[1:]).sum())
    return figures


def curve(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(false positive rate, true positive rate, precision), float64[thresholds + 1],
    from the strictest threshold on.
    """
    order = np.argsort(-probability, kind="stable")
    last_of_equals = np.append(np.diff(probability[order]) != 0, True)
    hits = np.cumsum(truth[order])[last_of_equals]
    taken = (np.arange(len(truth)) + 1)[last_of_equals]
    rates = [(taken - hits) / max((~truth).sum(), 1), hits / max(truth.sum(), 1), hits / taken]
    false, true, precision = (
        np.concatenate([[start], rate]) for start, rate in zip((0.0, 0.0, 1.0), rates, strict=True)
    )
    return false, true, precision


def reliability(truth: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(mean probability, share that came true, how many) of each bin that holds any, float64[bins]."""
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    size = np.bincount(which, minlength=BINS).astype(float)
    held = size > 0
    mean = np.bincount(which, probability, BINS)[held] / size[held]
    share = np.bincount(which, truth, BINS)[held] / size[held]
    return mean, share, size[held]
