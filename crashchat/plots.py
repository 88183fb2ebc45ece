"""Pictures: the loss curves of a training run."""

import io
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from crashchat.files import write_bytes_atomic


def plot_losses(log_history: list[dict], path: str | Path) -> None:
    """Draw training and validation loss over optimizer steps as a PNG. log_history: Trainer's, records with step and loss."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(record["step"], record[key]) for record in log_history if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)
    axes.set(xlabel="step", ylabel="loss (nats per answer token)")
    axes.grid(alpha=0.3)
    axes.legend()
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    plt.close(figure)
    write_bytes_atomic(path, picture.getvalue())
