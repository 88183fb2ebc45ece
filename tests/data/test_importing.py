"""`crashchat import` and `export`: what others made becomes a data folder, and a data folder a hub's data
set.

The tables here are made for these tests, with the columns that are published (docs/data.md) and values of our
own; so are the clips, which nothing here opens.
"""

import csv
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from crashchat.data.annotations import AnnotationError, annotation_paths, load_annotations
from crashchat.data.datasets import read_dataset_card
from crashchat.data.exporting import main as export
from crashchat.data.hub import _Place
from crashchat.data.importing import main as run_import
from crashchat.data.sources import load_sources
from crashchat.data_settings import DataSource
from crashchat.tasks import TASKS, TaskSet, using


def made_clips(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"made for a test: {name}".encode())
    return folder


def made_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def ran(*words) -> int:
    return run_import([str(word) for word in words])


@pytest.fixture
def clips(tmp_path) -> Path:
    return made_clips(tmp_path / "clips", "a.mp4", "b.mp4", "00822.mp4", "01924.mp4")


def answers(videos) -> dict:
    return {(one.name, question.task): question.answer for one in videos for question in one.questions}


def test_a_folder_of_clips_with_a_column_for_each_answer(tmp_path, clips):
    rows = [
        {"clip": "a.mp4", "crash": "Yes", "from": "1.0", "to": "2.5", "drive": "1"},
        {"clip": "b.mp4", "crash": "No", "from": "", "to": "", "drive": "2"},
    ]
    table, out = made_csv(tmp_path / "labels.csv", rows), tmp_path / "mine"
    words = ("csv", table, "--videos", clips, "--out", out, "--split", "test", "--column", "video=clip")
    given = ("--answers", "crash_recognition=crash", "crash_localization={from} - {to} seconds")
    assert ran(*words, *given, "--keep", "drive", "--source", "fleet", "--name", "My fleet") == 0
    paths = annotation_paths(out, ["crash_recognition", "crash_localization"], "test")
    videos = load_annotations(paths, out, keep=["drive"])
    assert answers(videos) == {
        ("videos/a.mp4", "crash_recognition"): "Yes",
        ("videos/a.mp4", "crash_localization"): "1.0 - 2.5 seconds",
        ("videos/b.mp4", "crash_recognition"): "No",
    }
    assert all(one.path.is_file() and one.source == "fleet" for one in videos)
    assert videos[1].questions[0].kept == (("drive", "2"),)
    assert read_dataset_card(out).name == "My fleet"


def test_nexar_s_labels_say_whether_and_since_when(tmp_path, clips, capsys):
    rows = [
        {"id": "822", "time_of_event": "19.5", "time_of_alert": "18.633", "target": "1"},
        {"id": "1924", "time_of_event": "", "time_of_alert": "", "target": "0"},
    ]
    table, out = made_csv(tmp_path / "train.csv", rows), tmp_path / "nexar"
    words = ("--videos", clips, "--out", out, "--shares", "train=1")
    assert ran("nexar", table, *words) == 0
    paths = annotation_paths(out, ["crash_recognition", "pre_crash_localization"], "train")
    videos = load_annotations(paths, out, keep=["time_of_event"])
    assert answers(videos) == {
        ("videos/00822.mp4", "crash_recognition"): "Yes",
        ("videos/00822.mp4", "pre_crash_localization"): "18.6 seconds",
        ("videos/01924.mp4", "crash_recognition"): "No",
    }
    assert videos[0].questions[0].kept == (("time_of_event", "19.5"),)
    assert {one.source for one in videos} == {"Nexar"}
    rows[0] |= {"target": "0"}
    rows[1] |= {"time_of_alert": "3"}
    made_csv(table, rows)
    assert ran("nexar", table, *words[:3], tmp_path / "again", *words[4:]) == 1
    error = capsys.readouterr().err
    assert "2 row(s) cannot be used" in error and not (tmp_path / "again").exists()
    assert f"{table}, row 2: target is 0 and time_of_event 19.5" in error
    assert f"{table}, row 3: time_of_alert is 3 and time_of_event empty" in error


def test_nexar_s_table_on_the_hub_names_files_and_conditions(tmp_path, clips):
    row = {
        "file_name": "00822.mp4", "time_of_event": 19.5, "time_of_alert": 18.633, "light_conditions": "Dark",
        "weather": "Rain", "scene": "Urban", "time_to_accident": None,
    }  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "metadata.parquet")
    out = tmp_path / "nexar"
    assert ran("nexar", tmp_path / "metadata.parquet", "--videos", clips, "--out", out, "--split", "val") == 0
    (video,) = load_annotations(
        annotation_paths(out, ["crash_recognition"], "val"), out, keep=["weather", "scene"]
    )
    assert video.questions[0].kept == (("weather", "Rain"), ("scene", "Urban"))


