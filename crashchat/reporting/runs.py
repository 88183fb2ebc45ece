"""The rows of a comparison: several runs' prediction files, read and checked against each other."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from crashchat.data.prediction_files import PredictionFile, read_prediction_file
from crashchat.data.predictions import Records, prediction_path, results_folder, video_name
from crashchat.data.truth import Annotations
from crashchat.errors import CrashChatError
from crashchat.metrics.blind import BLIND
from crashchat.tasks import TASKS

# Names that no row may have: metrics.json has others under them.
RESERVED = (*BLIND, "about", "out of domain")
Run = dict[str, PredictionFile]  # one model's answers: {task: prediction file}


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


def read_row(name: str, path: Path, annotations: Annotations, partial: bool = False) -> Run:
    """{task: prediction file} of one model's answers in a folder, or of one prediction file.

    Raises ReportError for none, or for those of several models, and what read_prediction_file raises.
    """
    if path.is_file():
        file = read_prediction_file(path, annotations, partial=partial)
        return {file.task: file}
    split, found, models = annotations.split or "test", {}, set()
    for task in TASKS:
        paths = sorted(results_folder(path, task).glob(f"*/{prediction_path('', task, '', split).name}"))
        if len(paths) > 1:
            raise ReportError(
                f"row {name}: {path} holds {len(paths)} prediction files for {task}; name a folder of one "
                "model"
            )
        if paths:
            found[task] = read_prediction_file(paths[0], annotations, task, partial)
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


def collect(
    rows: Mapping[str, Sequence[Path]], annotations: Annotations, partial: bool = False
) -> dict[str, list[Run]]:
    """The prediction files of all runs of all rows, {name: a folder or file a run}.

    Raises ReportError when a run cannot be read, when two were not asked the same of a task, or two of a row
    not the same tasks; PredictionError for a file that contradicts the annotations or, unless `partial`,
    lacks some of their questions.
    """
    read: dict[str, list[Run]] = {name: [] for name in rows}
    asked: dict[str, PredictionFile] = {}
    for name, paths in rows.items():
        for number, path in enumerate(paths, start=1):
            called = name if len(paths) == 1 else f"{name} (run {number})"
            run = read_row(called, path, annotations, partial)
            read[name].append(run)
            for task, file in run.items():
                if _questions(file) != _questions(asked.setdefault(task, file)):
                    raise ReportError(
                        f"row {called}: {task} was asked about other videos than in another row; evaluate "
                        "all rows alike"
                    )
        tasks = [sorted(run) for run in read[name]]
        if any(one != tasks[0] for one in tasks):
            raise ReportError(
                f"row {name}: its runs were not asked the same tasks ({'; '.join(map(', '.join, tasks))}); "
                "evaluate all runs of a row alike"
            )
    return read


def remarks(runs: Mapping[str, Sequence[Run]]) -> list[str]:
    """What a reader must know of the files, a sentence each with the rows and tasks that it is true of."""
    every = [
        (name, task, file) for name, of_row in runs.items() for run in of_row for task, file in run.items()
    ]
    notes = []
    if parts := {task: file.share for _, task, file in every if file.share}:
        shares = ", ".join(f"{task} {share}" for task, share in parts.items())
        notes.append(f"A partial run: only a part of the annotated questions has a record: {shares}.")
    if unchecked := {task: file.unchecked for _, task, file in every if file.unchecked}:
        listed = "; ".join(f"{task}: {reason}" for task, reason in unchecked.items())
        notes.append(f"Truth not checked: what was annotated is as the prediction files say ({listed}).")
    if otherwise := [
        f"{file.read_otherwise} {task} of {name}" for name, task, file in every if file.read_otherwise
    ]:
        notes.append(
            f"Answers that are read as the released scripts read them, and otherwise by the parser of this "
            f"project: {', '.join(otherwise)}."
        )
    without = {
        name: [task for row, task, file in every if row == name and not file.manifest] for name in runs
    }
    if any(without.values()):
        listed = "; ".join(
            name if len(tasks) == sum(map(len, runs[name])) else f"{name} ({', '.join(dict.fromkeys(tasks))})"
            for name, tasks in without.items()
            if tasks
        )
        notes.append(
            f"No manifest: {listed}. Which weights gave these answers, and whether the files were changed "
            "since, cannot be seen."
        )
    return notes


def _questions(file: PredictionFile) -> set:
    return {(record["data_id"], video_name(record["video_path"])) for record in file.records}


def asked_videos(records: Records) -> dict[str, Path]:
    """{name: path, as a record has it} of all videos that some row was asked about."""
    return {
        video_name(record["video_path"]): Path(record["video_path"])
        for answered in asked_tasks(records).values()
        for record in answered
    }


def asked_tasks(records: Records) -> dict[str, list[dict]]:
    """{task: records of one row that was asked}; what they are about is the same in every row."""
    return {
        task: next(row[task] for row in records.values() if task in row)
        for task in TASKS
        if any(task in r for r in records.values())
    }
