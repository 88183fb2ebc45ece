"""Training in real processes, on a tiny synthetic set: the same weights from one process and from many,
with DeepSpeed, from a feature cache, and after a kill. The scripts and torchrun have made what the others are
held against (`trained`, `trained_by_two`, `trained_by_zero3`).
"""

import os
import shutil
import subprocess

import pytest

from crashchat.checkpoints.model_card import read_card
from crashchat.settings import TrainConfig
from crashchat.training.setup import load_videos
from tests.helpers.commands import (
    ENVIRONMENT,
    ROOT,
    adapter,
    begin_training,
    copy_of,
    distance,
    run,
    train,
    train_command,
    unfinished,
)


def test_training_leaves_adapter_config_logs_and_plot(trained, tiny_data, tmp_path):
    names = {path.name for path in trained.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "train_config.yaml",
        "loss.png",
        "tensorboard",
    } <= names
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((trained / "tensorboard").glob("events*"))
    weights = adapter(trained)
    assert any("lora_A" in key for key in weights) and any(
        "projector.readout.0.weight" in key for key in weights
    )
    assert "already trained" in begin_training(tiny_data, copy_of(trained, tmp_path / "out"), ok=True)


def test_a_killed_run_goes_on_to_the_same_weights(trained, tiny_data, tmp_path):
    out = unfinished(trained, tmp_path / "killed")
    (out / "checkpoint-4" / "trainer_state.json").unlink()  # killed while it wrote checkpoint-4
    assert f"going on from {out}/checkpoint-2" in train(tiny_data, out, 1)
    assert distance(trained, out) < 1e-6


def test_a_run_killed_behind_its_last_step_makes_no_other(trained, tiny_data, tmp_path):
    out = unfinished(trained, tmp_path / "killed")
    train(tiny_data, out, 1)
    assert distance(trained, out) == 0 and not (out / "checkpoint-5").exists()


def test_other_settings_in_the_same_folder_are_refused(trained, tiny_data, tmp_path):
    output = begin_training(tiny_data, copy_of(trained, tmp_path / "out"), "seed=3")
    assert "holds a run with other settings" in output and "seed: 0 then, 3 now" in output


def test_two_and_three_processes_learn_what_one_does(trained, trained_by_two, tiny_data, tmp_path):
    assert distance(trained, trained_by_two) < 2e-4
    # Several passes a step, not as many on each process.
    train(tiny_data, tmp_path / "three", 3, "max_tokens_per_batch=1200")
    assert distance(trained, tmp_path / "three") < 2e-4


def test_a_feature_cache_changes_no_weight(trained, tiny_data, tmp_path):
    cache = f"feature_cache={tmp_path / 'cache'}"
    train(tiny_data, tmp_path / "cold", 1, cache)
    entries = {path: path.stat().st_ino for path in (tmp_path / "cache").glob("??/*.safetensors")}
    assert len(entries) == 6 + 3
    train(tiny_data, tmp_path / "warm", 2, cache, "num_workers=2")
    assert distance(trained, tmp_path / "cold") < 1e-6
    assert distance(trained, tmp_path / "warm") < 2e-4  # as two processes without a cache
    assert {path: path.stat().st_ino for path in (tmp_path / "cache").glob("??/*.safetensors")} == entries
    output = begin_training(tiny_data, tmp_path / "full", cache, "finetune=full")
    assert "does not go with feature_cache" in output


def test_zero2_saves_a_whole_adapter(trained, tiny_data, tmp_path):
    """ZeRO-1: test_runs.py."""
    settings = ("deepspeed=configs/deepspeed/zero2.json", "max_tokens_per_batch=1200")
    train(tiny_data, tmp_path / "zero", 2, *settings)
    assert distance(trained, tmp_path / "zero") < 2e-4


def test_zero3_saves_a_whole_adapter(trained, trained_by_zero3):
    assert distance(trained, trained_by_zero3) < 2e-4


def test_an_impossible_division_names_what_works(tiny_data, tmp_path):
    output = run(*train_command(tiny_data, tmp_path, 5, "global_batch_size=4"), ok=False)
    assert output.count("global_batch_size=4: 5 processes cannot share so few questions") == 1


