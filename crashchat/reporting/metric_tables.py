"""Every metric of every row, a page's last section: all that `scores` computes, one table a task."""

from dataclasses import dataclass

from crashchat.evaluation.score_tables import parsed_note
from crashchat.metrics.localization import PARSED_ONLY
from crashchat.metrics.sums import format_value, is_count
from crashchat.reporting.columns import HIGHER, LOWER, best_rows
from crashchat.reporting.tables import Cell, Scores
from crashchat.tasks import TASKS


@dataclass
class MetricTable:
    """One task's figures.

    rows: the names of its columns. sections: (title, [(metric, a cell a row)]) each.
    """

    task: str
    rows: list[str]
    sections: list[tuple[str, list[tuple[str, list[Cell]]]]]


def metric_tables(scored: Scores) -> list[MetricTable]:
    """A table for each task that some row was asked: what every question counts,
    what only parses counts, the counts.
    """
    tables = []
    for task in TASKS:
        rows = {name: row[task] for name, row in scored.items() if task in row}
        if not rows:
            continue
        first = next(iter(rows.values()))
        plain = [name for name, value in first.items() if not isinstance(value, dict) and not is_count(name)]
        counts = [name for name in first if is_count(name)]
        released = {name: row["released"] for name, row in rows.items()}
        sections = [
            ("strict: every question counts", [(metric, _cells(metric, rows)) for metric in plain]),
            ("released: only what parses counts", [(metric, _cells(metric, released)) for metric in plain]),
            ("counts", [(metric, _cells(metric, rows)) for metric in counts]),
        ]
        tables.append(MetricTable(task, list(rows), sections))
    return tables


def _cells(metric: str, rows: dict[str, dict]) -> list[Cell]:
    best = best_rows({name: row[metric] for name, row in rows.items()}, metric)
    if metric in PARSED_ONLY and len({row["num_scored"] for row in rows.values()}) > 1:
        best = set()  # of different questions
    cells = []
    for name, row in rows.items():
        # Of a count, an interval would say nothing.
        low, high = (
            row.get("intervals", {}).get(metric, (None, None))
            if metric.startswith(HIGHER + LOWER)
            else (None, None)
        )
        text = format_value(row[metric])
        if metric in PARSED_ONLY and row[metric] is not None:
            text += f", {parsed_note(row)}"
        spread = row.get("spread", {}).get(metric)
        cells.append(Cell(text, row[metric], low=low, high=high, best=name in best, spread=spread))
    return cells
