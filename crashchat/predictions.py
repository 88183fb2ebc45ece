"""Prediction records, read and written (SPEC.md, Predictions and metrics).

One real example (a record of a crash_localization file; a file is a JSON list of them, one a question):

    {"data_id": 0, "video_path": "data/videos/cap_48_014322.mp4", "prompt": "You are a …", "source": "MM-AU-CAP",
     "gt_start": 3.9, "gt_end": 5.0, "pred_start": 3.3, "pred_end": 5.7, "raw_response": "3.3 - 5.7 seconds"}

Beyond the released fields a record may carry `source`, `crash_probability` (recognition's 'Yes' against 'No'), `error` (why
the video could not be read; raw_response is then '' and nothing is predicted) and `crash_start` (seconds; the annotated crash
start that pre-crash scoring needs).
An answer that does not parse is None in its pred fields, never a made-up value.
"""

import json
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from crashchat.annotations import load_annotations
from crashchat.files import write_json_atomic
from crashchat.tasks import FILE_PREFIX, PERCEPTION, TASKS, Task

Records = dict[str, dict[str, list[dict]]]  # of several models: {model: {task: prediction records}}
COMMON_FIELDS = ("data_id", "video_path", "prompt", "raw_response")
_SHOWN = 5  # how many offenders an error message names


class PredictionError(Exception):
    """A prediction file or journal that cannot be used; the message names the file, the fault and the way out."""


def results_folder(output_dir: str | Path, task_name: str) -> Path:
    """`<output_dir>/<task>_evaluation_results`, where each model has a folder of its own."""
    return Path(output_dir) / f"{task_name}_evaluation_results"


def prediction_path(output_dir: str | Path, task_name: str, model_name: str, split: str = "test") -> Path:
    """Where a model's predictions for a task lie (SPEC.md, Predictions and metrics)."""
    name = f"{FILE_PREFIX}_{task_name}_{split}_predict.json"
    return results_folder(output_dir, task_name) / model_name / name


def is_number(value: object) -> bool:
    """True for a finite int or float. JSON as Python reads it may also hold NaN and Infinity; those are no times."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def video_name(path: str) -> str:
    """What joins `data/videos/x.mp4` of a prediction and `videos/x.mp4` of an annotation: the file's name."""
    return PurePosixPath(path.replace("\\", "/")).name


def make_record(
    task: Task,
    data_id: int,
    video_path: str,
    prompt: str,
    raw_response: str,
    answer: str,
    source: str | None = None,
    error: str | None = None,
    crash_start: float | None = None,
    crash_probability: float | None = None,
) -> dict:
    """One prediction record.

    data_id: the question's place in its annotation file. answer: the annotated answer; raw_response: the model's.
    error: why there is no answer (an unreadable video); raw_response is then dropped and nothing is predicted.
    crash_start: seconds, for pre-crash scoring. crash_probability: recognition's 'Yes' against 'No'.
    Raises ValueError when the annotated answer does not parse.
    """
    parsed = None
    if error is None:
        parsed = task.parse(raw_response)
    else:
        raw_response = ""
    if parsed is None:
        parsed = dict.fromkeys(task.pred_fields)
    record = {"data_id": data_id, "video_path": video_path, "prompt": prompt}
    if source is not None:
        record["source"] = source
    record |= {**task.ground_truth(answer), **parsed, "raw_response": raw_response}
    if crash_start is not None:
        record["crash_start"] = crash_start
    if crash_probability is not None:
        record["crash_probability"] = crash_probability
    if error is not None:
        record["error"] = error
    return record


def with_answers(task: Task, records: list[dict], answers: Sequence[str | None]) -> list[dict]:
    """The records as if `answers` had been given, one a record; None predicts nothing."""
    # An answer that is not a model's never looks at the video, so a video that could not be read is no obstacle to it.
    return [
        {key: value for key, value in record.items() if key != "error"}
        | ((task.parse(answer) if answer is not None else None) or dict.fromkeys(task.pred_fields))
        | {"raw_response": answer or ""}
        for record, answer in zip(records, answers, strict=True)
    ]


def constant_answer(task: Task, records: list[dict], answer: str | None = None) -> list[dict]:
    """The records as if `answer` (default: the task's no-accident answer) had been given to every question.

    A task that is only asked about crash videos has no such answer: saying that nothing happens predicts nothing.
    """
    return with_answers(task, records, [task.negative_answer if answer is None else answer] * len(records))


def task_of_record(record: dict) -> str | None:
    """The name of the task whose ground-truth and prediction fields `record` has; None where there is no such task."""
    for task in TASKS.values():
        if all(field in record for field in (*task.gt_fields, *task.pred_fields)):
            return task.name
    return None


