"""Loss curves of a training run."""

from pathlib import Path

from crashchat.files import write_bytes_atomic
from crashchat.pictures import as_png, panels_in_a_row


def losses_png(log_history: list[dict]) -> bytes:
    """Training and validation loss over optimizer steps as a PNG.

    log_history: Trainer's, records with step and loss.
    """
    figure, (axes,) = panels_in_a_row(6.4, 3.6)
    for key, label, style in (("loss", "training", "-"), ("eval_loss", "validation", "o-")):
        points = [(record["step"], record[key]) for record in log_history if key in record]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)
    axes.set(xlabel="step", ylabel="loss (nats per answer token)")
    axes.grid(alpha=0.3)
    axes.legend()
    return as_png(figure)


def plot_losses(log_history: list[dict], path: str | Path) -> None:
    """Draw the loss curves (see losses_png) into a file."""
    write_bytes_atomic(path, losses_png(log_history))
