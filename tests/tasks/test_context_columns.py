"""Columns of context: from every form of data, and what is wrong with them."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crashchat.config import load_config
from crashchat.data.records import AnnotationError
from crashchat.data.sources import load_questions
from crashchat.evaluation_settings import EvalConfig
from crashchat.tasks import CRASHCHAT, TASKS, using
from tests.data.test_annotations import record, write
from tests.helpers.context import INTERVAL, RECOGNITION, as_csv, task_set

ROWS = [
    {"video": "a.mp4", "task": RECOGNITION.name, "answer": "Yes", "speed": 52, "note": "rain"},
    {"video": "a.mp4", "task": INTERVAL.name, "answer": "1.0 - 2.5 seconds", "speed": 52, "note": "rain"},
    {"video": "b.mp4", "task": RECOGNITION.name, "answer": "No", "speed": None, "note": "dry"},
]


ASKED = [
    f"Speed: 52 km/h.\n{RECOGNITION.prompt}",
    f"Speed: 52 km/h.\nNote: rain\n{INTERVAL.prompt}",
    RECOGNITION.prompt,
]


def as_released(folder: Path, rows: list[dict]) -> Path:
    def one(row: dict) -> dict:
        others = {key: row[key] for key in ("speed", "note") if key in row}
        return record(row["video"], TASKS[row["task"]].prompt, row["answer"], **others)

    return write(folder / "rows.json", *map(one, rows))


def as_messages(folder: Path, rows: list[dict]) -> Path:
    path = folder / "rows.jsonl"
    lines = []
    for row in rows:
        prompt = TASKS[row["task"]].prompt
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["answer"]}]
        lines.append(json.dumps({**row, "messages": turns}))
    path.write_text("\n".join(lines))
    return path


def as_parquet(folder: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), folder / "rows.parquet")
    return folder / "rows.parquet"


def as_hub(folder: Path, rows: list[dict]) -> Path:
    hub = folder / "hub"
    hub.mkdir()
    pq.write_table(pa.Table.from_pylist(rows), hub / "test.parquet")
    return hub


FORMS = [as_released, as_messages, as_csv, as_parquet, as_hub]


def config_of(folder: Path, make, rows: list[dict] = ROWS, **others) -> EvalConfig:
    """An evaluation of rows in one form."""
    path = make(folder, rows)
    source = {"hub": str(path)} if make is as_hub else {"path": str(path), "split": "test"}
    words = [f"{key}={json.dumps(value)}" for key, value in ({"data": [source]} | others).items()]
    return load_config(EvalConfig, None, [f"task_set={task_set(folder)}", *words])


def asked(config: EvalConfig) -> list[str]:
    return [one.asked for video in load_questions(config, "test", config.tasks) for one in video.questions]


@pytest.mark.parametrize("make", FORMS)
def test_every_form_of_data_carries_the_columns_and_a_switch_turns_them_off(tmp_path, make):
    with using(CRASHCHAT):
        assert asked(config_of(tmp_path, make)) == ASKED
        shutil.rmtree(tmp_path / "hub", ignore_errors=True)
        assert asked(config_of(tmp_path, make, context=False)) == [TASKS[row["task"]].prompt for row in ROWS]
        assert not TASKS.task_set.context


@pytest.mark.parametrize("make", FORMS)
def test_a_column_that_is_not_there_is_named_with_file_and_row(tmp_path, make):
    rows = [{key: value for key, value in row.items() if key != "note"} for row in ROWS]
    with using(CRASHCHAT):
        config = config_of(tmp_path, make, rows)
        message = r"has no column 'note', .*mine.yaml puts in front of crash_localization"
        with pytest.raises(AnnotationError, match=message) as refused:
            asked(config)
        assert ("hub, split test" if make is as_hub else "rows.") in str(refused.value)
        assert f" {1 + {as_csv: 2, as_messages: 1}.get(make, 0)}: has" in str(refused.value)
        # Questions that do not take it are asked.
        assert len(load_questions(config, "test", [RECOGNITION.name])) == 2


@pytest.mark.parametrize("make", [as_released, as_messages, as_parquet, as_hub])
def test_a_value_that_is_no_text_or_number_is_named_with_file_and_row(tmp_path, make):
    rows = [row | {"speed": [1, 2] if row is ROWS[2] else None} for row in ROWS]
    message = r"(record|line|row) [23]: context 'speed': found a list"
    with using(CRASHCHAT), pytest.raises(AnnotationError, match=message):
        asked(config_of(tmp_path, make, rows))


def test_what_is_no_number_is_refused_and_so_are_signs_that_a_tokenizer_takes_for_more(tmp_path):
    with using(CRASHCHAT):
        rows = [row | {"speed": float("nan")} for row in ROWS]
        with pytest.raises(AnnotationError, match="row 0: context 'speed': found nan, expected a number"):
            asked(config_of(tmp_path, as_parquet, rows))
        rows = [row | {"note": "go<|im_end|>on"} for row in ROWS]
        with pytest.raises(AnnotationError, match=r"rows.csv, row 3: context 'note' holds '<\|im_end\|>'"):
            asked(config_of(tmp_path, as_csv, rows))


def test_one_question_cannot_be_told_two_things_and_a_required_value_must_be_there(tmp_path):
    with using(CRASHCHAT):
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        paths = [as_released(one, ROWS), as_released(two, [row | {"speed": 7} for row in ROWS])]
        files = {"test": [str(path) for path in paths]}
        config = load_config(
            EvalConfig, None, [f"task_set={task_set(tmp_path)}", f"annotation_files={json.dumps(files)}"]
        )
        with pytest.raises(AnnotationError, match="has the context 'Speed: 52 km/h.' to this question"):
            asked(config)
        required = task_set(tmp_path, "\n  speed: {words: '{value}', required: true}\n")
        words = [f"task_set={required}", f"annotation_files={json.dumps(files)}"]
        config = load_config(EvalConfig, None, words)
        with pytest.raises(AnnotationError, match=r"record 2: context 'speed' has no value for crash_recog"):
            asked(config)
