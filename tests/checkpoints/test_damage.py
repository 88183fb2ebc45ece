"""Damaged files: one line that names the file, or a valid result; never a traceback,
never another one's code.
"""

import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from crashchat.checkpoints.adapters import load_adapter, read_adapter, write_adapter
from crashchat.checkpoints.conversion import convert
from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings
from crashchat.checkpoints.layouts import CheckpointError
from crashchat.checkpoints.model_card import read_card
from crashchat.config import CONFIG_DIR, load_config
from crashchat.data.annotations import load_annotations
from crashchat.data.journals import PredictionJournal
from crashchat.data.predictions import read_predictions
from crashchat.errors import CrashChatError, error_line
from crashchat.model.lora import add_adapter
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from tests.data.test_annotations import record as question
from tests.data.test_predictions import GOOD
from tests.data.test_predictions import record as predicted
from tests.helpers.forks import completed
from tests.helpers.models import CPU
from tests.helpers.mutations import DEEP, EXECUTED, damage_checkpoint, damage_file, mutate_json

SEEDS = range(40)


@pytest.fixture
def copy(tiny_base, tmp_path) -> Path:
    """A copy of tiny_base to damage."""
    return shutil.copytree(tiny_base, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def adapter(tiny_base, tiny_tokenizer, tmp_path_factory) -> Path:
    """An adapter on tiny_base."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    add_adapter(load_model(tiny_base, tiny_tokenizer, CPU), rank=4, alpha=8, dropout=0.0).save_pretrained(
        folder
    )
    return folder


def told(work, *names) -> str | None:
    """None where it runs; else the one line that it ends with, which names the file.

    Any other error is the test's.
    """
    try:
        work()
    except (CrashChatError, OSError) as error:
        line = error_line(error)
        assert any(str(name) in line for name in names), line
        assert max(map(len, line.splitlines())) < 1500
        return line
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_checkpoint(copy, tmp_path, seed):
    what = damage_checkpoint(copy, seed)

    def use():
        tokenizer = load_tokenizer(copy)
        load_video_settings(copy)
        read_card(copy)
        load_model(copy, tokenizer, CPU)

    loaded = told(use, copy)
    converted = told(lambda: convert(copy, tmp_path / "out"), copy)
    assert (loaded is None) == (converted is None) or what.startswith("generation_config.json"), (
        what,
        loaded,
        converted,
    )
    assert (tmp_path / "out").exists() == (converted is None)
    assert not (copy / EXECUTED).exists()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_adapter(adapter, tiny_base, tiny_tokenizer, tmp_path, seed):
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    damage_checkpoint(copy, seed)
    told(lambda: load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), copy), copy)
    told(lambda: write_adapter(copy, tmp_path / "out"), copy)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_annotation_file(tmp_path, seed):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([question(), question("videos/b.mp4", answer="No")]))
    damage_file(path, seed)
    told(lambda: load_annotations([path], tmp_path), path)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_config(tmp_path, seed):
    path = tmp_path / "config.yaml"
    values = dict(yaml.safe_load((CONFIG_DIR / "train" / "recipe.yaml").read_text()).items())
    path.write_text(yaml.safe_dump(values | {"output_dir": "out", "tasks": ["crash_recognition"]}))
    damage_file(path, seed)
    told(lambda: load_config(TrainConfig, path), path)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_prediction_file_and_journal(tmp_path, seed):
    path, journal = tmp_path / "predict.json", tmp_path / "journal.jsonl"
    path.write_text(json.dumps([GOOD, GOOD | {"data_id": 1, "video_path": "w.mp4"}]))
    damage_file(path, seed)
    told(lambda: read_predictions(path, "crash_localization"), path)
    line = mutate_json(json.dumps(GOOD), seed)
    line = line if isinstance(line, bytes) else line.encode()
    journal.write_bytes(b'{"run": null}\n' + line + b'\n{"data_id": 1}\n')
    told(lambda: PredictionJournal(journal).close(), journal)


JSON_DAMAGE = [
    ("preprocessor_config.json", '{"fps": 4', "not JSON"),
    ("preprocessor_config.json", '{"fps": [4]}', r"fps: found \[4\], expected a valid number"),
    ("preprocessor_config.json", '{"max_tokens_per_frame": [[]]}', r"max_tokens_per_frame: found \[\[\]\]"),
    ("preprocessor_config.json", '{"max_tokens": -5}', "max_tokens: found -5"),
    ("preprocessor_config.json", '{"fps": NaN}', "NaN, which is no number"),
    ("preprocessor_config.json", '{"fps": 1e999}', "fps: found inf"),
    ("preprocessor_config.json", '{"fps": 4, "fps": 5}', "the key 'fps' is there twice"),
    ("preprocessor_config.json", "", r"empty \(0 bytes\)"),
    ("preprocessor_config.json", "[" * DEEP, "nested too deeply"),
    ("preprocessor_config.json", '{"merge_size": 3}', "merge_size: found 3, expected 2"),
    ("config.json", '{"model_type": "video_llama_3"}', "text_config is missing"),
    ("config.json", "[1]", "model_type None"),
    ("tokenizer.json", "{}", "make no tokenizer"),
    ("tokenizer.json", "[]", r"found \[\], expected an object"),
    ("tokenizer_config.json", '{"tokenizer_class": 3}', "tokenizer_config.json make no tokenizer"),
    ("tokenizer_config.json", "{}", "make"),
    ("generation_config.json", "{", "generation_config.json: not JSON"),
]


@pytest.mark.parametrize(("name", "text", "message"), JSON_DAMAGE)
def test_what_is_wrong_is_said(copy, tmp_path, name, text, message):
    (copy / name).write_text(text)
    with pytest.raises(CheckpointError, match=message) as caught:
        convert(copy, tmp_path / "out")
    assert name in str(caught.value)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_config", "hidden_size", 10**12),
        ("text_config", "num_hidden_layers", 10**6),
        ("text_config", "num_attention_heads", 0),
        ("text_config", "num_attention_heads", 5),
        ("text_config", "vocab_size", "1169"),
        ("text_config", "hidden_act", "gleu"),
        ("text_config", "rms_norm_eps", 10**400),
        ("text_config", "rope_parameters", {"rope_type": "default"}),
        ("vision_config", "num_attention_heads", None),
        ("vision_config", "patch_size", [14, 14]),
    ],
)
def test_a_config_of_no_model_is_named_before_anything_is_allocated(copy, tiny_tokenizer, part, key, value):
    values = json.loads((copy / "config.json").read_text())
    values[part][key] = value
    (copy / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="config.json"):
        load_model(copy, tiny_tokenizer, CPU)


def test_numbers_of_heads_are_not_guessed(copy, tiny_tokenizer):
    """Without them transformers would take its own, and the weights would fit."""
    values = json.loads((copy / "config.json").read_text())
    del values["vision_config"]["num_attention_heads"]
    (copy / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="vision_config.num_attention_heads is missing"):
        load_model(copy, tiny_tokenizer, CPU)


def spoil(path: Path, value: float) -> str:
    """One number of a weight file replaced; returns its weight's key."""
    weights = {key: tensor.clone() for key, tensor in load_file(path).items()}
    key = sorted(weights)[-1]
    weights[key].view(-1)[1] = value
    save_file(weights, path, metadata={"format": "pt"})
    return key


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(copy, adapter, tiny_tokenizer, tmp_path, value):
    key = spoil(copy / "model.safetensors", value)
    for work in (lambda: load_model(copy, tiny_tokenizer, CPU), lambda: convert(copy, tmp_path / "out")):
        with pytest.raises(CheckpointError, match=f"model.safetensors: {key}: 1 of its"):
            work()
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    key = spoil(folder / "adapter_model.safetensors", value)
    with pytest.raises(CheckpointError, match=f"adapter_model.safetensors: {key}: 1 of its"):
        read_adapter(folder)


def test_a_number_too_large_for_the_type_written_is_named(copy, tmp_path):
    key = spoil(copy / "model.safetensors", 1e6)
    with pytest.raises(CheckpointError, match=f"as torch.float16: {key}"):
        convert(copy, tmp_path / "half", dtype=torch.float16)
    convert(copy, tmp_path / "whole")


def test_a_view_that_repeats_itself_is_refused_unread(copy, tiny_tokenizer):
    (copy / "model.safetensors").unlink()
    torch.save({"model.vision_model.x": torch.zeros(1).expand(10**12)}, copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="says it is 4,000,000,000,000 bytes"):
        load_model(copy, tiny_tokenizer, CPU)


@pytest.mark.parametrize(
    ("key", "value"),
    [("r", 10**12), ("r", 5), ("lora_alpha", "8"), ("bias", "all"), ("rank_pattern", {"(": 4})],
)
def test_an_adapter_config_is_checked_before_anything_is_allocated(adapter, tmp_path, key, value):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    values = json.loads((folder / "adapter_config.json").read_text()) | {key: value}
    (folder / "adapter_config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="adapter_config.json"):
        read_adapter(folder)


def test_an_adapter_without_all_of_its_projector_is_named(adapter, tiny_base, tiny_tokenizer, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "adapter")
    weights = {key: value.clone() for key, value in load_file(folder / "adapter_model.safetensors").items()}
    del weights[next(key for key in weights if key.endswith("projector.readout.0.bias"))]
    save_file(weights, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="projector lacks .*readout.0.bias"):
        load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), folder)


