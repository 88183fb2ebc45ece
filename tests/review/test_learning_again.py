"""The whole circle: clips are analyzed and reviewed, the model goes on learning, and a verdict is given."""

import json
from pathlib import Path

import pytest

from crashchat.checkpoints.model_card import read_card
from crashchat.data.annotations import load_annotations
from crashchat.review.folder import read_folder
from crashchat.review.labels import Labels, annotated_labels
from crashchat.review.store import Store
from crashchat.synthetic.make import make_demo_set
from crashchat.tasks import TASKS
from tests.helpers.commands import SETTINGS, crashchat, run
from tests.helpers.predictions import write_row

SCRIPT = "scripts/train/Continue_from_review.sh"


def labels_of(data: Path) -> dict[str, Labels]:
    """{video's name: what a reviewer says who sees all that was annotated}."""
    files = [path for task in TASKS.values() for path in data.glob(task.annotation_file("*"))]
    return {
        Path(video.name).stem: annotated_labels({one.task: one.answer for one in video.questions})
        for video in load_annotations(files, data)
    }


@pytest.mark.slow  # each of its commands has tests of its own; here they stand in a row
def test_from_a_folder_of_clips_to_a_verdict(tiny_data, trained, tiny_base, tmp_path):
    fleet, analysis, out = tmp_path / "fleet", tmp_path / "analysis", tmp_path / "next"
    make_demo_set(fleet, train=8, val=1, test=1, seed=11, workers=1)
    model = ["--model", tiny_base, "--linguistic", trained, "--perception", trained]
    crashchat("analyze", fleet / "videos", "--out", analysis, *model, "--max-new-tokens", "16")
    clips, store = read_folder(analysis), Store(analysis)
    store.sync(clips, share=0.4)
    store.add_user("anna", "lead", None)
    truth = labels_of(fleet)
    for name, clip in clips.items():
        store.decide(clip, "anna", "correct", truth[name])

    deployed = [f"base_model={tiny_base}", f"adapter={trained}", f"data_dir={tiny_data}"]
    words = [*deployed, f"output_dir={out}", "replay=0.5", "drawn=true"]
    given = [word for word in SETTINGS if not word.startswith("base_model=")]
    script = ["bash", SCRIPT, "1", str(analysis), *words, *given]
    try:
        output, code = run(*script), 0
    except AssertionError as failed:
        output, code = str(failed), 1
    assert (out / "verdict.json").is_file(), output
    verdict = json.loads((out / "verdict.json").read_text())
    held_out, drawn = verdict["on"]
    assert held_out["data"] == str(tiny_data) and drawn["data"] == str(out / "data")
    for one in verdict["on"]:
        differences = [task["value"] for task in one["tasks"].values()]
        assert one["mean"] == pytest.approx(sum(differences) / len(differences))
        worse = one["mean"] < 0 or any(task["high"] < 0 for task in one["tasks"].values())
        assert bool(one["worse"]) == worse
    assert verdict["recommended"] == (not held_out["worse"] and not drawn["worse"]) == (code == 0)
    assert ("recommended: the new model" in output) == (code == 0)
    assert ("is not recommended, it is worse on" in output) == (code == 1)
    card = read_card(out / "train")
    assert card.settings["start"] == "trained" and card.data[-1].name == "data" and card.data[-1].drawn
    assert len(held_out["tasks"]) == 6 and drawn["tasks"].keys() <= held_out["tasks"].keys()


def test_a_model_that_is_worse_is_not_recommended(tiny_data, tmp_path):
    right = write_row(tmp_path / "right", tiny_data, lambda task, truth: truth)
    wrong = write_row(tmp_path / "wrong", tiny_data, lambda task, truth: "No")
    one_task = write_row(tmp_path / "one", tiny_data, lambda task, truth: truth, ["crash_recognition"])
    verdict = tmp_path / "verdict.json"

    def told(*sets: tuple[Path, Path], ok: bool) -> str:
        words = [word for old, new in sets for word in ("--on", tiny_data, old, new)]
        return crashchat("recommend", *words, "--out", verdict, ok=ok)

    assert "worse on none of" in told((wrong, right), (right, right), ok=True)
    assert json.loads(verdict.read_text())["recommended"]
    output = told((wrong, right), (right, wrong), ok=False)
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "not recommended, it is worse on" in line and "crash interval mIoU -1.000" in line
    assert not json.loads(verdict.read_text())["recommended"]
    assert "do not answer the same tasks" in told((right, one_task), ok=False)
    assert "no prediction files" in told((right, tmp_path), ok=False)


def test_what_the_script_lacks_is_named(tmp_path):
    words = ["base_model=ckpt/tiny_base", f"data_dir={tmp_path}", f"output_dir={tmp_path / 'out'}"]
    for left_out in words:
        given = [word for word in words if word != left_out]
        key = left_out.partition("=")[0]
        assert f"error: {key} is not given" in run("bash", SCRIPT, str(tmp_path), *given, ok=False)
    assert "expected key=value" in run("bash", SCRIPT, str(tmp_path), *words, "epochs", ok=False)
    assert "Continue_from_review.sh [processes] REVIEW_FOLDER" in run("bash", SCRIPT, ok=False)
