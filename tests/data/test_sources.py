"""`data:` in a config: every form gives the same questions; splits, filters, weights; what is wrong is
named.
"""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crashchat.config import ConfigError, load_config
from crashchat.data.annotations import load_annotations
from crashchat.data.records import AnnotationError
from crashchat.data.sources import (
    describe_questions,
    hash_share,
    load_questions,
    load_sources,
    question_files,
    weighted,
)
from crashchat.data_settings import DataSource
from crashchat.evaluation_settings import EvalConfig
from crashchat.tasks import TASKS
from tests.data.test_annotations import record, write

INTERVAL = TASKS["crash_localization"].prompt
ROWS = [
    {
        "video": "videos/a.mp4",
        "question": TASKS["crash_recognition"].prompt,
        "answer": "Yes",
        "part": "train",
    },
    {"video": "videos/a.mp4", "question": INTERVAL, "answer": "1.0 - 2.5 seconds", "part": "train"},
    {"video": "videos/b.mp4", "question": TASKS["crash_recognition"].prompt, "answer": "No", "part": "dev"},
]
for number, row in enumerate(ROWS):
    row |= {"source": ("Nexar", None, "fleet")[number], "ego": ("yes", "yes", "no")[number]}


def released(folder: Path) -> Path:
    records = [
        record(
            row["video"],
            row["question"],
            row["answer"],
            source=row["source"],
            part=row["part"],
            ego=row["ego"],
        )
        for row in ROWS
    ]
    return write(folder / "rows.json", *records)


def messages(folder: Path) -> Path:
    """In turn: OpenAI's parts, a list of videos, ShareGPT's turns."""
    lines = []
    for number, row in enumerate(ROWS):
        others = {key: row[key] for key in ("source", "part", "ego")}
        text = {"type": "text", "text": row["question"]}
        content = (
            [{"type": "video", "video": row["video"]}, text] if not number else f"<video>{row['question']}"
        )
        turns = [{"role": "user", "content": content}, {"role": "assistant", "content": row["answer"]}]
        talk = [{"from": "human", "value": content}, {"from": "gpt", "value": row["answer"]}]
        lines.append(
            (
                {"messages": turns},
                {"messages": turns, "videos": [row["video"]]},
                {"conversations": talk, "video": row["video"]},
            )[number]
            | others
        )
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def as_csv(folder: Path, rows=ROWS, name="rows.csv") -> Path:
    path = folder / name
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def parquet(folder: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "rows.parquet")
    return folder / "rows.parquet"


def source(path: Path, **settings) -> DataSource:
    return DataSource.model_validate({"path": path, "split": "train"} | settings)


def load(one: DataSource, split="train", tasks=tuple(TASKS), data_dir="data"):
    return load_sources([one], split, Path(data_dir), tasks)


@pytest.mark.parametrize("make", [released, messages, as_csv, parquet])
def test_every_form_gives_what_the_released_form_gives(tmp_path, make):
    expected = load_annotations([released(tmp_path)], "data", TASKS, keep=["ego"])
    found = load(source(make(tmp_path), columns={"keep": ["ego"]}))
    assert found == expected
    assert [(one.task, one.data_id, one.kept) for one in found[0].questions] == [
        ("crash_recognition", 0, (("ego", "yes"),)),
        ("crash_localization", 1, (("ego", "yes"),)),
    ]


def test_a_column_may_name_the_task_whose_prompt_is_then_the_question(tmp_path):
    rows = [
        {"clip": "a.mp4", "what": "crash_recognition", "says": "Yes", "words": ""},
        {
            "clip": "a.mp4",
            "what": "crash_localization",
            "says": "1 - 2 seconds",
            "words": "When is the crash?",
        },
    ]
    columns = {"video": "clip", "task": "what", "answer": "says", "question": "words"}
    (video,) = load(source(as_csv(tmp_path, rows), columns=columns))
    assert [(one.task, one.text) for one in video.questions] == [
        ("crash_recognition", TASKS["crash_recognition"].prompt),
        ("crash_localization", "When is the crash?"),
    ]
    rows[1]["what"] = "crash_localisation"
    with pytest.raises(
        AnnotationError, match="rows.csv, row 3: the task is 'crash_localisation', expected one"
    ):
        load(source(as_csv(tmp_path, rows), columns=columns))


def test_a_column_says_the_split(tmp_path):
    one = source(
        as_csv(tmp_path), split=None, split_column="part", split_values={"train": "train", "val": "dev"}
    )
    assert [video.name for video in load(one)] == ["videos/a.mp4"]
    assert [video.name for video in load(one, "val")] == ["videos/b.mp4"]
    with pytest.raises(AnnotationError, match="no question .* split test"):
        load(one, "test")
    one.split_values.pop("val")
    with pytest.raises(
        AnnotationError, match="rows.csv, row 4: column 'part' is 'dev', .*'train', 'dev'; name"
    ):
        load(one)