CHOICES = {
    "list and letter": ({"options": ["a car", "a truck"], "answer": "B"}, ()),
    "lettered list and words": ({"options": ["A. a car", "(B) a truck"], "answer": "a truck"}, ()),
    "lines": ({"options": "A. a car\nB. a truck", "answer": "(B) a truck"}, ()),
    "columns": ({"o1": "a car", "o2": "a truck", "o3": "", "answer": "b"}, ("--options", "o1,o2,o3")),
}


@pytest.mark.parametrize("kind", CHOICES)
def test_multiple_choice_in_the_forms_that_benchmarks_have(tmp_path, clips, kind):
    changes, options = CHOICES[kind]
    row = {"video": "a", "question": "Who is hit?", "topic": "user", **changes}
    table, out = tmp_path / "bench.json", tmp_path / "bench"
    table.write_text(json.dumps([row]))
    words = ("choices", table, "--videos", clips, "--split", "test", "--keep", "topic", *options)
    assert ran(*words, "--out", out) == 0
    (video,) = load_annotations([out / "questions_test.json"], out, keep=["topic"])
    (question,) = video.questions
    assert question.text == "Who is hit?\nA. a car\nB. a truck\nAnswer with the letter of the right option."
    assert (question.answer, question.task, question.kept) == ("B", None, (("topic", "user"),))
    assert ran(*words, "--words", "--out", tmp_path / "words", "--form", "messages") == 0
    source = DataSource(path=[tmp_path / "words" / "messages_test.jsonl"], split="test")
    (video,) = load_sources([source], "test", tmp_path / "words", None)
    assert video.questions[0].answer == "a truck" and video.name == "videos/a.mp4"


def test_questions_with_words_of_their_own_are_of_the_task_that_the_record_names(tmp_path, clips, capsys):
    (tmp_path / "set.yaml").write_text(
        "name: A benchmark\nfile_prefix: bench\ntasks:\n- name: asked\n  title: asked\n  group: choices\n"
        "  answer: {kind: choice, options: [A, B, C, D]}\n  prompt: null\n"
    )
    row = {"video": "a.mp4", "question": "Who is hit?", "options": ["a car", "a truck"], "answer": "B"}
    (tmp_path / "bench.json").write_text(json.dumps([row]))
    words = ("choices", tmp_path / "bench.json", "--videos", clips, "--split", "test")
    given = ("--task-set", tmp_path / "set.yaml", "--task", "asked")
    assert ran(*words, *given, "--out", tmp_path / "bench") == 0
    assert ran(*words, *given, "--out", tmp_path / "talk", "--form", "messages") == 0
    with using(TaskSet(tmp_path / "set.yaml")):
        videos = load_annotations(
            annotation_paths(tmp_path / "bench", TASKS, "test"), tmp_path / "bench", TASKS
        )
        talk = DataSource(path=[tmp_path / "talk" / "messages_test.jsonl"], split="test")
        assert plain(load_sources([talk], "test", Path("data"), TASKS)) == plain(videos)
    (question,) = videos[0].questions
    assert question.task == "asked" and question.text.startswith("Who is hit?\nA. a car")
    assert ran("nexar", tmp_path / "bench.json", *words[2:], *given, "--out", tmp_path / "nexar") == 1
    assert "has no task for each of crash, first_sign" in capsys.readouterr().err


