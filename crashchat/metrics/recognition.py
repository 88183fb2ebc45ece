"""Crash recognition: Yes or No."""

LABELS = ("Yes", "No")


def recognition(records: list[dict]) -> dict:
    """Scores of `gt_label` against `pred_label` (SPEC.md, Predictions and metrics).

    Plain keys: only records whose prediction is `Yes` or `No`; TP, TN, FP, FN, Accuracy, Precision, Recall and F1 with
    `Yes` positive, and macro_* as means over the two classes (the paper's table; its F1 is the mean of the two F1s).
    strict_*: an answer that is none counts as the wrong class.
    confusion: {truth: {answer: records}}, where answer is Yes, No, unparsed or failed.
    """
    confusion = {truth: dict.fromkeys((*LABELS, "unparsed", "failed"), 0) for truth in LABELS}
    no_truth = 0
    for record in records:
        truth, answer = record["gt_label"], record["pred_label"]
        if truth not in LABELS:
            no_truth += 1
        elif record.get("error") is not None:
            confusion[truth]["failed"] += 1
        else:
            confusion[truth][answer if answer in LABELS else "unparsed"] += 1

    yes, no = confusion["Yes"], confusion["No"]
    released = _scores(tp=yes["Yes"], fn=yes["No"], tn=no["No"], fp=no["Yes"])
    strict = _scores(tp=yes["Yes"], fn=sum(yes.values()) - yes["Yes"], tn=no["No"], fp=sum(no.values()) - no["No"])
    return {
        "num_records": len(records),
        "num_scored": released["N"],
        "num_unparsed": yes["unparsed"] + no["unparsed"],
        "num_failed": yes["failed"] + no["failed"],
        "num_no_truth": no_truth,
        **released,
        **{f"strict_{key}": value for key, value in strict.items()},
        "confusion": confusion,
    }


def _scores(tp: int, fn: int, tn: int, fp: int) -> dict:
    """Binary and macro scores of a 2x2 table; all None for an empty one. A ratio without denominator is 0."""
    counts = {"N": tp + fn + tn + fp, "TP": tp, "TN": tn, "FP": fp, "FN": fn}
    names = ("Accuracy", "Precision", "Recall", "F1", "macro_precision", "macro_recall", "macro_f1")
    if not counts["N"]:
        return counts | dict.fromkeys(names)
    positive, negative = _class_scores(tp, fp, fn), _class_scores(tn, fn, fp)
    macro = [(a + b) / 2 for a, b in zip(positive, negative, strict=True)]
    return counts | dict(zip(names, ((tp + tn) / counts["N"], *positive, *macro), strict=True))


def _class_scores(hits: int, false: int, missed: int) -> tuple[float, float, float]:
    """Precision, recall, F1 of one class."""
    precision = hits / (hits + false) if hits + false else 0.0
    recall = hits / (hits + missed) if hits + missed else 0.0
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return precision, recall, f1
