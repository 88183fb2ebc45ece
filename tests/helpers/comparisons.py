"""Comparisons as a user makes them, and what is read of them."""

import re
import subprocess
import sys
from pathlib import Path

from crashchat.config import ROOT
from crashchat.data.predictions import Records
from crashchat.data.truth import Annotations
from crashchat.evaluation.score import scores
from crashchat.reporting.comparison import sum_rows
from crashchat.reporting.runs import collect


def one_run(rows: dict[str, Path | list[Path]]) -> dict[str, list[Path]]:
    """Rows with one run each, but for those with a list of them."""
    return {name: folder if isinstance(folder, list) else [folder] for name, folder in rows.items()}


def run(rows: dict[str, Path], data: Path, out: Path, *more) -> subprocess.CompletedProcess:
    """The command as a user gives it, without METEOR, which test_metrics.py has."""
    words = [f"{name}={','.join(map(str, folders))}" for name, folders in one_run(rows).items()]
    command = [
        sys.executable,
        "-m",
        "crashchat",
        "compare",
        *words,
        "--data-dir",
        data,
        "--out",
        out,
        "--no-meteor",
        *more,
    ]
    return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)


def read(rows: dict[str, Path], data: Path) -> Records:
    """The records of the rows, held against the annotations."""
    runs = collect(one_run(rows), Annotations(data, "test"))
    return {name: {task: file.records for task, file in run.items()} for name, (run,) in runs.items()}


def scored(rows: dict[str, Path], data: Path) -> dict:
    """The scores of the rows."""
    records = read(rows, data)
    return {name: {task: scores(one) for task, one in row.items()} for name, row in sum_rows(records).items()}


def table_lines(page: str, number: int) -> dict[str, list[str]]:
    """{row: its figures} of a table of the page, bold ones in their tags."""
    lines = re.findall(
        r"<tr class[^>]*><th[^>]*>(.*?)</th>\n(.*?)</tr>",
        page.split("<tbody>")[1 + number].split("</tbody>")[0],
        re.DOTALL,
    )
    return {name: re.findall(r"<td[^>]*>(.*?)(?:<small>.*?)?</td>", line) for name, line in lines}