FAULTS = {
    "an answer outside": ({"answer": "C"}, "row 0: the answer is 'C', expected a letter of AB, or an option"),
    "one option": ({"options": ["x"]}, "row 0: the options are ['x'], expected a list of 2 to 26"),
    "twice": ({"options": ["x", "x"]}, "expected each once"),
    "no column": ({"options": None}, "expected a list"),
    "no clip": ({"video": "z.mp4"}, "1 clips are not in"),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_what_cannot_be_imported_is_named_and_nothing_written(tmp_path, clips, kind, capsys):
    changes, message = FAULTS[kind]
    row = {"video": "a.mp4", "question": "Who?", "options": ["one", "two"], "answer": "A"} | changes
    (tmp_path / "bench.json").write_text(json.dumps([row]))
    out = tmp_path / "bench"
    words = ("choices", tmp_path / "bench.json", "--videos", clips, "--out", out)
    assert ran(*words, "--split", "test") == 1
    assert message in capsys.readouterr().err and not out.exists()
    assert ran(*words) == 1 and "found no rule for its split" in capsys.readouterr().err
    assert ran(*words, "--split", "test", "--column", "video") == 1
    assert "--column: found 'video', expected NAME=VALUE" in capsys.readouterr().err


@pytest.fixture
def data_folder(tmp_path) -> Path:
    """A data folder of two splits; a clip's folder is part of its name."""
    folder = tmp_path / "data"
    made_clips(folder, "videos/a.mp4", "videos/b.mp4", "more/a2.mp4")
    for split, names in (("train", ("videos/a.mp4", "more/a2.mp4")), ("val", ("videos/b.mp4",))):
        for task, answer in (("crash_recognition", "Yes"), ("crash_localization", "1.0 - 2.0 seconds")):
            turns = [{"from": "human", "value": TASKS[task].prompt}, {"from": "gpt", "value": answer}]
            records = [
                {"video": [name], "conversations": turns, "source": "x", "ego": "no"} for name in names
            ]
            (folder / TASKS[task].annotation_file(split)).write_text(json.dumps(records))
    return folder


def plain(videos) -> list:
    """Without where the files lie, and how rows are numbered."""
    return [
        (one.name, one.source, [(q.text, q.answer, q.task, q.kept) for q in one.questions]) for one in videos
    ]


def test_an_export_is_read_back_to_the_same_questions(tmp_path, data_folder, capsys):
    out = tmp_path / "hub"
    words = [str(data_folder), "--out", str(out), "--keep", "ego", "--license", "cc-by-4.0"]
    assert export(words) == 0
    assert "train 2 clips, validation 1 clips" in capsys.readouterr().out
    paths = annotation_paths(data_folder, ["crash_recognition", "crash_localization"], "train")
    expected = load_annotations(paths, data_folder, keep=["ego"])
    source = DataSource.model_validate(
        {
            "path": out / "train" / "metadata.parquet",
            "videos": out / "train",
            "split": "train",
            "columns": {"video": "file_name", "keep": ["ego"]},
        }
    )
    found = load_sources([source], "train", Path("data"), TASKS)
    assert plain(found) == plain(expected)
    assert [one.path.read_bytes() for one in found] == [one.path.read_bytes() for one in expected]
    assert "license: cc-by-4.0" in (out / "README.md").read_text()
    assert export(words) == 1 and "is not empty" in capsys.readouterr().err


@pytest.mark.parametrize("streaming", [False, True])
def test_the_hub_s_own_package_loads_an_export(streaming, tmp_path, data_folder, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    out = tmp_path / "hub"
    assert export([str(data_folder), "--out", str(out), "--keep", "ego"]) == 0
    loaded = datasets.load_dataset(str(out))
    assert {name: len(rows) for name, rows in loaded.items()} == {"train": 4, "validation": 2}
    assert isinstance(loaded["train"].features["video"], datasets.Video)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "other_cache")
    source = DataSource.model_validate(
        {"hub": str(out), "columns": {"keep": ["ego"]}, "streaming": streaming}
    )
    for split in ("train", "val"):
        paths = annotation_paths(data_folder, ["crash_recognition", "crash_localization"], split)
        found = load_sources([source], split, Path("data"), TASKS)
        assert plain(found) == plain(load_annotations(paths, data_folder, keep=["ego"]))
        assert all(one.path.is_file() for one in found)
    assert bool(list((tmp_path / "other_cache").rglob("*.arrow"))) != streaming


def test_videos_that_streaming_does_not_fetch_are_named():
    rows = iter([{"video": {"bytes": None, "path": "hf://datasets/a/b@main/videos/a.mp4"}}])
    with pytest.raises(AnnotationError, match="hub: a/b: .*hf://.*a.mp4.*leave streaming"):
        list(_Place(DataSource(hub="a/b", streaming=True), "train").named(rows))


@pytest.mark.parametrize("streaming", [False, True])
def test_videos_that_a_table_holds_become_files(streaming, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("CRASHCHAT_CACHE", str(tmp_path / "ours"))
    rows = [{"video": {"bytes": b"made", "path": "a.mp4"}, "task": "crash_recognition", "answer": "Yes"}]
    features = datasets.Features(
        {
            "video": datasets.Video(decode=False),
            "task": datasets.Value("string"),
            "answer": datasets.Value("string"),
        }
    )
    (tmp_path / "hub").mkdir()
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "hub" / "train.parquet")
    (video,) = load_sources(
        [DataSource(hub=str(tmp_path / "hub"), streaming=streaming)], "train", Path("data"), TASKS
    )
    assert video.path.read_bytes() == b"made" and video.path.name == "a.mp4"
    assert video.path.is_relative_to(tmp_path / "ours")


def test_a_hub_data_set_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "empty").mkdir()
    for hub in (tmp_path / "nowhere", tmp_path / "empty"):
        with pytest.raises(AnnotationError, match=f"hub: {hub}: cannot be loaded: .*; expected OWNER/NAME"):
            load_sources([DataSource(hub=str(hub))], "train", Path("data"), TASKS)
    (tmp_path / "empty" / "train.csv").write_text("video,answer\na.mp4,Yes\n")
    with pytest.raises(
        AnnotationError, match="split train: has no column 'clip'; its columns are video, answer"
    ):
        source = DataSource.model_validate({"hub": str(tmp_path / "empty"), "columns": {"video": "clip"}})
        load_sources([source], "train", Path("data"), TASKS)


def test_an_export_names_clips_that_are_missing(tmp_path, data_folder, capsys):
    (data_folder / "videos" / "b.mp4").unlink()
    assert export([str(data_folder), "--out", str(tmp_path / "hub")]) == 1
    assert "1 clips are missing, e.g. " in capsys.readouterr().err
    assert export([str(tmp_path), "--out", str(tmp_path / "hub")]) == 1
    assert "holds no questions of any split" in capsys.readouterr().err
