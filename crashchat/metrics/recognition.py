"""Yes or No."""

import numpy as np

from crashchat.data.predictions import clip_name
from crashchat.metrics.probability import probability_scores
from crashchat.metrics.sums import Sums, Totals, ratio, sums

LABELS = ("Yes", "No")
_CELLS = {
    ("Yes", True): "TP",
    ("Yes", False): "FN",
    ("No", True): "TN",
    ("No", False): "FP",
}  # (truth, right)
_CRASHES, _CALM, _CALLED = ("TP", "FN"), ("TN", "FP"), ("TP", "FP")
_SHARES = ("Accuracy", "Precision", "Recall")
_COUNTED = {
    "Accuracy": (("N",),),
    "Precision": (_CALLED,),
    "Recall": (_CRASHES,),
    "F1": (_CRASHES,),
    **dict.fromkeys(("macro_precision", "macro_recall", "macro_f1"), (_CRASHES, _CALM)),
}


def recognition_sums(
    records: list[dict], truth_field: str = "gt_label", answer_field: str = "pred_label"
) -> Sums:
    """The labels in `answer_field` against those in `truth_field` (docs/reference.md, Metrics).

    TP, TN, FP, FN, Accuracy, Precision, Recall, F1 with `Yes` positive; macro_*: means over the two classes
    (the paper's table; its F1 is the mean of the two F1s); macro_recall is the balanced accuracy. Without an
    answer the question counts for the wrong class.
    confusion: {truth: {answer: records}}, where answer is Yes, No, unparsed or failed.
    ROC_AUC, average_precision, calibration_error: see probability.py; of the records with a
    crash_probability.
    """
    confusion = {truth: dict.fromkeys((*LABELS, "unparsed", "failed"), 0) for truth in LABELS}
    questions = []
    for record in records:
        truth, answer = record[truth_field], record[answer_field]
        if truth not in LABELS:
            continue
        answered = record.get("error") is None and answer in LABELS
        confusion[truth][
            answer if answered else "failed" if record.get("error") is not None else "unparsed"
        ] += 1
        cells = dict.fromkeys(_CELLS.values(), 0) | {_CELLS[truth, answered and answer == truth]: 1}
        questions.append({"video": clip_name(record["video_path"]), "answered": answered, "N": 1, **cells})
    yes, no = confusion["Yes"], confusion["No"]
    counts = {
        "num_records": len(records),
        "num_unparsed": yes["unparsed"] + no["unparsed"],
        "num_failed": yes["failed"] + no["failed"],
        "num_no_truth": len(records) - len(questions),
        "confusion": confusion,
        **probability_scores(records, truth_field),
    }
    tallies = ("N", *_CELLS.values())
    return sums(questions, _figures, counts, counted=_COUNTED, shares=_SHARES, tallies=tallies, empty=tallies)


def _figures(totals: Totals) -> dict[str, np.ndarray]:
    tp, fn, tn, fp = (totals[name] for name in _CELLS.values())
    positive, negative = _class_scores(tp, fp, fn), _class_scores(tn, fn, fp)
    scores = {
        "Accuracy": ratio(tp + tn, totals["N"]),
        **dict(zip(("Precision", "Recall", "F1"), positive, strict=True)),
        **{
            f"macro_{name}": (positive[at] + negative[at]) / 2
            for at, name in enumerate(("precision", "recall", "f1"))
        },
    }
    return {name: np.where(totals["N"] > 0, score, np.nan) for name, score in scores.items()}


def _class_scores(hits: np.ndarray, false: np.ndarray, missed: np.ndarray) -> tuple[np.ndarray, ...]:
    """Precision, recall, F1 of one class; 0 where there is nothing to divide by."""
    precision, recall = ratio(hits, hits + false, empty=0.0), ratio(hits, hits + missed, empty=0.0)
    return precision, recall, ratio(2 * precision * recall, precision + recall, empty=0.0)
