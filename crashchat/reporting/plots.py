"""Pictures of a comparison: how answers about times differ from the annotations,
how far recognition can be trusted.
"""

import numpy as np

from crashchat.data.predictions import Records
from crashchat.data.record_faults import is_number
from crashchat.metrics.probability import curve, judged, reliability
from crashchat.metrics.sums import Sums
from crashchat.pictures import as_png, panels_in_a_row
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed
from crashchat.tasks.task import CRASH, CRASH_INTERVAL


def _times() -> list[tuple[str, str, str, str]]:
    """What is predicted of times: (task, what, annotated field, predicted field)."""
    found = []
    for name in TASKS.task_set.of_kind(Timed):
        task = TASKS[name]
        called = "crash" if task.fact == CRASH_INTERVAL else task.title
        for field, truth, answer in zip(task.fields, task.gt_fields, task.pred_fields, strict=True):
            found.append((name, f"{called} {field}" if len(task.fields) > 1 else called, truth, answer))
    return found


def _style(number: int, dashed: bool) -> dict:
    """The line of a row: the same colour in every picture."""
    return {
        "color": f"C{number % 10}",
        "linestyle": "--" if dashed else "-",
        "linewidth": 1.1 if dashed else 1.6,
    }


def thresholds_png(sums: dict[str, dict[str, Sums]], dashed: set[str]) -> bytes | None:
    """The share of questions that reach each threshold of the score, a panel a task whose answers overlap
    with the truth; None where none was asked.

    sums: {row: {task: sums}}; every question counts. dashed: rows drawn so, the blind baselines.
    """
    tasks = [
        task
        for task in TASKS.task_set.of_kind(Timed)
        if any(task in row and row[task].videos and "AP@50" in row[task].columns for row in sums.values())
    ]
    if not tasks:
        return None
    figure, panels = panels_in_a_row(5.2 * len(tasks), 3.8, len(tasks), share_y=True)
    thresholds = np.linspace(0, 1, 101)
    for task, axes in zip(tasks, panels, strict=True):
        for number, (name, row) in enumerate(sums.items()):
            if task in row and row[task].videos:
                scores = row[task].columns["score"]
                # A threshold of 0 is reached by any overlap at all, else every question would reach it.
                shares = [
                    (scores >= threshold).mean() if threshold else (scores > 0).mean()
                    for threshold in thresholds
                ]
                axes.plot(thresholds, shares, label=name, **_style(number, name in dashed))
        axes.set(title=TASKS[task].title, xlabel="threshold of the score (IoU)", xlim=(0, 1), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of questions that reach it")
    panels[-1].legend(fontsize=8)
    return as_png(figure)


def time_errors_png(records: Records, dashed: set[str]) -> bytes | None:
    """How predicted times lie around the annotated ones, as cumulative shares of all questions;
    None where no time was asked.

    An answer without a time never comes, so its curve ends below 1.
    """
    times = [time for time in _times() if any(time[0] in row for row in records.values())]
    if not times:
        return None
    figure, panels = panels_in_a_row(3.9 * len(times), 3.8, len(times), share_y=True)
    for (task, what, truth, answer), axes in zip(times, panels, strict=True):
        far = [2.0]
        for number, (name, row) in enumerate(records.items()):
            asked = [record for record in row.get(task, []) if is_number(record[truth])]
            errors = sorted(record[answer] - record[truth] for record in asked if is_number(record[answer]))
            if errors:
                shares = np.arange(1, len(errors) + 1) / len(asked)
                axes.step(errors, shares, where="post", label=name, **_style(number, name in dashed))
                far.append(float(np.quantile(np.abs(errors), 0.9)))
        axes.axvline(0, color="black", linewidth=0.8)
        # One answer that is far off must not squeeze all others.
        axes.set(title=what, xlabel="predicted − annotated (s)", xlim=(-max(far), max(far)), ylim=(0, 1.02))
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("share of questions")
    if panels[-1].get_legend_handles_labels()[0]:
        panels[-1].legend(fontsize=8)
    return as_png(figure)


def probabilities_png(records: Records) -> bytes | None:
    """Recognition's ROC curves, and how often its probabilities come true;
    None where no record carries one.
    """
    task = TASKS.of_fact(CRASH)
    if task is None:
        return None
    judgements = {name: judged(row.get(task.name, []), task.gt_fields[0]) for name, row in records.items()}
    if not any(len(truth) for truth, _ in judgements.values()):
        return None
    figure, (roc, calibration) = panels_in_a_row(9.2, 3.8, 2)
    for number, (name, (truth, probability)) in enumerate(judgements.items()):
        if truth.any() and not truth.all():
            false, true, _ = curve(truth, probability)
            roc.plot(false, true, label=name, **_style(number, dashed=False))
        if len(truth):
            mean, share, _ = reliability(truth, probability)
            calibration.plot(
                mean, share, marker="o", markersize=4, label=name, **_style(number, dashed=False)
            )
    roc.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC")
    calibration.set(
        xlabel="predicted probability of a crash", ylabel="share that are crashes", title="calibration"
    )
    for axes in (roc, calibration):
        axes.plot([0, 1], [0, 1], color="black", linewidth=0.6, linestyle=":")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        axes.grid(alpha=0.3)
    calibration.legend(fontsize=8)
    return as_png(figure)
