"""crashchat check-data: the released files' oddities, a sound set, and every planted fault found."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.config import ROOT
from crashchat.tasks import TASKS
from tests.helpers.commands import crashchat


def check(folder: Path, *options: str) -> tuple[int, str]:
    """Exit code and output of the tool."""
    command = [sys.executable, "-m", "crashchat", "check-data", str(folder), *options]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout + done.stderr


def found(folder: Path, *options: str) -> tuple[int, dict[str, list[dict]]]:
    """Exit code and the findings by kind."""
    out = folder / "findings.json"
    code, _ = check(folder, "--json", str(out), *options)
    kinds: dict[str, list[dict]] = {}
    for finding in json.loads(out.read_text())["findings"]:
        kinds.setdefault(finding["kind"], []).append(finding)
    return code, kinds


class Copy:
    """A copy of the tiny set to plant faults in."""

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, task: str, split: str = "train") -> Path:
        return self.folder / TASKS[task].annotation_file(split)

    def records(self, task: str, split: str = "train") -> list:
        return json.loads(self.path(task, split).read_text())

    def write(self, task: str, records: list, split: str = "train") -> None:
        self.path(task, split).write_text(json.dumps(records))

    def answer(self, task: str, video: str, text: str) -> None:
        """Give a train video another answer."""
        records = self.records(task)
        (record,) = (record for record in records if record["video"] == [video])
        record["conversations"][1]["value"] = text
        self.write(task, records)

    def crashes(self) -> list[str]:
        """Train videos with a crash."""
        return [record["video"][0] for record in self.records("crash_localization")]

    def calm(self) -> list[str]:
        """Train videos without one."""
        return [
            r["video"][0] for r in self.records("crash_recognition") if r["video"][0] not in self.crashes()
        ]


@pytest.fixture
def copy(tiny_data, tmp_path) -> Copy:
    shutil.copytree(tiny_data, tmp_path / "set")
    return Copy(tmp_path / "set")


def test_released_files(shared):
    code, output = check(shared / "annotations", "--no-videos", "--all")
    assert code == 0
    assert "note       6  start not before end" in output and "videos/dada_11_239.mp4" in output
    assert "0 errors, 6 notes" in output
    assert (
        "the source alone predicts recognition for 100.0% of 1838 videos (always the commonest label: 62.0%)"
        in output
    )


def test_a_sound_set_passes(copy):
    code, kinds = found(copy.folder, "--workers", "1")
    assert (code, kinds) == (0, {})


def test_faults_in_videos_and_times(copy):
    first, second, third = copy.crashes()
    deleted, cut = copy.calm()[:2]
    (copy.folder / deleted).unlink()
    whole = (copy.folder / cut).read_bytes()
    (copy.folder / cut).write_bytes(whole[: len(whole) // 2])
    copy.answer("crash_localization", first, "1.0 - 99.0 seconds")
    copy.answer("crash_localization", second, "2.0 - 1.0 seconds")
    copy.answer("pre_crash_localization", third, "5.0 seconds")
    copy.answer("crash_localization", third, "4.0 - 4.5 seconds")
    code, kinds = found(copy.folder, "--workers", "1")
    assert code == 1
    assert [f["where"] for f in kinds["missing video"]] == [deleted]
    assert [f["where"] for f in kinds["unreadable video"]] == [cut]
    assert first in [f["where"] for f in kinds["time past the video's end"]]
    assert [f["where"] for f in kinds["start not before end"]] == [second]
    assert third in [f["where"] for f in kinds["pre-crash time not before the crash"]]


def test_faults_in_records(copy):
    crash, calm = copy.crashes()[0], copy.calm()[0]
    copy.answer("crash_description", calm, "ego-car hits a car.")  # recognition says No
    records = copy.records("causal_reasoning")
    again = json.loads(json.dumps(records[0]))
    again["conversations"][1]["value"] = "Another cause altogether."
    copy.write(
        "causal_reasoning", [*records, again, records[1], "garbage", {**records[2], "conversations": []}]
    )
    copy.write("crash_localization", [r for r in copy.records("crash_localization") if r["video"] != [crash]])
    copy.write("prevention_reasoning", copy.records("prevention_reasoning")[1:])
    both = copy.records("crash_recognition", "val") + copy.records("crash_recognition", "train")[:1]
    copy.write("crash_recognition", both, "val")
    code, kinds = found(copy.folder, "--no-videos")
    assert code == 1
    assert calm in [f["where"] for f in kinds["tasks disagree"]]
    assert [f["where"].split(", ")[1] for f in kinds["contradicting answers"]] == ["record 6"]
    assert [f["where"].split(", ")[1] for f in kinds["duplicated question"]] == ["record 7"]
    assert [f["where"].split(", ")[1] for f in kinds["unusable record"]] == ["record 8", "record 9"]
    assert crash in [f["where"] for f in kinds["crash without localization"]]
    assert "prevention_reasoning" in " ".join(f["message"] for f in kinds["missing answer"])
    assert [f["where"] for f in kinds["video in two splits"]] == copy.records("crash_recognition")[0]["video"]
    assert {f["level"] for f in kinds["tasks disagree"] + kinds["video in two splits"]} == {"error"}
    assert {f["level"] for f in kinds["crash without localization"] + kinds["missing answer"]} == {"note"}


def test_files(copy):
    copy.path("crash_description", "test").unlink()
    copy.path("causal_reasoning", "test").write_text("[{")
    copy.write("crash_recognition", copy.records("crash_description"), "val")
    # The released misspelt multi-task file repeats the others' records, and is read.
    repeated = copy.records("prevention_reasoning", "val")
    repeated[0]["conversations"][1]["value"] = "Something else."
    (copy.folder / f"{TASKS.file_prefix}_heterogeneousl_val.json").write_text(json.dumps(repeated))
    code, kinds = found(copy.folder, "--no-videos")
    assert code == 1
    files = [copy.path(task, "test").name for task in ("crash_description", "causal_reasoning")]
    assert [f["where"] for f in kinds["missing or unusable file"]] == files
    assert len(kinds["not the file's prompt"]) == 6
    assert [f["where"] for f in kinds["contradicting answers"]] == [
        f"{TASKS.file_prefix}_heterogeneousl_val.json, record 0"
    ]
    assert found(copy.folder, "--no-videos", "--split", "train") == (0, {})


def test_a_folder_without_annotation_files(tmp_path):
    code, output = check(tmp_path)
    assert code == 2
    assert f"no annotation file {TASKS.file_prefix}_*_SPLIT.json" in output and str(tmp_path) in output


SOURCES = """
data:
- path: {folder}/rows.csv
  videos: {videos}
  split_column: part
