"""What a comparison holds: several runs' prediction records, the rows that do not look, and what is known of the videos."""

from pathlib import Path

from crashchat.annotations import load_annotations
from crashchat.errors import CrashChatError
from crashchat.metrics.lookfree import LOOKFREE, METADATA, NO_ACCIDENT, Metadata, Training, guesses, read_metadata
from crashchat.metrics.score import read_crash_starts, task_sums
from crashchat.metrics.sums import Sums
from crashchat.metrics.text import NO_EXTRAS, Extras
from crashchat.predictions import Records, prediction_path, read_predictions, results_folder, task_of_record, unasked, video_name
from crashchat.tasks import TASKS


class ReportError(CrashChatError):
    """A report that cannot be made; the message names the row or file, the cause, and what to do."""


def parse_rows(texts: list[str]) -> dict[str, Path]:
    """[NAME=]FOLDER or [NAME=]FILE of the command line as {name: path}. Raises ReportError for a name given twice."""
    rows: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            path = Path(text)
            name = path.resolve().parent.name if path.suffix == ".json" else path.resolve().name
        if not name or not str(path):
            raise ReportError(f"a row is [NAME=]FOLDER or [NAME=]FILE, found {text!r}")
        if name in rows or name in LOOKFREE:
            raise ReportError(f"row {text}: there is a row {name!r} already; give it another name, as NAME={path}")
        rows[name] = Path(path)
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
            raise ReportError(f"row {name}: {path} holds {len(paths)} prediction files for {task}; name a folder of one model")
        if paths:
            found[task] = read_predictions(paths[0], task)
            models.add(paths[0].parent.name)
    if not found:
        raise ReportError(
            f"row {name}: no prediction files of the {split} split in {path}; "
            f"expected {prediction_path('', '<task>', '<model>', split)} there; evaluate with output_dir={path} first"
        )
    if len(models) > 1:
        raise ReportError(f"row {name}: {path} mixes the models {', '.join(sorted(models))}; name a folder of one model")
    return found


def collect(rows: dict[str, Path], split: str = "test") -> Records:
    """The records of all rows. Raises ReportError when a row cannot be read, or two were not asked the same of a task."""
    records = {name: read_row(name, path, split) for name, path in rows.items()}
    asked: dict[str, list[dict]] = {}
    for name, row in records.items():
        for task, answered in row.items():
            if _questions(answered) != _questions(asked.setdefault(task, answered)):
                raise ReportError(f"row {name}: {task} was asked about other videos than in another row; evaluate all rows alike")
    return records


def _questions(answered: list[dict]) -> set:
    return {(record["data_id"], video_name(record["video_path"])) for record in answered}


def asked_tasks(records: Records) -> dict[str, list[dict]]:
    """{task: records of one row that was asked}; what they are about is the same in every row."""
    return {
        task: next(row[task] for row in records.values() if task in row)
        for task in TASKS
        if any(task in r for r in records.values())
    }


def look_free(records: Records, data_dir: Path, split: str) -> tuple[Records, list[str]]:
    """The rows that do not look, and notes on what could not be made of them and why."""
    asked, notes = asked_tasks(records), []
    files = [data_dir / TASKS[task].annotation_file("train") for task in asked]
    files = [file for file in files if file.is_file()]
    videos = load_annotations(files, data_dir, list(asked)) if files else []
    if not videos:
        notes.append(f"No training annotations in {data_dir}: of the rows that do not look only the {NO_ACCIDENT} can be made.")
    sources = {video.name: video.source for video in videos}
    sources_asked = described(records, data_dir, split, "source")
    paths = {video_name(record["video_path"]): Path(record["video_path"]) for answered in asked.values() for record in answered}
    paths = {name: path if path.is_file() else data_dir / "videos" / name for name, path in paths.items()}
    headers = _headers({video.name: video.path for video in videos}, notes)
    headers_asked = _headers(paths, notes) if headers else None
    rows: Records = {}
    for task, answered in asked.items():
        trained = [video for video in videos if video.answer_of(task) is not None]
        names = [video_name(record["video_path"]) for record in answered]
        training = Training(
            answers=[video.answer_of(task) or "" for video in trained],
            sources=_all_known(sources, [video.name for video in trained]),
            metadata=_all_known(headers or {}, [video.name for video in trained]),
        )
        known = _all_known(sources_asked, names), _all_known(headers_asked or {}, names)
        for name, guessed in guesses(TASKS[task], answered, training if trained else None, *known).items():
            rows.setdefault(name, {})[task] = guessed
    return {name: rows[name] for name in LOOKFREE if name in rows}, list(dict.fromkeys(notes))


def _headers(paths: dict[str, Path], notes: list[str]) -> dict[str, Metadata] | None:
    found = read_metadata(list(paths.values()))
    if found is None:
        notes.append(f"Not every video can be opened in {next(iter(paths.values())).parent}: no row {METADATA!r}.")
    return found and dict(zip(paths, found, strict=True))


def _all_known(facts: dict, names: list[str]) -> list | None:
    """The facts of the named videos, None where one is not known."""
    found = [facts.get(name) for name in names]
    return None if None in found else found


def described(records: Records, data_dir: Path, split: str, what: str) -> dict[str, str]:
    """{video: its source, or its kind} as records or the annotations in data_dir tell; a video without is left out.

    what: `source` or `kind`, the annotated description of what happens.
    """
    task = TASKS["crash_description" if what == "kind" else "crash_recognition"]
    found: dict[str, str] = {}
    file = data_dir / task.annotation_file(split)
    for video in load_annotations([file], data_dir, [task.name]) if file.is_file() else []:
        told = video.answer_of(task.name) if what == "kind" else video.source
        if told:
            found[video_name(video.name)] = told
    for answered in asked_tasks(records).values():
        for record in answered:
            told = record.get("gt_caption" if what == "kind" else "source")
            if told:
                found[video_name(record["video_path"])] = told
    return found


def partial_runs(records: Records, data_dir: Path, split: str) -> list[str]:
    """Notes on tasks whose questions in data_dir were not all asked."""
    notes = []
    for task, answered in asked_tasks(records).items():
        file = data_dir / TASKS[task].annotation_file(split)
        missing, unknown = unasked(answered, TASKS[task], file) if file.is_file() else ([], [])
        if missing:
            notes.append(f"A partial run: {len(missing)} {task} questions of {file.name} have no record (first: {missing[0]}).")
        if unknown:
            notes.append(f"{len(unknown)} videos of the {task} records are not in {file.name} (first: {unknown[0]}).")
    return notes


def sum_rows(records: Records, crash_annotations: Path | None = None, extras: Extras = NO_EXTRAS) -> dict[str, dict[str, Sums]]:
    """{row: {task: sums}} of all rows.

    crash_annotations: crash_localization annotations, for pre-crash answers that carry no crash start of their own.
    """
    pre_crash = [record for row in records.values() for record in row.get("pre_crash_localization", [])]
    starts = None
    if crash_annotations and crash_annotations.is_file() and any(record.get("crash_start") is None for record in pre_crash):
        starts = read_crash_starts(crash_annotations)
    return {
        name: {task: task_sums(task, answered, starts, extras) for task, answered in row.items()} for name, row in records.items()
    }
