"""Checkpoints that are refused, and the line that says why; never another one's code."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from crashchat.checkpoints.adapters import load_adapter, read_adapter
from crashchat.checkpoints.conversion import convert
from crashchat.checkpoints.folders import load_model, load_tokenizer
from crashchat.checkpoints.layouts import CheckpointError
from tests.helpers.models import CPU
from tests.helpers.mutations import DEEP, EXECUTED

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


def test_a_tokenizers_setting_of_a_wrong_kind_is_found_when_it_is_loaded(copy):
    values = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(values | {"model_max_length": [131072]}))
    with pytest.raises(CheckpointError, match="tokenizer_config.json make no tokenizer: TypeError"):
        load_tokenizer(copy)