- path: {folder}/more.csv
  name: others
  videos: {folder}
  split: train
"""


def test_the_sources_of_a_config_are_looked_through_row_by_row(tiny_data, tmp_path):
    clip, other = sorted((tiny_data / "videos").glob("train_*.mp4"))[:2]
    rows = [
        f"videos/{clip.name},crash_recognition,Yes,train",
        f"videos/{clip.name},crash_localization,1.0 - 900.0 seconds,train",
        f"videos/{other.name},crash_recognition,perhaps,train",
        f"videos/{other.name},crash_description,no collision.,train",
        f"videos/{other.name},crash_description,no collision.,test",
        "videos/gone.mp4,crash_recognition,No,validation",
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["video,task,answer,part", *rows]))
    # Another folder's clip of the same name is another video.
    (tmp_path / "videos").mkdir()
    shutil.copy(clip, tmp_path / "videos" / clip.name)
    (tmp_path / "more.csv").write_text(f"video,task,answer\nvideos/{clip.name},crash_recognition,Yes\n")
    config = tmp_path / "mine.yaml"
    config.write_text(SOURCES.format(folder=tmp_path, videos=tiny_data))
    words = ["check-data", "--config", config, "--workers", 1, "--json", tmp_path / "found.json"]
    told = crashchat(*words, ok=False)
    assert f"{config}: 2 annotation files" in told
    findings = [
        (one["kind"], one["split"], one["where"])
        for one in json.loads((tmp_path / "found.json").read_text())["findings"]
        if one["level"] == "error"
    ]
    assert sorted(findings) == [
        ("missing video", "val", str(tiny_data / "videos" / "gone.mp4")),
        ("time past the video's end", "train", str(clip)),
        ("unusable record", "train", f"{tmp_path}/rows.csv, row 4"),
        ("video in two splits", "train", str(other)),
    ]
    (tmp_path / "rows.csv").write_text("\n".join(["video,task,answer,part", rows[0]]))
    assert "0 errors" in crashchat("check-data", "--config", config, "--workers", 1)
    (tmp_path / "rows.csv").write_text("video,task,reply,part\na.mp4,crash_recognition,Yes,train\n")
    assert "has no column 'answer'" in crashchat("check-data", "--config", config, ok=False)
    config.write_text("data_dir: data\n")
    assert "has no `data:`" in crashchat("check-data", "--config", config, ok=False)