def test_a_tokenizer_that_brings_code_is_refused_and_not_run(copy, tmp_path):
    values = json.loads((copy / "tokenizer_config.json").read_text())
    values |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "Evil"}
    (copy / "tokenizer_config.json").write_text(json.dumps(values))
    (copy / "evil.py").write_text(f"import os; os.mkdir({str(tmp_path / EXECUTED)!r})\nclass Evil: pass\n")
    with pytest.raises(CheckpointError, match="tokenizer_config.json make no tokenizer"):
        load_tokenizer(copy)
    assert not (tmp_path / EXECUTED).exists()


def test_a_refused_pickle_comes_without_advice_to_run_it(copy, tiny_tokenizer):
    (copy / "model.safetensors").unlink()
    torch.save({"a": Path("x")}, copy / "pytorch_model.bin")
    with pytest.raises(
        CheckpointError, match="pytorch_model.bin: cannot be read as weights: it holds more than tensors"
    ) as caught:
        load_model(copy, tiny_tokenizer, CPU)
    assert "weights_only" not in str(caught.value)


def test_a_hub_cache_is_read_and_other_links_out_are_refused(tiny_base, tiny_tokenizer, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    blobs = tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(tiny_base.iterdir())):
        shutil.copyfile(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    (tmp_path / "link").symlink_to(snapshot)
    for folder in (snapshot, tmp_path / "link"):
        load_model(folder, load_tokenizer(folder), CPU)
    convert(snapshot, tmp_path / "out")
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "generation_config.json",
    ):
        (snapshot / name).rename(tmp_path / "kept")
        (snapshot / name).symlink_to(tiny_base / name)
        with pytest.raises(CheckpointError, match=f"{name}: a link out of its folder"):
            convert(snapshot, tmp_path / "again")
        (tmp_path / "kept").rename(snapshot / name)


