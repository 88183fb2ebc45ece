"""The queue's order, how far people agree, what the random share says, and the way back to annotations."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from openpyxl import load_workbook
from pyarrow import parquet

from crashchat.__main__ import main
from crashchat.config import ROOT
from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.data.pairs import load_pairs
from crashchat.review.agreement import agreements, cohen_kappa, fleet, share_of
from crashchat.review.export import answers_of
from crashchat.review.folder import Reviewed, read_folder
from crashchat.review.labels import Labels, annotated_labels, model_labels
from crashchat.review.queue import RANDOM, by_worth, due, full_queue, reasons_of
from crashchat.review.splits import recordings, split_of
from crashchat.review.store import Store
from crashchat.tasks import SPLITS, TASKS, TaskSet, using
from tests.helpers.review import make_analysis, result_of


@pytest.fixture
def folder(once, tmp_path) -> Path:
    analysis = once("reviewed", make_analysis) / "analysis"
    shutil.copytree(analysis, tmp_path / "analysis")
    return tmp_path / "analysis"


@pytest.fixture
def store(folder) -> Store:
    store = Store(folder)
    store.sync(read_folder(folder), share=0.3)
    for name, role in (("anna", "reviewer"), ("ben", "reviewer"), ("lea", "lead")):
        store.add_user(name, role, None)
    return store


def test_the_queue_begins_with_what_is_worth_a_look(folder):
    results = {name: clip.result for name, clip in read_folder(folder).items()}
    results["broken"] = result_of("broken", Path("x.mp4"), True, 0.99, status="failed", error="no video")
    order = [result.name for result in by_worth(results.values())]
    # contradiction; probabilities near one half, the nearest first; unlike; failed; all else
    assert order[:3] == ["clip03", "clip09", "clip08"]
    assert order[order.index("clip05") :][:2] == ["clip05", "broken"]
    assert order[-1] == "clip00"
    two = [{"start": 0, "end": 8, "status": "crash"}, {"start": 4, "end": 12, "status": "no crash"}]
    apart = result_of("long", Path("x.mp4"), True, 0.99, windows=two)
    assert reasons_of(apart) == ["windows disagree"]


def test_what_the_model_is_least_certain_of_comes_first():
    fleet = [result_of(f"clip{number}", Path("x.mp4"), True, 0.8 + number / 100) for number in range(3)]
    for result, certainty in zip(fleet, (0.9, 0.4, 0.6), strict=True):
        for answer in result.windows[0].answers:
            answer.certainty = 0.95
        result.windows[0].answers[-1].certainty = certainty
    assert [result.name for result in by_worth(fleet)] == ["clip1", "clip2", "clip0"]


def test_a_look_that_half_a_fleet_has_does_not_fill_the_queue():
    fleet = [
        result_of(f"{look} {number:02d}", Path("x.mp4"), True, 0.8 + number / 100, unlike_training=unlike)
        for look, unlike in (("night", ["Its brightness is 0.10."]), ("rain", []))
        for number in range(10)
    ]
    fleet.append(result_of("odd", Path("x.mp4"), True, 0.99, status="contradiction"))
    fleet.append(result_of("dim", Path("x.mp4"), True, 0.6, unlike_training=["Its brightness is 0.10."]))
    order = [result.name for result in by_worth(fleet)]
    assert order[:2] == ["odd", "dim"], "signs of a wrong answer come first, whatever the look"
    turns = [f"{look} {number:02d}" for number in range(10) for look in ("night", "rain")]
    assert order[2:] == turns, "the looks take turns, the least sure of each first"


def test_the_random_share_is_spread_over_the_queue_and_stays(store, folder):
    results = {name: clip.result for name, clip in read_folder(folder).items()}
    rows = store.clips()
    drawn = {name for name, row in rows.items() if row.random}
    assert len(drawn) == 3
    queue = full_queue(results, rows)
    places = [place for place, (_, why) in enumerate(queue) if why == RANDOM]
    assert {queue[place][0] for place in places} == drawn and places == [1, 5, 8]
    Store(folder).sync(read_folder(folder), share=0.9, seed=5)  # another start draws nothing anew
    assert {name for name, row in store.clips().items() if row.random} == drawn

    first = queue[1][0]
    clip = read_folder(folder)[first]
    store.decide(clip, "anna", "unsure")
    mine = due(queue, store.standings(), "anna", lead=False, people=3)
    theirs = due(queue, store.standings(), "ben", lead=False, people=3)
    assert first not in dict(mine) and first in dict(theirs)  # two are asked about the random share
    store.decide(clip, "anna", "unusable")
    store.decide(clip, "ben", "correct", Labels(crash=False))
    assert due(queue, store.standings(), "lea", lead=True, people=3)[0] == (first, "reviewers disagree")


def test_agreement_and_the_fleets_figures(store, folder):
    # Cohen's example of two by two: 20 + 15 agreed, 5 + 10 not; kappa 0.4.
    pairs = [("y", "y")] * 20 + [("y", "n")] * 5 + [("n", "y")] * 10 + [("n", "n")] * 15
    assert cohen_kappa(pairs) == pytest.approx(0.4)
    assert cohen_kappa([]) is None and cohen_kappa([("y", "y")]) is None
    clips = read_folder(folder)
    for name in ("clip00", "clip01", "clip02"):
        store.decide(clips[name], "anna", "confirm")
        before = model_labels(clips[name].result)
        later = before.model_copy(update={"end": 6.5}) if before.crash else before
        store.decide(clips[name], "ben", "correct" if before.crash else "confirm", later)
    store.decide(clips["clip04"], "ben", "unsure")
    (pair,) = agreements(store.standings())
    assert (pair.one, pair.other, pair.clips, pair.same, pair.kappa) == ("anna", "ben", 3, 3, 1.0)
    assert pair.differences == {"start": 0.0, "end": 0.5, "first_sign": 0.0}

    results = {name: clip.result for name, clip in clips.items()}
    rows = store.clips()
    drawn = [name for name, row in rows.items() if row.random]
    for name in drawn:
        before = model_labels(results[name])
        wrong = name == drawn[0]
        crash = bool(before.crash) != wrong
        store.decide(clips[name], "lea", "correct", Labels(crash=crash))
    found = fleet(results, rows, store.standings())
    truths = [store.standings()[name].final for name in drawn]
    assert found.clips == 3 and found.decided + found.open == 3
    assert found.crash_rate.hits == sum(bool(one and one.after.crash) for one in truths)
    half = share_of(5, 10)
    assert (half.low, half.high) == (pytest.approx(0.2366, abs=1e-4), pytest.approx(0.7634, abs=1e-4))
    assert share_of(0, 0).value is None


def test_annotated_answers_are_labels_and_the_other_way_round():
    crash = Labels(
        crash=True, description="a car.", cause="Ice.", prevention="Wait.", start=1.0, end=2.5, first_sign=0.5
    )
    for labels in (crash, Labels(crash=True), Labels(crash=False)):
        assert annotated_labels(answers_of(labels)) == labels
    with pytest.raises(ValueError, match="says whether there is a crash"):
        annotated_labels({"crash_description": "a car."})


def test_a_recordings_clips_are_never_on_both_sides(tmp_path):
    clips = []
    for number in range(60):
        path = tmp_path / f"drive{number // 6:02d}_{number % 6}.mp4"
        path.write_bytes(f"clip {number}".encode())
        clips.append(Reviewed(result_of(path.stem, path, False, 0.1), path, ""))
    alone = recordings(clips)
    assert len(set(alone.values())) == 60
    grouped = recordings(clips, r"(drive\d+)_")
    assert set(grouped.values()) == {f"drive{number:02d}" for number in range(10)}
    splits = {name: split_of(recording) for name, recording in grouped.items()}
    assert all(len({splits[f"drive{drive:02d}_{part}"] for part in range(6)}) == 1 for drive in range(10))
    shutil.copy(clips[0].video, tmp_path / "copy.mp4")
    copy = Reviewed(result_of("copy", tmp_path / "copy.mp4", False, 0.1), tmp_path / "copy.mp4", "")
    both = recordings([*clips, copy], r"(drive\d+)_")
    assert both["copy"] == both["drive00_0"] == both["drive00_5"]
    many = [split_of(str(number)) for number in range(1000)]
    assert 750 < many.count("train") < 850 and many.count("test") > 60
    assert {split_of(str(number), (0, 0, 100)) for number in range(50)} == {"test"}


def test_decisions_come_out_as_annotations_and_tables(store, folder, tmp_path, capsys):
    clips = read_folder(folder)
    for name in ("clip00", "clip01", "clip02", "clip06", "clip07"):
        store.decide(clips[name], "anna", "confirm", comment="=1+1")
    longer = model_labels(clips["clip04"].result).model_copy(update={"end": 7.25, "cause": ""})
    store.decide(clips["clip04"], "anna", "correct", longer)
    store.decide(clips["clip08"], "anna", "unusable")
    store.decide(clips["clip09"], "anna", "confirm")
    store.decide(clips["clip09"], "ben", "correct", Labels(crash=True))
    out = tmp_path / "labels"
    assert main(["export-labels", str(folder), "--out", str(out), "--splits", "50", "25", "25"]) == 0
    told = capsys.readouterr().out
    assert "6 clips" in told and "left out: 1, people disagree" in told and "left out: 1, unsure" in told
    sides, asked = {}, {}
    for split in SPLITS:
        paths = [path for task in TASKS if (path := out / TASKS[task].annotation_file(split)).is_file()]
        for video in load_annotations(paths, out) if paths else []:
            assert video.path.is_file() and video.name not in sides
            sides[video.name] = split
            asked[video.name] = {question.task: question.answer for question in video.questions}
    assert len(sides) == 6 and asked["videos/clip04.mp4"]["crash_localization"] == "4.0 - 7.2 seconds"
    assert "causal_reasoning" not in asked["videos/clip04.mp4"]
    assert asked["videos/clip01.mp4"]["crash_description"] == "no collision."
    assert annotation_paths(out, ["crash_recognition"], sides["videos/clip00.mp4"])

    rows = parquet.read_table(out / "findings.parquet").to_pylist()
    by_name = {row["name"]: row for row in rows}
    assert len(rows) == 10 and by_name["clip09"]["outcome"] == "disagreement"
    assert by_name["clip05"]["outcome"] == "open" and by_name["clip08"]["outcome"] == "unusable"
    assert (by_name["clip04"]["end"], by_name["clip04"]["model_end"]) == (7.25, 6.0)
    with open(out / "findings.csv", encoding="utf-8") as file:
        assert [row["name"] for row in csv.DictReader(file)] == sorted(by_name)
    sheet = load_workbook(out / "findings.xlsx").active
    comments = [cell for cell in sheet["K"] if cell.value == "=1+1"]
    assert sheet.max_row == 11 and len(comments) == 5 and all(cell.data_type == "s" for cell in comments)
    assert json.loads((out / "statistics.json").read_text())["agreement"][0]["clips"] == 1


def test_what_a_model_was_told_of_a_clip_is_told_to_those_who_learn_from_it(store, folder, tmp_path):
    for name in ("clip00", "clip02"):
        result = json.loads((folder / f"{name}.json").read_text())
        told = {"speed": "42"} if name == "clip00" else {}
        (folder / f"{name}.json").write_text(json.dumps(result | {"context": told}))
    clips, out = read_folder(folder), tmp_path / "labels"
    store.decide(clips["clip00"], "anna", "correct", Labels(crash=False))
    store.decide(clips["clip02"], "anna", "confirm")
    task_set = ROOT / "configs" / "tasks" / "telematics.yaml"
    words = ["--splits", "100", "0", "0", "--task-set", str(task_set)]
    assert main(["export-labels", str(folder), "--out", str(out), *words]) == 0
    with using(TaskSet(task_set)):
        files = [path for task in TASKS.values() if (path := out / task.annotation_file("train")).is_file()]
        videos = load_annotations(files, out, context=tuple(TASKS.task_set.context))
        (pairs,) = load_pairs([out / "pairs" / "train.json"], out)
    asked = {video.name: {question.told for question in video.questions} for video in videos}
    speed = "The ego-car's mean speed is 42 km/h."
    assert asked == {"videos/clip00.mp4": {speed}, "videos/clip02.mp4": {""}}
    assert {pair.told for pair in pairs.questions} == {speed}


def test_what_cannot_be_exported_is_told_in_a_line(store, folder, tmp_path, capsys):
    def told(*words: str) -> str:
        assert main(["export-labels", str(folder), "--out", str(tmp_path / "labels"), *words]) == 1
        assert not (tmp_path / "labels").exists()
        return capsys.readouterr().err

    assert "no clip was confirmed or corrected" in told()
    clip = read_folder(folder)["clip00"]
    store.decide(clip, "anna", "confirm")
    assert "no regular expression" in told("--group", "(")
    assert "expected the percent" in told("--splits", "0", "0", "0")
    (folder / "clip00.json").rename(folder / "clip00.away")
    assert "reviewed, and no longer there" in told()
    assert main(["export-labels", str(tmp_path), "--out", str(tmp_path / "labels")]) == 1
    assert "holds no results" in capsys.readouterr().err


def test_the_random_share_is_held_out_and_a_share_is_replayed(store, folder, tiny_data, tmp_path, capsys):
    clips, rows = read_folder(folder), store.clips()
    for name in clips:
        if name != "clip03":  # the model does not say whether it is a crash
            store.decide(clips[name], "anna", "confirm")
    drawn = {name for name, row in rows.items() if row.random}
    wrong = next(name for name in ("clip00", "clip02", "clip04", "clip06") if name not in drawn)
    store.decide(clips[wrong], "anna", "correct", Labels(crash=False))
    out = tmp_path / "next"
    words = ["--hold-out-random", "--replay", str(tiny_data), "--replay-share", "0.5"]
    assert main(["export-labels", str(folder), "--out", str(out), *words]) == 0
    told = capsys.readouterr().out
    assert "5 videos of" in told and "replayed" in told  # 3 of 6, and 2 of 3
    by_split = {
        split: {video.name for video in load_annotations([out / file], out)}
        for split in SPLITS
        if (out / (file := TASKS["crash_recognition"].annotation_file(split))).is_file()
    }
    assert by_split["test"] == {f"videos/{name}.mp4" for name in drawn - {"clip03"}}
    replayed = {name for name in by_split["train"] | by_split["val"] if name.startswith("replay/")}
    assert len(replayed) == 5 and all((out / name).is_file() for name in replayed)
    (file,) = (out / "pairs").iterdir()
    pairs = load_pairs([file], out)
    assert [video.name for video in pairs] == [f"videos/{wrong}.mp4"]
    answers = {pair.task: (pair.answer, pair.rejected) for pair in pairs[0].questions}
    assert answers["crash_recognition"] == ("No", "Yes") and "crash_localization" not in answers


def test_what_must_not_be_learnt_from_is_refused(store, folder, tiny_data, tmp_path, capsys):
    clips, out = read_folder(folder), tmp_path / "next"
    others = [name for name, row in store.clips().items() if not row.random and name != "clip03"]
    # A clip's path decides between train and val, and pytest's folder has another name each time.
    learnt = next(name for name in others if split_of(clips[name].result.path, (80, 10, 0)) == "train")
    store.decide(clips[learnt], "anna", "confirm")
    words = ["export-labels", str(folder), "--out", str(out), "--hold-out-random"]
    assert main(words) == 1 and "no clip of the random share was confirmed" in capsys.readouterr().err
    for name, row in store.clips().items():
        if row.random and name != "clip03":
            store.decide(clips[name], "anna", "confirm")
    assert main([*words, "--replay", str(tmp_path)]) == 1
    assert "no annotation file of the test split" in capsys.readouterr().err
    assert main([*words, "--replay", str(tiny_data), "--replay-share", "0"]) == 1
    assert "--replay-share 0: expected a share above 0" in capsys.readouterr().err
    held_out = tmp_path / "held_out"
    shutil.copytree(tiny_data, held_out)
    (video,) = load_annotations([tiny_data / TASKS["crash_recognition"].annotation_file("test")], held_out)[
        :1
    ]
    shutil.copyfile(clips[learnt].video, video.path)
    assert main([*words, "--replay", str(held_out)]) == 1
    assert "belong to the test split" in capsys.readouterr().err and not out.exists()


def test_two_reviews_of_one_folder_see_each_others_decisions(store, folder):
    other, clip = Store(folder), read_folder(folder)["clip00"]
    store.decide(clip, "anna", "confirm")
    other.decide(clip, "ben", "correct", Labels(crash=False))
    assert store.standings()["clip00"].disagree and other.standings()["clip00"].disagree
    other.undo("ben")
    assert not store.standings()["clip00"].disagree
    assert [one.id for one in store.decisions()] == [one.id for one in other.decisions()] == [1, 2, 3]
