"""The rows of a comparison: what is read, what is refused, rows that understand no video, clips."""

import json
import shutil
from pathlib import Path

import pytest

from crashchat.data.predictions import prediction_path
from crashchat.data.truth import Annotations, read_crash_starts
from crashchat.files import write_json_atomic
from crashchat.metrics.blind import BLIND, METADATA, MOTION, NO_ACCIDENT, SOURCE
from crashchat.reporting.clip_cards import clip_cards
from crashchat.reporting.compare import loss_picture, write_report
from crashchat.reporting.comparison import make_comparison, sum_rows
from crashchat.reporting.runs import ReportError, collect, parse_rows
from crashchat.tasks import TASKS
from tests.helpers.comparisons import one_run, read
from tests.helpers.predictions import write_row


def test_rows_that_do_not_look_say_what_they_lack(rows, tiny_data, tmp_path):
    def blind_of(data: Path) -> tuple[dict, list[str]]:
        comparison = make_comparison(one_run(rows), data)
        return comparison.blind, [
            note for note in comparison.notes if "anifest" not in note and "Truth" not in note
        ]

    blind, notes = blind_of(tiny_data)
    # Motion takes decoding, and is only there where it is asked for.
    assert list(blind) == [name for name in BLIND if name != MOTION] and notes == []
    blind, notes = blind_of(tmp_path)
    assert list(blind) == [NO_ACCIDENT] and "No training annotations in" in notes[0]
    for task in TASKS.values():
        shutil.copy(tiny_data / task.annotation_file("train"), tmp_path)
    # It names the sources.
    shutil.copy(tiny_data / TASKS["crash_recognition"].annotation_file("test"), tmp_path)
    blind, notes = blind_of(tmp_path)
    assert METADATA not in blind and SOURCE in blind and "Not every video can be read" in notes[0]


def test_best_worst_and_random_clips_with_answers_as_text(rows, tiny_data, tmp_path):
    odd = write_row(
        tmp_path / "odd",
        tiny_data,
        lambda task, truth: "<b>maybe</b> 1.0 - 2.0" if "local" in task.name else "No",
    )
    records = read({"mute": rows["mute"], "odd": odd}, tiny_data)
    sums = sum_rows(records)
    cards, judged = clip_cards(records, sums, tiny_data, tmp_path / "out")
    assert judged == "odd" and [card.why for card in cards] == ["best", "worst", "random", "random"]
    assert [card.crash for card in cards[:2]] == [True, True]
    assert cards == clip_cards(records, sums, tiny_data, tmp_path / "out")[0]
    crash = cards[0]
    assert [lane.name for lane in crash.lanes] == ["annotated", "mute", "odd"]
    assert (crash.lanes[2].start, crash.lanes[2].end, crash.lanes[1].start) == (1.0, 2.0, None)
    assert crash.lanes[1].verdicts == [("no answer", False), ("no interval", False), ("no first sign", False)]
    records = read({"mute": rows["mute"], "perfect": rows["perfect"]}, tiny_data)
    right = [
        lane for card in clip_cards(records, sum_rows(records), tiny_data, tmp_path)[0] for lane in card.lanes
    ]
    assert ("sign +0.0 s", True) in [said for lane in right for said in lane.verdicts]
    write_report({"odd": [odd]}, tiny_data, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;maybe" in page and "<b>maybe" not in page


def test_crash_starts_come_from_the_annotations_where_predictions_carry_none(rows, tiny_data):
    path = prediction_path(rows["perfect"], "pre_crash_localization", "model")
    released = [
        {key: value for key, value in record.items() if key != "crash_start"}
        for record in json.loads(path.read_text())
    ]
    write_json_atomic(path, released)
    records = read({"perfect": rows["perfect"]}, tiny_data)
    annotations = tiny_data / TASKS["crash_localization"].annotation_file("test")
    assert sum_rows(records)["perfect"]["pre_crash_localization"].metrics()["missing_video_count"] == 2
    assert (
        sum_rows(records, read_crash_starts(annotations))["perfect"]["pre_crash_localization"].metrics()[
            "mIoU"
        ]
        == 1
    )


def test_what_cannot_be_compared_is_refused(rows, tiny_data, tmp_path):
    asked = Annotations(tiny_data, "test")
    with pytest.raises(ReportError, match="no prediction files of the test split in"):
        collect(one_run({"empty": tmp_path / "nowhere"}), asked)
    with pytest.raises(ReportError, match="no prediction files of the val split in"):
        collect(one_run({"mute": rows["mute"]}), Annotations(tiny_data, "val"))
    with pytest.raises(ReportError, match="already"):
        parse_rows(["a=x", "a=y"])
    with pytest.raises(ReportError, match="already"):
        parse_rows([f"{SOURCE}=x"])
    with pytest.raises(ReportError, match=r"\[NAME=\]FOLDER or \[NAME=\]FILE, found '=x'"):
        parse_rows(["=x"])
    assert parse_rows(["a=x", str(tmp_path / "b"), str(tmp_path / "c" / "p.json")]) == {
        "a": [Path("x")],
        "b": [tmp_path / "b"],
        "c": [tmp_path / "c" / "p.json"],
    }
    assert parse_rows(["a=x,y"]) == {"a": [Path("x"), Path("y")]}
    with pytest.raises(ReportError, match="the runs of a row are different folders, found 'x,x'"):
        parse_rows(["a=x,x"])
    with pytest.raises(ReportError, match="there is a row 'about' already"):
        parse_rows(["about=x"])
    with pytest.raises(ReportError, match="--losses"):
        loss_picture(tmp_path)
    path = prediction_path(rows["perfect"], "crash_recognition", "model")
    write_json_atomic(path, json.loads(path.read_text())[:-1])
    with pytest.raises(ReportError, match="row perfect: crash_recognition was asked about other videos"):
        collect(one_run(rows), asked, partial=True)
    path.unlink()
    write_row(rows["perfect"], tiny_data, lambda task, truth: truth)
    another = prediction_path(rows["mute"], "crash_recognition", "another")
    write_json_atomic(another, json.loads(path.read_text()))
    with pytest.raises(ReportError, match="2 prediction files for crash_recognition"):
        collect(one_run({"mute": rows["mute"]}), asked)
    prediction_path(rows["mute"], "crash_recognition", "model").unlink()
    with pytest.raises(ReportError, match="mixes the models another, model"):
        collect(one_run({"mute": rows["mute"]}), asked)