def run(*words) -> str:
    """Run a command that must fail without a traceback; returns its last line, which begins with `error:`."""
    done = completed(*words)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: "), done.stderr[-1000:]
    return line


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB, which is full soon."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    for _ in range(50):  # a process that just ended may hold it for a moment
        if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
            return
        time.sleep(0.2)
    subprocess.run(["umount", "-l", folder], check=True)


COMMANDS = {
    "convert": "convert {base} {disk}/out",
    "merge": "merge --base {base} --adapter {adapter} --out {disk}/out",
    "synthetic": "synthesize --out {disk}/out --train 4 --val 1 --test 1 --workers 1",
    "train": "train configs/train/independent_crash_recognition.yaml base_model={base} "
    "data_dir={data} output_dir={disk}/out max_steps=2 eval_steps=1 save_steps=1 num_workers=0 "
    "max_frames=4 lora_rank=4",
    "eval": "evaluate configs/eval/crash_description.yaml model={base} data_dir={data} "
    "output_dir={disk}/out num_workers=0 max_frames=4 max_new_tokens=2",
    "score": "score crash_recognition --predictions {predictions} --out {disk}/out",
    "report": "compare a={predictions} --data-dir {data} --out {disk}/out --no-meteor",
    "analyze": "analyze {data}/videos --model {base} --linguistic {adapter} "
    "--perception {adapter} --out {disk}/out",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(command, small_disk, tiny_base, adapter, tiny_data, tmp_path):
    asked = json.loads((tiny_data / TASKS["crash_recognition"].annotation_file("test")).read_text())
    predictions = tmp_path / "predict.json"
    predictions.write_text(
        json.dumps(
            [
                predicted(n, answer=one["conversations"][1]["value"]) | {"video_path": one["video"][0]}
                for n, one in enumerate(asked)
            ]
        )
    )
    if command in ("eval", "score"):  # what they write is small: nothing is left for it
        with open(small_disk / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
    words = COMMANDS[command].format(
        base=tiny_base, adapter=adapter, disk=small_disk, data=tiny_data, predictions=predictions
    )
    line = run(*words.split())
    assert str(small_disk) in line and "no space left on device" in line


def test_a_tokenizers_setting_of_a_wrong_kind_is_found_when_it_is_loaded(copy):
    values = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(values | {"model_max_length": [131072]}))
    with pytest.raises(CheckpointError, match="tokenizer_config.json make no tokenizer: TypeError"):
        load_tokenizer(copy)
