"""Comparison tables: which figures of which rows stand where, whatever they are then printed on."""

import json
from dataclasses import dataclass, field
from importlib.resources import files

from crashchat.metrics.blind import BLIND
from crashchat.metrics.bootstrap import Difference
from crashchat.metrics.sums import Sums, format_value
from crashchat.reporting.columns import HEADLINES, MAIN, TITLES, best_rows
from crashchat.tasks import GROUPS, TASKS

# The published figures' names and ours; the paper does not say which ROUGE it gives.
_PUBLISHED = {
    "macro_precision": "macro_precision",
    "macro_recall": "macro_recall",
    "macro_f1": "macro_f1",
    "bleu": "BLEU",
    "rouge": "rougeL_f",
    "bertscore": "BERTScore",
    "miou": "mIoU",
    "ap30": "AP@30",
    "ap50": "AP@50",
    "ap70": "AP@70",
}

# Answers that do not parse and videos that failed, which the strict figures count as wrong.
UNUSABLE = "num_unparsed + num_failed"

Scores = dict[str, dict[str, dict]]  # {row: {task: {metric: value}}}


@dataclass
class Cell:
    """One figure.

    text: as shown; low, high: its 95% interval; p: of a difference; best: of its column, or a p below 0.05.
    """

    text: str
    value: float | int | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False
    p: float | None = None

    @property
    def interval(self) -> str:
        return interval_text(self.low, self.high)

    @property
    def behind(self) -> str:
        """What stands behind the figure in a line of text."""
        parts = [f"[{self.interval}]"] if self.interval else []
        return " ".join(parts if self.p is None else [*parts, f"p {self.p:.3f}"])


@dataclass
class Row:
    """A line of a table. kind: model, blind or published."""

    name: str
    kind: str
    cells: list[Cell]


@dataclass
class Table:
    """columns: (group heading, column heading, task, metric) each."""

    title: str
    columns: list[tuple[str, str, str, str]]
    rows: list[Row] = field(default_factory=list)

    @property
    def groups(self) -> list[tuple[str, int]]:
        """(group heading, number of its columns), in order."""
        counts: dict[str, int] = {}
        for group, *_ in self.columns:
            counts[group] = counts.get(group, 0) + 1
        return list(counts.items())


def interval_text(low: float | None, high: float | None) -> str:
    """An interval as text, '' for none."""
    if low is None or high is None:
        return ""
    return f"{low:.3f}{'–' if low >= 0 else ' to '}{high:.3f}"


def kind_of(row: str) -> str:
    return "blind" if row in BLIND else "model"


def _unusable(metrics: dict) -> int:
    return metrics["num_unparsed"] + metrics["num_failed"]


def _filled(table: Table, scores: Scores) -> Table:
    """The table with a line for each row of `scores` that was asked anything in it,
    the best of each column marked.
    """
    best = [
        best_rows({name: row[task].get(metric) for name, row in scores.items() if task in row}, metric)
        for *_, task, metric in table.columns
    ]
    for name, row in scores.items():
        if not any(task in row for *_, task, _ in table.columns):
            continue
        cells = []
        for (*_, task, metric), winners in zip(table.columns, best, strict=True):
            if task not in row:
                cells.append(Cell("—"))
                continue
            value = _unusable(row[task]) if metric == UNUSABLE else row[task].get(metric)
            low, high = row[task].get("intervals", {}).get(metric, (None, None))
            cells.append(
                Cell(text=format_value(value), value=value, low=low, high=high, best=name in winners)
            )
        table.rows.append(Row(name, kind_of(name), cells))
    return table


