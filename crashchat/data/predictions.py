"""Prediction records, read and written (docs/reference.md, Predictions).

One real example (a record of a crash_localization file; a file is a JSON list of them, one a question):

    {"data_id": 0, "video_path": "data/videos/cap_48_014322.mp4", "prompt": "You are a …", "source":
    "MM-AU-CAP",
     "gt_start": 3.9, "gt_end": 5.0, "pred_start": 3.3, "pred_end": 5.7, "raw_response": "3.3 - 5.7 seconds"}

Beyond the released fields a record may carry `model` (who answered), `source`, `crash_probability`
(recognition's 'Yes' against 'No'), `option_probabilities` (of each answer that a task lists), `error` (why
the video could not be read; raw_response is then '' and nothing is predicted), `context` (what of the prompt,
at its beginning, was told of the clip: docs/tasks.md) and `crash_start` (seconds;
the annotated crash start that pre-crash scoring needs). An answer that does not parse is None in its pred
fields, never a made-up value. Whether a file says what was annotated and answered is for prediction_files.py.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from crashchat.data.readings import answer_fault, read_answer
from crashchat.data.record_faults import bare_prompt, record_fault
from crashchat.errors import CrashChatError, abbreviate
from crashchat.json_files import read_json
from crashchat.parts import whole_name
from crashchat.tasks import SPLITS, TASKS, Task, question_text

Records = dict[str, dict[str, list[dict]]]  # of several models: {model: {task: prediction records}}
_SHOWN = 5  # how many offenders an error message names


class PredictionError(CrashChatError):
    """A prediction file or journal that cannot be used; the message names the file,
    the fault and the way out.
    """


_PROBABILITIES = ("crash_probability", "option_probabilities")


def results_folder(output_dir: str | Path, task_name: str) -> Path:
    """`<output_dir>/<task>_evaluation_results`, where each model has a folder of its own."""
    return Path(output_dir) / f"{task_name}_evaluation_results"


def prediction_path(output_dir: str | Path, task_name: str, model_name: str, split: str = "test") -> Path:
    """Where a model's predictions for a task lie (docs/reference.md, Predictions)."""
    name = f"{TASKS.file_prefix}_{task_name}_{split}_predict.json"
    return results_folder(output_dir, task_name) / model_name / name


def split_of(path: Path) -> str | None:
    """The split that the name of an annotation or prediction file says it is of; None where it says none."""
    found = re.search(rf"_({'|'.join(SPLITS)})(_predict)?\.json$", path.name)
    return found[1] if found else None


def video_name(path: str) -> str:
    """What joins `data/videos/x.mp4` of a prediction and `videos/x.mp4` of an annotation: the file's name."""
    return PurePosixPath(path.replace("\\", "/")).name


def clip_name(path: str) -> str:
    """The file's name of a video, and also of all its parts: what stands and falls together in figures."""
    return whole_name(video_name(path))


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
    option_probabilities: dict[str, float] | None = None,
    model: str | None = None,
    context: str = "",
) -> dict:
    """One prediction record.

    data_id: the question's place in its annotation file. answer: the annotated answer; raw_response: the
    model's.
    error: why there is no answer (an unreadable video); raw_response is then dropped and nothing is
    predicted.
    crash_start: seconds, for pre-crash scoring. crash_probability: recognition's 'Yes' against 'No'.
    option_probabilities: of each answer that the task lists. model: who answered. context: what of the prompt
    is told of the clip. Raises ValueError when the annotated answer does not parse.
    """
    if error is not None:
        raw_response = ""
    record = {"data_id": data_id, "video_path": video_path, "prompt": prompt}
    if context:
        record["context"] = context
    if model is not None:
        record["model"] = model
    if source is not None:
        record["source"] = source
    record |= {**task.ground_truth(answer), **read_answer(task, raw_response), "raw_response": raw_response}
    if crash_start is not None:
        record["crash_start"] = crash_start
    if crash_probability is not None:
        record["crash_probability"] = crash_probability
    if option_probabilities is not None:
        record["option_probabilities"] = option_probabilities
    if error is not None:
        record["error"] = error
    return record


def with_answers(task: Task, records: list[dict], answers: Sequence[str | None]) -> list[dict]:
    """The records as if `answers` had been given, one a record; None predicts nothing."""
    # Such an answer never looks at the video: one that could not be read is no obstacle, and there is no
    # probability.
    return [
        {key: value for key, value in record.items() if key not in ("model", "error", *_PROBABILITIES)}
        | {**read_answer(task, answer or ""), "raw_response": answer or ""}
        for record, answer in zip(records, answers, strict=True)
    ]


def constant_answer(task: Task, records: list[dict], answer: str | None = None) -> list[dict]:
    """The records as if `answer` (default: the task's no-accident answer) had been given to every question.

    A task that is only asked about crash videos has no such answer: saying that nothing happens predicts
    nothing.
    """
    return with_answers(task, records, [task.negative_answer if answer is None else answer] * len(records))


