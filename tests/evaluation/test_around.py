"""Times asked again of the part of each clip around the first answer (around=)."""

import json
from pathlib import Path

import pytest

from crashchat.answering.outputs import Answer
from crashchat.data.annotations import VideoQAs
from crashchat.evaluation.around import Around
from tests.helpers.commands import crashchat

TIMES = "tasks=crash_localization,pre_crash_localization"


def ask(tiny_base: Path, tiny_data: Path, out: Path, *more: str, ok: bool = True) -> str:
    words = [f"model={tiny_base}", f"data_dir={tiny_data}", f"output_dir={out}", "num_workers=0"]
    words += ["decode=constrained", "max_new_tokens=24", *more]
    return crashchat("evaluate", "configs/eval/all_tasks.yaml", *words, ok=ok)


def records(folder: Path) -> dict[str, list[dict]]:
    found = {}
    for path in folder.glob("*_evaluation_results/*/*_predict.json"):
        found[path.parts[-3].removesuffix("_evaluation_results")] = json.loads(path.read_text())
    return found


def test_times_are_asked_again_around_the_first_answers(tiny_base, tiny_data, tmp_path):
    first, again = tmp_path / "first", tmp_path / "again"
    ask(tiny_base, tiny_data, first, TIMES)
    ask(tiny_base, tiny_data, again, TIMES, f"around={first}", "around_seconds=0.5")
    before, after = records(first), records(again)
    assert before.keys() == after.keys() and len(before) == 2
    answered: dict[str, list[float]] = {}
    for record in before["crash_localization"] + before["pre_crash_localization"]:
        fields = [record.get(name) for name in ("pred_start", "pred_end", "pred_time")]
        answered.setdefault(record["video_path"], []).extend(time for time in fields if time is not None)
    for task, own in after.items():
        assert [record["data_id"] for record in own] == [record["data_id"] for record in before[task]]
        for record in own:
            start, end = record["part"]
            times = answered[record["video_path"]]
            assert 0 <= start <= max(0, min(times) - 0.5) and end >= max(times) + 0.5
            said = [record[name] for name in ("pred_start", "pred_end", "pred_time") if name in record]
            assert all(start <= time <= end for time in said) and f"{said[0]:.1f}" in record["raw_response"]
    words = ["--predictions", next(again.glob("crash_loc*/*/*_predict.json")), "--data-dir", tiny_data]
    assert "mIoU" in crashchat("score", "crash_localization", *words)
    file = next(again.glob("crash_loc*/*/*_predict.json"))
    left, another = (
        file.with_name(f".{name}.json.0a1b2c3d") for name in (f"{file.stem}_manifest", "of_another")
    )
    left.touch(), another.touch()  # of runs that were killed
    ask(tiny_base, tiny_data, again, TIMES, f"around={first}", "around_seconds=0.5")  # nothing is left to ask
    assert records(again) == after and not left.exists() and another.exists()


def test_what_cannot_be_asked_again_is_told(tiny_base, tiny_data, tmp_path):
    def fault(*more: str) -> str:
        return ask(tiny_base, tiny_data, tmp_path / "again", *more, ok=False)

    around = f"around={tmp_path / 'first'}"
    assert "give tasks=crash_localization,pre_crash_localization" in fault(around)
    assert "crash_localization_evaluation_results" in fault(around, TIMES)  # there are no first answers
    assert "give another output_dir" in fault(f"around={tmp_path / 'again'}", TIMES)


@pytest.mark.parametrize(
    ("words", "moved"), [("1.0 - 2.5 seconds", "3.5 - 5.0 seconds"), ("no idea", "no idea")]
)
def test_an_answer_on_a_part_has_the_clips_times(words, moved):
    around = Around({"a.mp4": (2.5, 6.0)}, {})
    video = VideoQAs("videos/a.mp4", Path("data/videos/a.mp4"), None)
    other = VideoQAs("videos/b.mp4", Path("data/videos/b.mp4"), None)
    answer = Answer("crash_localization", None, words)
    assert around.moved(video, answer).raw_response == moved
    assert around.moved(other, answer) == answer and around.shown(other) == other
    assert around.shown(video).path == Path("data/videos/a.mp4#t=2.5,6")
    assert around.shown(video).file == video.path
    part = VideoQAs("videos/a.mp4", Path("data/videos/a.mp4#t=10,15"), None)
    assert around.shown(part).path == Path("data/videos/a.mp4#t=12.5,15")