def test_missing_data_and_base_are_named(tiny_data, tmp_path):
    out = tmp_path / "out"
    assert "no annotation file" in begin_training(tmp_path / "nowhere", out)
    assert "no tokenizer_config.json" in begin_training(tiny_data, out, "base_model=nowhere")
    broken = shutil.copytree(tiny_data, tmp_path / "broken")
    next((broken / "videos").glob("train_*")).unlink()
    assert "annotated train videos are missing" in begin_training(broken, out)


@pytest.mark.parametrize("words", [["-1"], ["epochs=2", "4"], ["2", "3"], ["epochs"], ["--epochs=2"]])
def test_words_that_the_launcher_does_not_know_are_named(words):
    output = run(
        "bash",
        "scripts/launch.sh",
        "train",
        "configs/train/heterogeneous.yaml",
        *words,
        ok=False,
    )
    assert f"error: found '{words[-1]}', expected key=value" in output


def test_the_launcher_explains_itself():
    assert "train|reinforce|prefer|evaluate CONFIG [processes] [key=value ...]" in run(
        "bash", "scripts/launch.sh", "--help"
    )
    assert "CONFIG [processes]" in run("bash", "scripts/launch.sh", "train", ok=False)


def test_more_processes_than_gpus_are_refused(tmp_path):
    """nvidia-smi is asked, and CUDA_VISIBLE_DEVICES."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nprintf 'GPU 0: a\\nGPU 1: b\\n'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for found, environment in ((2, {}), (1, {"CUDA_VISIBLE_DEVICES": "3"})):
        done = subprocess.run(
            ["bash", "scripts/launch.sh", "train", "configs/train/heterogeneous.yaml", "3"],
            cwd=ROOT,
            env=ENVIRONMENT | {"PATH": path} | environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2 and f"error: found {found} GPU(s), and 3 processes want" in done.stderr


def test_a_run_is_extended(trained_by_two, tiny_data, tmp_path):
    """More steps go on from the end; fewer are refused."""
    out = copy_of(trained_by_two, tmp_path / "out")
    assert "max_steps: 4 then, 3 now" in begin_training(tiny_data, out, "max_steps=3")
    output = train(tiny_data, out, 2, "max_steps=6")
    assert "trained already, to an earlier end" in output and f"going on from {out}/checkpoint-4" in output
    assert (out / "checkpoint-6").is_dir() and read_card(out).settings["steps"] == 6
    assert "already trained" in begin_training(tiny_data, out, "max_steps=6", ok=True)


def test_a_run_with_readers_and_dropout_goes_on_bit_for_bit_and_stops_where_it_would_have(
    tiny_data, tmp_path
):
    """Early stopping goes on counting; the best step has a checkpoint, though it is no save_steps-th."""
    words = ["max_steps=10", "eval_steps=1", "save_steps=2", "num_workers=2", "lora_dropout=0.05"]
    words += [
        "early_stopping_patience=3",
        "early_stopping_threshold=100",
        "learning_rate=1e-9",
        "val_videos=2",
    ]
    whole = tmp_path / "whole"
    train(tiny_data, whole, 1, *words, "save_total_limit=9", "projector_learning_rate=1e-9")
    steps = sorted(int(path.name.split("-")[1]) for path in whole.glob("checkpoint-*"))
    assert {1, 2, 4} <= set(steps) and steps[-1] == 4  # not better by 100: 2, 3 and 4 are the three in vain
    out = unfinished(whole, tmp_path / "out")
    for step in steps:
        if step > 2:
            shutil.rmtree(out / f"checkpoint-{step}")
    train(tiny_data, out, 1, *words, "save_total_limit=9", "projector_learning_rate=1e-9")
    assert (out / "checkpoint-4").is_dir() and not (out / "checkpoint-6").exists()
    assert distance(whole / "checkpoint-4", out / "checkpoint-4") == 0


def test_the_validation_videos_are_the_same_every_time(tiny_data, tmp_path):
    settings = {"output_dir": tmp_path, "data_dir": tiny_data}
    drawn = [
        [video.name for video in load_videos(TrainConfig(**settings, val_videos=count), "val")]
        for count in (2, 2, 3, 50)
    ]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 2 and set(drawn[0]) < set(drawn[2])
    assert drawn[2] == drawn[3] and len(drawn[2]) == 3
    assert len(load_videos(TrainConfig(**settings, val_videos=1), "train")) == 6