def tasks_of_record(record: dict) -> list[str]:
    """The names of the tasks whose ground-truth and prediction fields `record` has; of several the one whose
    words it was asked in, where that is one of them.
    """
    found = [
        task for task in TASKS.values() if all(key in record for key in (*task.gt_fields, *task.pred_fields))
    ]
    prompt = question_text(bare_prompt(record))
    return [task.name for task in found if task.prompt == prompt] or [task.name for task in found]


def read_predictions(path: str | Path, task_name: str | None = None) -> list[dict]:
    """The records of a prediction file, ours or the released scripts', in the file's order.

    task_name: the task it must be of; without it, the task of the first record, which must be plain. Raises
    PredictionError for a file that is missing, not JSON, not a list of records, empty, of another task, with
    fields missing or of the wrong type, with answers of several models, with a question twice, or with a
    record that predicts something other than its raw_response says.
    """
    path = Path(path)
    records = read_json(path, PredictionError, "a list of prediction records", nan=True)
    if not isinstance(records, list):
        raise PredictionError(
            f"{path}: holds a JSON {type(records).__name__}, expected a list of prediction records"
        )
    if not records:
        raise PredictionError(f"{path}: holds no records, so there is nothing to score; evaluate first")
    for index, record in enumerate(records):
        if not isinstance(record, dict):
            raise PredictionError(
                f"{path}: entry {index} is a {type(record).__name__}, expected a prediction record"
            )
    found = tasks_of_record(records[0])
    if task_name is None and len(found) > 1:
        raise PredictionError(
            f"{path}: the first record may be of any of the tasks {', '.join(found)}; name the folder that "
            "the evaluation wrote, which says of which"
        )
    if task_name is None and found:
        (task_name,) = found
    if task_name is None:
        raise PredictionError(
            f"{path}: the first record has the fields {abbreviate(list(records[0]))}, which are of none of "
            "the tasks "
            f"{', '.join(TASKS)}"
        )
    task = TASKS[task_name]
    if found and task_name not in found:
        raise PredictionError(
            f"{path}: holds {' or '.join(found)} predictions, expected {task_name}; give it to that "
            "task's script"
        )
    for index, record in enumerate(records):
        _refuse(path, index, record, record_fault(task, record))
    _check_one_model(path, records, own_prompts=task.prompt is None)
    _check_unique(path, "data_ids", [record["data_id"] for record in records])
    # Records, annotations and figures are joined by the file's name: another folder makes no other video.
    _check_unique(path, "videos", [video_name(record["video_path"]) for record in records])
    released = not any(record.get("model") for record in records)
    for index, record in enumerate(records):
        _refuse(path, index, record, answer_fault(task, record, released))
    return records


def _refuse(path: Path, index: int, record: dict, fault: str | None) -> None:
    if fault:
        raise PredictionError(f"{path}: record {index} (data_id {abbreviate(record.get('data_id'))}) {fault}")


def _check_one_model(path: Path, records: list[dict], own_prompts: bool) -> None:
    """Records say it in a `model` field, where they have one; two prompts for one task betray it too.

    own_prompts: of a task whose questions have words of their own each, they do not.
    """
    for key in ("model",) if own_prompts else ("model", "prompt"):
        found = list(dict.fromkeys(bare_prompt(one) if key == "prompt" else one.get(key) for one in records))
        if key == "model" and None in found and len(found) > 1:
            nobody = [record["data_id"] for record in records if record.get(key) is None]
            raise PredictionError(
                f"{path}: {len(nobody)} of {len(records)} records do not say which model answered (data_id "
                f"{first_few(nobody)}), where the others do; take the file as it was written"
            )
        if len(found) > 1:
            shown = first_few(repr(str(text)[:40]) for text in found)
            raise PredictionError(
                f"{path}: mixes answers of several runs: {len(found)} {key}s ({shown}); score each run alone"
            )


def _check_unique(path: Path, what: str, keys: list) -> None:
    twice = sorted({str(key) for key, times in Counter(keys).items() if times > 1})
    if twice:
        raise PredictionError(
            f"{path}: {len(twice)} {what} occur more than once ({first_few(twice)}); it looks like two files "
            "joined"
        )


def first_few(keys: Iterable) -> str:
    """The first few of some keys, for a message."""
    keys = [str(key) if len(str(key)) <= 200 else abbreviate(key) for key in keys]
    return ", ".join(keys[:_SHOWN]) + (", …" if len(keys) > _SHOWN else "")


def newest_predictions(task_name: str, output_dir: str | Path = "outputs") -> Path:
    """The newest prediction file of a task under `output_dir`.

    Raises PredictionError, saying what was looked for.
    """
    folder = results_folder(output_dir, task_name)
    pattern = prediction_path(output_dir, task_name, "*", split="*").relative_to(folder)
    found = sorted(folder.glob(str(pattern)), key=lambda path: path.stat().st_mtime)
    if not found:
        raise PredictionError(
            f"no prediction file: looked for {folder / pattern} in {Path.cwd()}; "
            f"run scripts/eval/eval_video_{task_name}.sh first, or give --predictions FILE"
        )
    return found[-1]
