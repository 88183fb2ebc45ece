"""What a first pass over recordings (`crashchat analyze --skip-below P`) would lose on annotated clips."""

import argparse

from crashchat.data.predictions import PredictionError
from crashchat.metrics.bootstrap import wilson
from crashchat.metrics.probability import judged


def thresholds(words: str) -> list[float]:
    """Probabilities with commas between them. Raises ArgumentTypeError for other words."""
    try:
        found = [float(word) for word in words.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < one < 1 for one in found):
        raise argparse.ArgumentTypeError(f"found {words!r}, expected probabilities as 0.01,0.05")
    return found


def skip_scores(records: list[dict], below: list[float], truth_field: str) -> dict[str, dict]:
    """{threshold: what it does}: crashes, of which `lost` were less likely; recall, the share that was not,
    with its 95% interval; others, and the share of them that is passed over.

    Raises PredictionError where no record says how likely a crash is.
    """
    truth, probability = judged(records, truth_field)
    if not len(truth):
        raise PredictionError(
            "no record has a crash_probability, so that no threshold can be held against it"
        )
    found = {}
    for threshold in below:
        passed = probability < threshold
        crashes, lost = int(truth.sum()), int((passed & truth).sum())
        recall = (crashes - lost) / crashes if crashes else None
        found[f"{threshold:g}"] = {
            "crashes": crashes,
            "lost": lost,
            "recall": recall,
            "recall_interval": None if recall is None else list(wilson(recall, crashes)),
            "others": int((~truth).sum()),
            "passed_over": float(passed[~truth].mean()) if not truth.all() else None,
        }
    return found


def skip_table(scores: dict[str, dict]) -> str:
    """The same as a terminal table."""
    lines = ["skip below  crashes lost        recall  95% interval     others passed over"]
    for threshold, row in scores.items():
        recall, interval, share = row["recall"], row["recall_interval"], row["passed_over"]
        lines.append(
            f"{threshold:>10}  {row['lost']:>5} of {row['crashes']:<5}  {_four(recall):>8}  "
            f"{'' if interval is None else f'{interval[0]:.4f} – {interval[1]:.4f}':15}  {_four(share)}"
        )
    return "\n".join(lines)


def _four(value: float | None) -> str:
    return "—" if value is None else f"{value:.4f}"
