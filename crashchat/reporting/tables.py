"""Comparison tables: which figures of which rows stand where, whatever they are then printed on."""

from dataclasses import dataclass, field

from crashchat.metrics.blind import BLIND
from crashchat.metrics.bootstrap import Difference, corrected
from crashchat.metrics.by_kind import shown
from crashchat.metrics.sums import Sums, format_value
from crashchat.reporting.columns import best_rows
from crashchat.tasks import TASKS

# Answers that do not parse and videos that failed, which the strict figures count as wrong.
UNUSABLE = "num_unparsed + num_failed"

DETECTABLE = "detectable (80% power)"

TOO_FEW = "too few"  # videos, for a figure

Scores = dict[str, dict[str, dict]]  # {row: {task: {metric: value}}}


@dataclass
class Cell:
    """One figure.

    text: as shown; low, high: its 95% interval; spread: the standard deviation over runs; difference: what a
    difference says of itself; best: of its column, or a corrected p below 0.05.
    """

    text: str
    value: float | int | None = None
    low: float | None = None
    high: float | None = None
    best: bool = False
    spread: float | None = None
    difference: Difference | None = None

    @property
    def interval(self) -> str:
        return interval_text(self.low, self.high)

    @property
    def behind(self) -> str:
        """What stands behind the figure in a line of text."""
        parts = [f"[{self.interval}]"] if self.interval else []
        return " ".join([*parts, *([self.aside] if self.aside else [])])

    @property
    def aside(self) -> str:
        """A difference's p-value; how far the runs of a row lie apart."""
        if self.difference is not None:
            return self.difference.p_text
        return "" if self.spread is None else f"± {self.spread:.3f}"


@dataclass
class Row:
    """A line of a table. kind: model, blind, published, or power (the smallest difference it can show)."""

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


def filled(table: Table, scores: Scores) -> Table:
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
            spread = row[task].get("spread", {}).get(metric)
            cells.append(
                Cell(format_value(value), value, low=low, high=high, best=name in winners, spread=spread)
            )
        table.rows.append(Row(name, kind_of(name), cells))
    return table


def headlines(scores: Scores, tasks: tuple[str, ...]) -> list[tuple[str, str, str, str]]:
    """The columns of `tasks`; a figure that no row has (BERTScore without a model) gets none."""
    return [
        (TASKS[task].title, label, task, metric)
        for task in tasks
        for metric, label in shown(TASKS[task]).headlines
        if any(row.get(task, {}).get(metric) is not None for row in scores.values())
    ]


def strategy_tables(scores: Scores) -> list[Table]:
    """The paper's first two tables: linguistic and perception tasks, a line a row,
    with what had no usable answer.
    """
    tables = []
    for group, tasks in TASKS.groups.items():
        columns = []
        for task in tasks:
            headed = headlines(scores, (task,))
            if headed:
                columns += [*headed, (TASKS[task].title, "unusable", task, UNUSABLE)]
        if columns:
            tables.append(filled(Table(f"{group} tasks", columns), scores))
    return tables


def breakdown_tables(
    sums: dict[str, dict[str, Sums]], groups: dict[str, str], title: str, limit: int = 8, fewest: int = 1
) -> list[Table]:
    """A table a task: a line a row, a column a group of videos with its main figure over it.

    sums: {row: {task: sums}}; groups: {video: its group}. The most frequent groups, the others as one. A
    group of fewer than `fewest` videos has no figure.
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
        metric, label = shown(TASKS[task]).main
        sizes = {
            column: sum(counts[group] for group in ranked if named[group] == column) for column in columns
        }
        table = Table(
            f"{TASKS[task].title} by {title}",
            [(label, f"{column.rstrip('.')} ({sizes[column]})", task, metric) for column in columns],
        )
        values = {
            name: [
                one.of([named[groups.get(v, "?")] == c for v in one.videos]).metrics()[metric]
                if sizes[c] >= fewest
                else None
                for c in columns
            ]
            for name, one in asked.items()
        }
        best = [
            best_rows({name: row[at] for name, row in values.items()}, metric) for at in range(len(columns))
        ]
        for name, row in values.items():
            cells = [
                Cell(
                    format_value(value) if sizes[column] >= fewest else TOO_FEW, value, best=name in best[at]
                )
                for at, (column, value) in enumerate(zip(columns, row, strict=True))
            ]
            table.rows.append(Row(name, kind_of(name), cells))
        tables.append(table)
    return tables


def difference_tables(differences: dict[str, dict[str, dict[str, Difference]]], base: str) -> list[Table]:
    """{row: {task: {metric: its difference to the base}}} as the paper's two tables.

    The p-values of all differences shown are one family, corrected by Holm; one below 0.05 is bold. The last
    row is the smallest true difference that the test set shows four times in five.
    """
    pairs = [
        (name, task, metric)
        for name, row in differences.items()
        for task in row
        for metric, _ in shown(TASKS[task]).headlines
        if metric in row[task]
    ]
    family = corrected([differences[name][task][metric] for name, task, metric in pairs])
    found = dict(zip(pairs, family, strict=True))
    tables = []
    for group, tasks in TASKS.groups.items():
        columns = [
            (TASKS[task].title, label, task, metric)
            for task in tasks
            for metric, label in shown(TASKS[task]).headlines
            if any((name, task, metric) in found for name in differences)
        ]
        table = Table(f"{group} tasks, difference to {base}", columns)
        for name in differences:
            cells = [_difference_cell(found.get((name, task, metric))) for *_, task, metric in columns]
            if any(cell.value is not None for cell in cells):
                table.rows.append(Row(name, kind_of(name), cells))
        if table.rows:
            table.rows.append(
                Row(DETECTABLE, "power", [_detectable(table.rows, at) for at in range(len(columns))])
            )
            tables.append(table)
    return tables


def family_size(tables: list[Table]) -> int:
    """How many differences were tested together."""
    return sum(cell.difference is not None for table in tables for row in table.rows for cell in row.cells)


def p_note(tables: list[Table]) -> str:
    """What the p-values of difference tables are."""
    return (
        f"p: two-sided, by paired bootstrap, corrected by Holm for the {family_size(tables)} differences "
        f"shown; ≤ where no resample went the other way. {DETECTABLE}: a true difference of "
        "that size would be found at p < 0.05, uncorrected, four times in five."
    )


def _difference_cell(found: Difference | None) -> Cell:
    if found is None:
        return Cell("—")
    return Cell(
        text=f"{found.value:+.3f}",
        value=found.value,
        low=found.low,
        high=found.high,
        best=found.significant,
        difference=found,
    )


def _detectable(rows: list[Row], at: int) -> Cell:
    """The largest of a column's rows: what every one of them would have shown."""
    known = [
        found.detectable
        for row in rows
        if (found := row.cells[at].difference) is not None and found.detectable is not None
    ]
    return Cell(f"{max(known):.3f}", max(known)) if known else Cell("—")