def read_predictions(path: str | Path, task_name: str | None = None, annotations: str | Path | None = None) -> list[dict]:
    """The records of a prediction file, ours or the released scripts', in the file's order.

    task_name: the task it must be of; without it, the task of the first record. annotations: the questions that were asked.
    Raises PredictionError for a file that is missing, not JSON, not a list of records, empty, of another task, with
    fields missing or of the wrong type, with answers of several models, with a question twice, or, given the
    annotations, of a run that stopped before its end or was asked something else. AnnotationError for bad annotations.
    """
    path = Path(path)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as cause:
        raise PredictionError(f"{path}: cannot be read: {cause.strerror or cause}") from cause
    except ValueError as cause:  # undecodable bytes or no JSON
        raise PredictionError(f"{path}: not a JSON file ({cause}); expected a JSON list of prediction records") from cause
    if not isinstance(records, list):
        raise PredictionError(f"{path}: holds a JSON {type(records).__name__}, expected a list of prediction records")
    if not records:
        raise PredictionError(f"{path}: holds no records, so there is nothing to score; evaluate first")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise PredictionError(f"{path}: entry {index} is a {type(record).__name__}, expected a prediction record")
    found = task_of_record(records[0])
    if task_name is None:
        task_name = found
    if task_name is None:
        raise PredictionError(
            f"{path}: the first record has the fields {', '.join(records[0])}, which are of none of the tasks {', '.join(TASKS)}"
        )
    task = TASKS[task_name]
    if found not in (None, task_name):
        raise PredictionError(f"{path}: holds {found} predictions, expected {task_name}; give it to that task's script")
    for index, record in enumerate(records):
        fault = _fault(task, record)
        if fault:
            raise PredictionError(f"{path}: record {index} (data_id {record.get('data_id')!r}) {fault}")
    _check_one_model(path, records)
    _check_unique(path, "data_ids", [record["data_id"] for record in records])
    _check_unique(path, "videos", [record["video_path"] for record in records])
    if annotations is not None:
        _check_complete(path, records, task, Path(annotations))
    return records


def _fault(task: Task, record: dict) -> str | None:
    """What makes `record` no prediction record of `task`; None when nothing does."""
    missing = [key for key in (*COMMON_FIELDS, *task.gt_fields, *task.pred_fields) if key not in record]
    if missing:
        return f"lacks {', '.join(missing)}; a {task.name} record has them all"
    if not isinstance(record["data_id"], int | str):
        return "has a data_id that is neither a number nor a text"
    wanted = int | float if task.group == PERCEPTION else str
    times = (*task.gt_fields, *task.pred_fields)
    kinds = {"video_path": str, **dict.fromkeys(times, wanted | None)}
    if "crash_start" in record:
        kinds["crash_start"] = int | float | None
    for key, kind in kinds.items():
        # bool is an int to Python; a time it is not.
        if not isinstance(record[key], kind) or isinstance(record[key], bool):
            expected = "a text" if kind in (str, str | None) else "a number of seconds"
            return f"has {key} = {record[key]!r}, expected {expected}{'' if kind is str else ' or null'}"
    return None


def _check_one_model(path: Path, records: list[dict]) -> None:
    """Records say it in a `model` field, where they have one; two prompts for one task betray it too."""
    for key in ("model", "prompt"):
        found = list(dict.fromkeys(str(record.get(key)) for record in records))
        if len(found) > 1:
            shown = _some(repr(text[:40]) for text in found)
            raise PredictionError(f"{path}: mixes answers of several runs: {len(found)} {key}s ({shown}); score each run alone")


def _check_unique(path: Path, what: str, keys: list) -> None:
    seen: set = set()
    twice = sorted({str(key) for key in keys if key in seen or seen.add(key)})
    if twice:
        raise PredictionError(
            f"{path}: {len(twice)} {what} occur more than once ({_some(twice)}); it looks like two files joined"
        )


def _check_complete(path: Path, records: list[dict], task: Task, annotations: Path) -> None:
    missing, unknown = unasked(records, task, annotations)
    if missing:
        raise PredictionError(
            f"{path}: a partial run: {len(missing)} of the questions in {annotations} have no record ({_some(missing)}); "
            f"run the evaluation again to complete it"
        )
    if unknown:
        raise PredictionError(
            f"{path}: {len(unknown)} records are about videos not in {annotations} ({_some(unknown)}); another split?"
        )


def unasked(records: list[dict], task: Task, annotations: Path) -> tuple[list[str], list[str]]:
    """File names of the annotated videos without a record, and of the records' videos without an annotation."""
    # The videos are joined by file name and never opened, so their folder is of no matter.
    asked = {video_name(video.name) for video in load_annotations([annotations], data_dir=".", tasks=[task.name])}
    answered = {video_name(record["video_path"]) for record in records}
    return sorted(asked - answered), sorted(answered - asked)


def _some(keys: Iterable) -> str:
    keys = [str(key) for key in keys]
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")


# ---------------------------------------------------------------------------------------------------------- journals


def journal_path(final_path: str | Path, rank: int = 0) -> Path:
    """The journal of one process beside the file it will become: `….json.rank0.part.jsonl`."""
    final_path = Path(final_path)
    return final_path.with_name(f"{final_path.name}.rank{rank}.part.jsonl")