def _headlines(scores: Scores, tasks: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    """The columns of `tasks`; a figure that no row has (BERTScore without a model) gets none."""
    return [
        (TITLES[task], label, task, metric)
        for task in tasks
        for metric, label in HEADLINES[task]
        if any(row.get(task, {}).get(metric) is not None for row in scores.values())
    ]


def strategy_tables(scores: Scores) -> list[Table]:
    """The paper's first two tables: linguistic and perception tasks, a line a row,
    with what had no usable answer.
    """
    tables = []
    for group, tasks in GROUPS.items():
        columns = []
        for task in tasks:
            headlines = _headlines(scores, (task,))
            if headlines:
                columns += [*headlines, (TITLES[task], "unusable", task, UNUSABLE)]
        if columns:
            tables.append(_filled(Table(f"{group} tasks", columns), scores))
    return tables


def read_published() -> dict:
    """The paper's results (arXiv 2512.18878): {"results": {model: {task: {name: value}}},
    "source": …, "read_off_a_plot": …}.
    """
    return json.loads(
        files("crashchat.reporting").joinpath("published_results.json").read_text(encoding="utf-8")
    )


def published_tables(scores: Scores) -> list[Table]:
    """The models' figures in the released scripts' terms beside the published ones,
    which were made with those.
    """
    published = read_published()
    theirs: Scores = {
        model: {
            task: {_PUBLISHED[name]: float(value) for name, value in row.items()}
            for task, row in tasks.items()
        }
        for model, tasks in published["results"].items()
    }
    ours = {
        name: {task: metrics["released"] for task, metrics in row.items()}
        for name, row in scores.items()
        if kind_of(name) == "model"
    }
    tables = []
    for group, tasks in GROUPS.items():
        if not any(task in row for row in ours.values() for task in tasks):
            continue
        # A model called as one of theirs must not hide it.
        both = {f"{name} (published)": row for name, row in theirs.items()} | ours
        table = _filled(Table(f"{group} tasks beside the published figures", _headlines(theirs, tasks)), both)
        for row in table.rows:
            if row.name not in ours:
                row.kind = "published"
        tables.append(table)
    return tables


def breakdown_tables(
    sums: dict[str, dict[str, Sums]], groups: dict[str, str], title: str, limit: int = 8
) -> list[Table]:
    """A table a task: a line a row, a column a group of videos with MAIN's figure over it.

    sums: {row: {task: sums}}; groups: {video: its group}. The most frequent groups, the others as one.
    """
    tables = []
    for task in TASKS:
        asked = {name: row[task] for name, row in sums.items() if task in row}
        videos = next(iter(asked.values())).videos if asked else []
        counts: dict[str, int] = {}
        for video in videos:
            counts[groups.get(video, "?")] = counts.get(groups.get(video, "?"), 0) + 1
        ranked = sorted(counts, key=lambda group: (-counts[group], group))
        kept = ranked if len(ranked) <= limit else ranked[: limit - 1]
        named = {group: group if group in kept else "others" for group in ranked}
        columns = list(dict.fromkeys(named[group] for group in ranked))
        if len(columns) < 2:
            continue
        metric, label = MAIN[task]
        sizes = {
            column: sum(counts[group] for group in ranked if named[group] == column) for column in columns
        }
        table = Table(
            f"{TITLES[task]} by {title}",
            [(label, f"{column.rstrip('.')} ({sizes[column]})", task, metric) for column in columns],
        )
        values = {
            name: [
                part.metrics()[metric]
                for part in (one.of([named[groups.get(v, "?")] == c for v in one.videos]) for c in columns)
            ]
            for name, one in asked.items()
        }
        best = [
            best_rows({name: row[at] for name, row in values.items()}, metric) for at in range(len(columns))
        ]
        for name, row in values.items():
            cells = [Cell(format_value(value), value, best=name in best[at]) for at, value in enumerate(row)]
            table.rows.append(Row(name, kind_of(name), cells))
        tables.append(table)
    return tables


def difference_tables(differences: dict[str, dict[str, dict[str, Difference]]], base: str) -> list[Table]:
    """{row: {task: {metric: its difference to the base}}} as the paper's two tables;
    a p-value below 0.05 is bold.
    """
    tables = []
    for group, tasks in GROUPS.items():
        columns = [
            (TITLES[task], label, task, metric)
            for task in tasks
            for metric, label in HEADLINES[task]
            if any(metric in row.get(task, {}) for row in differences.values())
        ]
        table = Table(f"{group} tasks, difference to {base}", columns)
        for name, row in differences.items():
            cells = []
            for *_, task, metric in columns:
                found = row.get(task, {}).get(metric)
                if found is None:
                    cells.append(Cell("—"))
                else:
                    significant = found.p < 0.05
                    cells.append(
                        Cell(
                            text=f"{found.value:+.3f}",
                            value=found.value,
                            low=found.low,
                            high=found.high,
                            best=significant,
                            p=found.p,
                        )
                    )
            if any(cell.value is not None for cell in cells):
                table.rows.append(Row(name, kind_of(name), cells))
        if table.rows:
            tables.append(table)
    return tables
