"""Guesses that never look at a frame."""

import json
from pathlib import Path

import numpy as np
import pytest

from crashchat.data.predictions import make_record
from crashchat.metrics.blind import (
    MEAN_TIMES,
    METADATA,
    MOST_FREQUENT,
    MOTION,
    NO_ACCIDENT,
    SOURCE,
    Metadata,
    Outside,
    Training,
    guesses,
    read_metadata,
)
from crashchat.metrics.by_kind import task_sums
from crashchat.tasks import TASKS


def records(task: str, answers: list[str]) -> list[dict]:
    return [
        make_record(
            TASKS[task], n, video_path=f"{n}.mp4", prompt=TASKS[task].prompt, raw_response="", answer=answer
        )
        for n, answer in enumerate(answers)
    ]


def said(rows: dict[str, list[dict]]) -> dict[str, list[str]]:
    return {name: [record["raw_response"] for record in answered] for name, answered in rows.items()}


def test_constant_answers():
    task = TASKS["crash_description"]
    training = Training(["no collision.", "car hits car", "car hits car"])
    assert said(guesses(task, records(task.name, ["a", "b"]), training)) == {
        NO_ACCIDENT: ["no collision."] * 2,
        MOST_FREQUENT: ["car hits car"] * 2,
    }
    task = TASKS["crash_localization"]
    # The last one's ends are swapped.
    training = Training(["1.0 - 2.0 seconds", "1.0 - 2.0 seconds", "9.0 - 4.0 seconds"])
    rows = guesses(task, records(task.name, ["1.0 - 2.0 seconds"]), training)
    assert said(rows) == {
        NO_ACCIDENT: [""],
        MOST_FREQUENT: ["1.0 - 2.0 seconds"],
        MEAN_TIMES: ["2.0 - 4.3 seconds"],
    }
    assert (rows[MEAN_TIMES][0]["pred_start"], rows[MEAN_TIMES][0]["pred_end"]) == (2.0, 4.3)
    rows = guesses(task, records(task.name, ["1.0 - 2.0 seconds"]), None, Outside(sources=["x"]))
    assert list(rows) == [NO_ACCIDENT]


def test_the_source_gives_recognition_away_on_the_released_annotations(shared):
    """docs/reference.md, Annotations: every crash video comes from MM-AU and every other one
    from Nexar or D2City.
    """
    task = TASKS["crash_recognition"]
    annotated = json.loads((shared / "annotations" / task.annotation_file("val")).read_text())
    answers, sources = (
        [entry["conversations"][1]["value"] for entry in annotated],
        [entry["source"] for entry in annotated],
    )
    half = len(annotated) // 2
    training = Training(answers[:half], Outside(sources=sources[:half]))
    rows = guesses(task, records(task.name, answers[half:]), training, Outside(sources=sources[half:]))
    assert task_sums(task, rows[SOURCE]).metrics()["macro_f1"] == 1.0
    assert task_sums(task, rows[MOST_FREQUENT]).metrics()["macro_f1"] < 0.4


@pytest.mark.parametrize("telling", ["width", "fps", "seconds", "codec"])
def test_metadata_that_gives_the_answer_away_is_found(telling):
    def header(number: int, crash: bool) -> Metadata:
        usual = {
            "width": 1280 + number % 3,
            "height": 720,
            "fps": 25.0 + number % 2,
            "seconds": 10.0 + number % 5,
            "codec": "h264",
        }
        return Metadata(
            **usual | ({telling: "hevc" if telling == "codec" else usual[telling] + 7} if crash else {})
        )

    truths = [n % 3 == 0 for n in range(60)]
    headers = [header(n, crash) for n, crash in enumerate(truths)]
    before, now = Outside(metadata=headers[:40]), Outside(metadata=headers[40:])
    for name, answers in (
        ("crash_recognition", ["Yes" if crash else "No" for crash in truths]),
        ("pre_crash_localization", [f"{4.0 if crash else 1.0} seconds" for crash in truths]),
    ):
        rows = guesses(TASKS[name], records(name, answers[40:]), Training(answers[:40], before), now)
        assert said(rows)[METADATA] == answers[40:]


def test_metadata_that_tells_nothing_gives_the_most_frequent_answer():
    answers = ["Yes", "No", "No"] * 10
    same = Outside(metadata=[Metadata(width=64, height=64, fps=10.0, seconds=3.0, codec="h264")] * 30)
    asked = records("crash_recognition", answers)
    rows = guesses(TASKS["crash_recognition"], asked, Training(answers, same), same)
    assert set(said(rows)[METADATA]) == {"No"} and SOURCE not in rows


def test_motion_that_gives_the_answer_away_is_found():
    """A shake of the camera in every crash: a tree sees it, and the crash comes a fixed time after it."""
    crashes = [n % 3 == 0 for n in range(60)]
    moments = [1.0 + n % 7 for n in range(60)]
    motion = [
        np.array([moment, 0.5, 9.0 if crash else 3.0]) for moment, crash in zip(moments, crashes, strict=True)
    ]
    before, now = Outside(motion=motion[:40]), Outside(motion=motion[40:])
    for name, answers in (
        ("crash_recognition", ["Yes" if crash else "No" for crash in crashes]),
        ("crash_localization", [f"{moment - 0.5} - {moment + 1.2} seconds" for moment in moments]),
        ("pre_crash_localization", [f"{moment - 0.8:.1f} seconds" for moment in moments]),
    ):
        rows = guesses(TASKS[name], records(name, answers[40:]), Training(answers[:40], before), now)
        assert said(rows)[MOTION] == answers[40:]
        assert said(rows) == said(
            guesses(TASKS[name], records(name, answers[40:]), Training(answers[:40], before), now)
        )
    # A time before the video's start is none.
    early = Outside(motion=[np.array([0.2, 0.0, 9.0])])
    task = TASKS["pre_crash_localization"]
    answers = [f"{moment - 0.8:.1f} seconds" for moment in moments[:40]]
    rows = guesses(task, records(task.name, ["1.0 seconds"]), Training(answers, before), early)
    assert said(rows)[MOTION] == ["0.0 seconds"]


def test_metadata_comes_from_the_header(tiny_data, tmp_path):
    videos = sorted((tiny_data / "videos").iterdir())[:2]
    first, _second = read_metadata(videos)
    assert first.codec == "h264" and first.width > first.height > 0 and first.fps > 0 and first.seconds > 0
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert read_metadata([*videos, broken]) is None and read_metadata([Path("gone.mp4")]) is None
