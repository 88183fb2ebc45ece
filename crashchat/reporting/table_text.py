"""Comparison tables as plain text: for the terminal, as Markdown and as CSV."""

import csv
import io
import textwrap

from crashchat.reporting.tables import Table


def as_text(table: Table) -> str:
    """For a terminal: a block of columns a group, `*` behind the best, the interval behind each figure."""
    width = max(len(row.name) for row in table.rows)
    blocks, first = [], 0
    for group, count in table.groups:
        lines = [[" " * width], *([f"{row.name:{width}}"] for row in table.rows)]
        for at in range(first, first + count):
            cells = [row.cells[at] for row in table.rows]
            texts = [cell.text + ("*" if cell.best else " ") for cell in cells]
            wide, behind = max(map(len, texts)), max(len(cell.behind) for cell in cells)
            if behind:
                texts = [
                    f"{text:>{wide}} {cell.behind:{behind}}" for text, cell in zip(texts, cells, strict=True)
                ]
            heading = table.columns[at][1]
            wide = max(len(heading), *map(len, texts))
            for line, text in zip(
                lines, [f"{heading:^{wide}}", *(f"{text:>{wide}}" for text in texts)], strict=True
            ):
                line.append(text)
        first += count
        asked = [line for line in lines[1:] if any(part.strip() != "—" for part in line[1:])]
        blocks.append("\n".join([f"-- {group}", *("  ".join(line).rstrip() for line in [lines[0], *asked])]))
    return f"{table.title}\n\n" + "\n\n".join(blocks)


def wrapped(text: str) -> str:
    """Lines of prose for a terminal."""
    lines = [
        textwrap.fill(
            line, 110, subsequent_indent="  " if line.startswith("- ") else "", break_long_words=False
        )
        for line in text.splitlines()
    ]
    return "\n".join(lines)


def as_markdown(table: Table) -> str:
    """A Markdown table, the best in bold, published rows and blind baselines in italics."""
    heads = ["", *(f"{group} {label}" for group, label, *_ in table.columns)]
    lines = [f"### {table.title}", "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for row in table.rows:
        cells = [_escaped(row.name) if row.kind == "model" else f"*{_escaped(row.name)}*"]
        for cell in row.cells:
            text = f"**{cell.text}**" if cell.best else cell.text
            cells.append(f"{text} {cell.behind}".rstrip())
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "|*_<>[]`\\" else letter for letter in text)


def as_csv(tables: list[Table]) -> str:
    """One line a figure. p: as it stands alone; p_holm: corrected for all differences of the file;
    p_at_floor: p is the smallest that the resamples can show.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    facts = ("table", "row", "kind", "task", "metric", "heading", "value", "low", "high", "p", "best")
    writer.writerow((*facts, "p_holm", "p_at_floor", "detectable", "spread"))
    for table in tables:
        for row in table.rows:
            for (_, heading, task, metric), cell in zip(table.columns, row.cells, strict=True):
                if cell.value is None:
                    continue
                tested: tuple = (None, None, None)
                if found := cell.difference:
                    tested = (found.p_holm, int(found.at_floor), found.detectable)
                figures = (cell.value, cell.low, cell.high, found.p if found else None, int(cell.best))
                writer.writerow(
                    (table.title, row.name, row.kind, task, metric, heading, *figures, *tested, cell.spread)
                )
    return out.getvalue()