def find_journals(final_path: str | Path) -> list[Path]:
    """Every journal beside `final_path`, of however many processes the killed run had."""
    final_path = Path(final_path)
    # No glob: a model's name may hold brackets, which glob would take for a pattern.
    start, end = f"{final_path.name}.rank", ".part.jsonl"
    if not final_path.parent.is_dir():
        return []
    return sorted(p for p in final_path.parent.iterdir() if p.name.startswith(start) and p.name.endswith(end))


def done_ids(final_path: str | Path, run: dict | None = None) -> set:
    """The data_ids in all journals beside `final_path`: what need not be done again, with however many processes now.

    Raises PredictionError for a journal that is damaged or of another run (see PredictionJournal).
    """
    done: set = set()
    for path in find_journals(final_path):
        begun_by, records, good_bytes = _read_journal(path)
        if good_bytes:
            _check_run(path, begun_by, run)
        done |= {record["data_id"] for record in records}
    return done


def _check_run(path: Path, begun_by: dict | None, run: dict | None) -> None:
    if begun_by != run:
        raise PredictionError(
            f"{path}: was begun by another run ({json.dumps(begun_by)}), this one is {json.dumps(run)}; "
            f"delete the journal to start over, or give the settings it was begun with"
        )


class PredictionJournal:
    """Records on disk as they are made, one JSON line each, so that a killed run goes on where it stopped.

    Each process writes its own. Opening an existing journal reads it: `done` is the set of data_ids it holds and
    `records` the records; a last line that was being written when the run died is cut off (that answer is made again).
    run: what the answers depend on (model, settings; any JSON). It is the journal's first line, and a journal of
    another run is refused, because half of one model's answers and half of another's are nobody's.
    Raises PredictionError when the journal is of another run or damaged before its last line.
    """

    def __init__(self, path: str | Path, run: dict | None = None):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        begun_by, self.records, good_bytes = _read_journal(self.path) if self.path.exists() else (None, [], 0)
        if good_bytes:
            _check_run(self.path, begun_by, run)
        self.done = {record["data_id"] for record in self.records}
        self._file = open(self.path, "ab")
        self._file.truncate(good_bytes)
        if not good_bytes:
            self._write({"run": run})

    def append(self, record: dict) -> None:
        """Add one record; when this returns it is on disk. Raises PredictionError for a data_id that is done."""
        if record["data_id"] in self.done:
            raise PredictionError(f"{self.path}: data_id {record['data_id']!r} is already in the journal")
        self._write(record)
        self.records.append(record)
        self.done.add(record["data_id"])

    def _write(self, value: dict) -> None:
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PredictionJournal":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def _read_journal(path: Path) -> tuple[dict | None, list[dict], int]:
    """Run, records, and the number of bytes that are whole lines. Raises PredictionError for damage before the end."""
    lines = path.read_bytes().splitlines(keepends=True)
    values, good_bytes = [], 0
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError:
            value = None
        expected = "run" if number == 1 else "data_id"
        if not line.endswith(b"\n") or not isinstance(value, dict) or expected not in value:
            if number == len(lines):
                break  # the line that was being written when the run died
            raise PredictionError(
                f"{path}: line {number} is damaged (no JSON record with {expected!r}); delete the journal to start over"
            )
        values.append(value)
        good_bytes += len(line)
    return (values[0]["run"] if values else None), values[1:], good_bytes


def merge_journals(paths: Iterable[str | Path], final_path: str | Path, expected_ids: Iterable | None = None) -> list[dict]:
    """Join the journals of all processes into the prediction file, sorted by data_id and written whole; returns it.

    A data_id in several journals must be the same record in each. expected_ids: the data_ids the file must have.
    Journals are left in place. Raises PredictionError for a journal that is missing, damaged or of another run than
    the first, for contradicting records, and for records missing from or not in expected_ids; then nothing is written.
    """
    merged: dict = {}
    first: tuple[Path, dict | None] | None = None
    for path in map(Path, paths):
        if not path.exists():
            raise PredictionError(f"{path}: no such journal; the process that writes it did not start or lost its disk")
        run, records, good_bytes = _read_journal(path)
        if not good_bytes:
            continue  # killed before its first line: it holds nothing, and expected_ids will tell what is missing
        first = first or (path, run)
        if run != first[1]:
            raise PredictionError(
                f"{path} and {first[0]} are of different runs ({json.dumps(run)}, {json.dumps(first[1])}); "
                f"delete the journals of the older run"
            )
        for record in records:
            known = merged.setdefault(record["data_id"], record)
            if known != record:
                raise PredictionError(
                    f"{path}: data_id {record['data_id']!r} has another answer in an earlier journal of {final_path}; "
                    f"delete the journals to start over"
                )
    if expected_ids is not None:
        expected = set(expected_ids)
        missing = sorted(expected - merged.keys(), key=str)
        unknown = sorted(merged.keys() - expected, key=str)
        if missing or unknown:
            raise PredictionError(
                f"{final_path}: not written: of {len(expected)} records {len(missing)} are missing ({_some(missing)}) "
                f"and {len(unknown)} do not belong ({_some(unknown)}); run the same command again to go on"
            )
    records = sorted(merged.values(), key=lambda r: (isinstance(r["data_id"], str), r["data_id"]))
    write_json_atomic(final_path, records)
    return records
