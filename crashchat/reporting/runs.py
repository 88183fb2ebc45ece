"""The rows of a comparison: several runs' prediction records, read and checked against each other."""

from pathlib import Path

from crashchat.data.predictions import (
    Records,
    prediction_path,
    read_predictions,
    results_folder,
    task_of_record,
    video_name,
)
from crashchat.errors import CrashChatError
from crashchat.metrics.blind import BLIND
from crashchat.tasks import TASKS

RESERVED = (*BLIND, "about")  # names that no row may have: metrics.json has others under them


class ReportError(CrashChatError):
    """A report that cannot be made; the message names the row or file, the cause, and what to do."""


def parse_rows(texts: list[str]) -> dict[str, list[Path]]:
    """[NAME=]FOLDER or [NAME=]FILE of the command line as {name: paths}; several, with commas between
    them, are the runs (seeds) of one row, which then needs a name.

    Raises ReportError for a name given twice.
    """
    rows: dict[str, list[Path]] = {}
    for text in texts:
        name, equals, named = text.partition("=")
        if not equals or Path(text).exists():
            path = Path(text)
            named = str(path)
            name = path.resolve().parent.name if path.suffix == ".json" else path.resolve().name
        if not name or not named:
            raise ReportError(f"a row is [NAME=]FOLDER or [NAME=]FILE, found {text!r}")
        paths = [named] if Path(named).exists() else named.split(",")
        if "" in paths or len(set(paths)) < len(paths):
            raise ReportError(f"row {text}: the runs of a row are different folders, found {named!r}")
        if name in rows or name in RESERVED:
            raise ReportError(
                f"row {text}: there is a row {name!r} already; give it another name, as NAME={named}"
            )
        rows[name] = list(map(Path, paths))
    return rows


def read_row(name: str, path: Path, split: str = "test") -> dict[str, list[dict]]:
    """{task: records} of one model's answers in a folder, or of one prediction file.

    Raises ReportError for none, or for those of several models.
    """
    if path.is_file():
        records = read_predictions(path)
        return {task_of_record(records[0]) or "": records}
    found, models = {}, set()
    for task in TASKS:
        paths = sorted(results_folder(path, task).glob(f"*/{prediction_path('', task, '', split).name}"))
        if len(paths) > 1:
            raise ReportError(
                f"row {name}: {path} holds {len(paths)} prediction files for {task}; name a folder of one "
                "model"
            )
        if paths:
            found[task] = read_predictions(paths[0], task)
            models.add(paths[0].parent.name)
    if not found:
        raise ReportError(
            f"row {name}: no prediction files of the {split} split in {path}; "
            f"expected {prediction_path('', '<task>', '<model>', split)} there; evaluate with "
            f"output_dir={path} first"
        )
    if len(models) > 1:
        raise ReportError(
            f"row {name}: {path} mixes the models {', '.join(sorted(models))}; name a folder of one model"
        )
    return found


def collect(rows: dict[str, Path], split: str = "test") -> Records:
    """The records of all rows.

    Raises ReportError when a row cannot be read, or two were not asked the same of a task.
    """
    records = {name: read_row(name, path, split) for name, path in rows.items()}
    asked: dict[str, list[dict]] = {}
    for name, row in records.items():
        for task, answered in row.items():
            if _questions(answered) != _questions(asked.setdefault(task, answered)):
                raise ReportError(
                    f"row {name}: {task} was asked about other videos than in another row; evaluate all "
                    "rows alike"
                )
    return records


def _questions(answered: list[dict]) -> set:
    return {(record["data_id"], video_name(record["video_path"])) for record in answered}
