"""Reinforcement in real processes: the same adapter from one process and from two, and after a
kill.
"""

import json
import shutil

import pytest

from crashchat.checkpoints.model_card import read_card
from tests.helpers.commands import adapter, crashchat, distance, forked

CONFIG = "configs/train/reinforce_localization.yaml"
SETTINGS = [
    "with=configs/train/tiny_reinforce.yaml", "max_steps=4", "eval_steps=2", "save_steps=2", "rollouts=4",
    "videos_per_step=2", "global_batch_size=6", "max_new_tokens=12", "logging_steps=1", "val_videos=2",
]  # fmt: skip
LINGUISTIC = "tasks=crash_recognition"  # what the start knows of it is learnt beside


def reinforce(tiny_data, start, out, processes: int, *more: str, ok: bool = True) -> str:
    words = [*SETTINGS, f"data_dir={tiny_data}", f"adapter={start}", f"output_dir={out}", *more]
    return forked("reinforce", CONFIG, *words, processes=processes, ok=ok)


@pytest.fixture(scope="module")
def reinforced(tiny_data, trained, tmp_path_factory):
    out = tmp_path_factory.mktemp("reinforced") / "out"
    output = reinforce(tiny_data, trained, out, 1)
    return out, output


def test_a_run_leaves_an_ordinary_adapter_and_says_what_was_drawn(reinforced, trained, tiny_base, tmp_path):
    out, output = reinforced
    assert adapter(out).keys() == adapter(trained).keys() and distance(out, trained) > 1e-5
    assert "4 answers drawn to each question on 2 videos and 6 annotated ones" in output
    assert "best validation reward" in output
    log = json.loads((out / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    steps = [record for record in log if "loss" in record]
    assert len(steps) == 4
    for record in steps:
        assert -1 <= record["reward"] <= 1 and 0 <= record["unparsed"] <= 1 and 0 <= record["teaching"] <= 1
        assert {"outside", "distinct", "answer_tokens", "tokens_per_second"} <= record.keys()
    assert [record["step"] for record in log if "eval_reward" in record] == [2, 4]
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    card, start = read_card(out), read_card(trained)
    assert card.settings["rollouts"] == 4 and card.settings["start"] == "trained"
    assert card.best_validation_loss is None and -1 <= card.settings["best_validation_reward"] <= 1
    assert card.data[: len(start.data)] == start.data and len(card.data) == 2 * len(start.data)
    assert [len(use.annotations) for use in card.data[-2:]] == [6, 2], "six tasks are learnt, two validated"
    crashchat("merge", "--base", tiny_base, "--adapter", out, "--out", tmp_path / "merged")


def test_a_killed_run_goes_on_to_the_same_adapter(reinforced, trained, tiny_data, tmp_path):
    out, _ = reinforced
    again = shutil.copytree(out, tmp_path / "out")
    config = again / "train_config.yaml"
    config.write_text(config.read_text().replace(str(out), str(again)))
    (again / "adapter_config.json").unlink()
    shutil.rmtree(again / "checkpoint-4")
    assert f"going on from {again}/checkpoint-2" in reinforce(tiny_data, trained, again, 1)
    assert distance(out, again) < 1e-6


def test_two_processes_and_zero_learn_what_one_does(reinforced, trained, tiny_data, tmp_path):
    """With several passes a step, and a divergence from the start that is 0 until the second step."""
    out, _ = reinforced
    settings = ["deepspeed=configs/deepspeed/zero1.json", "max_tokens_per_batch=2000"]
    reinforce(tiny_data, trained, tmp_path / "two", 2, *settings)
    assert distance(out, tmp_path / "two") < 2e-4


def test_updates_and_divergence_go_together(reinforced, trained, tiny_data, tmp_path):
    """Two updates on each draw, the start's adapter kept beside the trained one, videos left out that taught
    nothing.
    """
    out, _ = reinforced
    settings = ["updates=2", "kl=0.1", "dynamic_sampling=true", "supervised_tasks=[]", "global_batch_size=0"]
    output = reinforce(tiny_data, trained, tmp_path / "other", 1, *settings)
    assert "best validation reward" in output
    assert adapter(tmp_path / "other").keys() == adapter(out).keys()
    state = json.loads((tmp_path / "other" / "checkpoint-4" / "solved_videos.json").read_text())
    assert state.keys() == {"epoch", "solved", "visited"} and state["visited"]


def test_mistakes_are_told_before_anything_starts(trained, tiny_data, tmp_path):
    output = reinforce(tiny_data, trained, tmp_path, 1, "rewards={crash_localization: iou}", ok=False)
    assert "rewards: found 'iou', expected module:function" in output
    output = reinforce(tiny_data, tmp_path / "nowhere", tmp_path, 1, ok=False)
    assert f"no adapter at {tmp_path / 'nowhere'}" in output