def test_shares_split_by_recording_and_do_not_depend_on_other_rows(tmp_path):
    rows = [
        {
            "video": f"{number}.mp4",
            "answer": "Yes",
            "task": "crash_recognition",
            "drive": f"drive {number // 4}",
        }
        for number in range(400)
    ]
    shares = {"test": 0.2, "train": 0.6, "val": 0.2}
    one = source(as_csv(tmp_path, rows), split=None, split_shares=shares, recording="drive")
    parts = {split: {video.name for video in load(one, split)} for split in shares}
    assert sum(map(len, parts.values())) == 400 == len(set.union(*parts.values()))
    for names in parts.values():
        assert {f"{4 * (int(Path(name).stem) // 4)}.mp4" for name in names} <= names
    assert 0.45 < len(parts["train"]) / 400 < 0.75
    half = source(
        as_csv(tmp_path, rows[:200], "half.csv"), split=None, split_shares=shares, recording="drive"
    )
    assert {video.name for video in load(half)} == {f"{n}.mp4" for n in range(200)} & parts["train"]
    other = one.model_copy(update={"seed": 1})
    assert {video.name for video in load(other)} != parts["train"]


def test_filters_keep_the_rows_that_have_a_value(tmp_path):
    path = as_csv(tmp_path)
    assert [video.name for video in load(source(path, where={"ego": "no"}))] == ["videos/b.mp4"]
    assert len(load(source(path, where={"ego": ["no", "yes"], "part": "train"}))) == 1
    with pytest.raises(AnnotationError, match="no row has ego = True; its values are 'yes', 'no'"):
        load(source(path, where={"ego": True}))
    with pytest.raises(AnnotationError, match="rows.csv: has no column 'weather'; its columns are video"):
        load(source(path, where={"weather": "rain"}))


def test_weights_say_how_often_an_epoch_passes_a_source(tmp_path):
    rows = [{"video": f"{number}.mp4", "answer": "Yes", "task": "crash_recognition"} for number in range(200)]
    (tmp_path / "b").mkdir()
    twice = source(as_csv(tmp_path, rows[:3]), weight=2)
    half = source(as_csv(tmp_path / "b", rows), weight=0.5, videos=tmp_path)
    videos = load_sources([twice, half], "train", Path("data"), TASKS)
    assert len(videos) == 203
    mixed = weighted(videos, seed=0)
    names = [video.path for video in mixed]
    assert all(names.count(Path("data") / f"{number}.mp4") == 2 for number in range(3))
    drawn = [name for name in names if name.parent == tmp_path]
    assert len(drawn) == len(set(drawn)) and 70 < len(drawn) < 130
    assert weighted(videos[:0], 0) == [] and 0 <= hash_share(0, "a") < 1
    assert [one.data_id for video in videos for one in video.questions] == list(range(203))


def test_a_config_reads_its_sources_and_says_what_it_took(tmp_path):
    path = as_csv(tmp_path)
    (tmp_path / "train.yaml").write_text(
        f"data_dir: {tmp_path}\ndata:\n- path: {path}\n  name: my fleet\n  split: test\n"
    )
    config = load_config(EvalConfig, tmp_path / "train.yaml")
    videos = load_questions(config, "test", config.tasks)
    use = describe_questions(config, "test", config.tasks, videos)
    assert question_files(config, "test", config.tasks) == [path]
    assert (use.name, use.videos, use.questions, use.drawn) == ("my fleet", 2, 3, False)
    assert list(use.annotations) == ["rows.csv"]


WRONG = {
    "an unknown key": ({"columnes": {}}, "columnes"),
    "no place": ({"path": []}, "either path or hub"),
    "two places": ({"hub": "a/b"}, "either path or hub"),
    "no split": ({"split": None}, "found no rule for its split"),
    "two splits": ({"split_column": "x"}, "found split and split_column"),
    "too much": ({"split": None, "split_shares": {"train": 0.9, "val": 0.2}}, "add up to 1.1"),
    "an ending": ({"path": "rows.xls"}, "rows.xls: its ending says no form"),
    "a word twice": ({"split_values": {"train": "a", "val": ["a"]}}, "'a' stands for two splits"),
    "a split": ({"split": "training"}, "split"),
    "no weight": ({"weight": 0}, "weight"),
    "a revision of a file": ({"revision": "main"}, "go with hub alone"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_source_that_cannot_be_is_a_setting_s_error(tmp_path, kind):
    change, message = WRONG[kind]
    one = {"path": "rows.csv", "split": "train"} | change
    (tmp_path / "odd.yaml").write_text(json.dumps({"data": [one]}))
    with pytest.raises(ConfigError, match="odd.yaml") as caught:
        load_config(EvalConfig, tmp_path / "odd.yaml")
    assert message in str(caught.value)
