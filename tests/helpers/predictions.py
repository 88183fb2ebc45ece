"""Prediction files of made-up models."""

import json
from pathlib import Path

from crashchat.data.predictions import make_record, prediction_path
from crashchat.files import write_json_atomic
from crashchat.tasks import TASKS


def write_row(folder: Path, data: Path, answer, tasks=tuple(TASKS)) -> Path:
    """Prediction files of a made-up model: answer(task, annotated answer) -> its answer."""
    for name in tasks:
        task = TASKS[name]
        records = json.loads((data / task.annotation_file("test")).read_text())
        starts, intervals = {}, data / TASKS["crash_localization"].annotation_file("test")
        for record in json.loads(intervals.read_text()) if intervals.is_file() else ():
            starts[record["video"][0]] = float(record["conversations"][1]["value"].split()[0])
        made = [
            make_record(
                task,
                index,
                video_path=str(data / record["video"][0]),
                prompt=task.prompt,
                raw_response=answer(task, record["conversations"][1]["value"]),
                answer=record["conversations"][1]["value"],
                crash_start=starts.get(record["video"][0]),
            )
            for index, record in enumerate(records)
        ]
        write_json_atomic(prediction_path(folder, name, "model"), made)
    return folder
