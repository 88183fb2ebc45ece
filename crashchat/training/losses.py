"""Loss curves of a training run."""

from pathlib import Path

from crashchat.files import write_bytes_atomic
from crashchat.pictures import as_png, panels_in_a_row


def losses_png(log_history: list[dict]) -> bytes:
    """Training and validation loss over optimizer steps as a PNG; of reinforcement, the reward.

    log_history: Trainer's, records with step and loss or reward.
    """
    measures = [("loss", "loss (nats per answer token)")]
    if any("eval_reward" in record for record in log_history):
        measures = [("reward", "reward of drawn answers")]
    figure, panels = panels_in_a_row(6.4, 3.6)
    for axes, (measure, what) in zip(panels, measures, strict=True):
        for key, label, style in ((measure, "training", "-"), (f"eval_{measure}", "validation", "o-")):
            points = [(record["step"], record[key]) for record in log_history if key in record]
            if points:
                axes.plot(*zip(*points, strict=True), style, label=label, linewidth=1.2, markersize=4)
        axes.set(xlabel="step", ylabel=what)
        axes.grid(alpha=0.3)
        axes.legend()
    return as_png(figure)


def plot_losses(log_history: list[dict], path: str | Path) -> None:
    """Draw the loss curves (see losses_png) into a file."""
    write_bytes_atomic(path, losses_png(log_history))
