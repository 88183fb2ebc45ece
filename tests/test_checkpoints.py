"""Checkpoint folders: what loads, and the clear errors for what does not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoLlama3ForConditionalGeneration

from crashchat.adapters import load_adapter
from crashchat.checkpoints import load_model, load_tokenizer, load_video_settings, save_checkpoint
from crashchat.layouts import LAYOUTS, CheckpointError, detect_layout, rename_key
from crashchat.model import add_adapter

CPU = torch.device("cpu")


@pytest.fixture
def copy(tiny_base, tmp_path):
    """A copy of tiny_base to spoil."""
    return shutil.copytree(tiny_base, tmp_path / "checkpoint")


def spoil(folder, change) -> None:
    """Apply `change` to the weights of a checkpoint folder."""
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_saved_folder_is_transformers_own(tiny_base, tiny_tokenizer, tmp_path):
    model = load_model(tiny_base, tiny_tokenizer, CPU)
    settings = load_video_settings(tiny_base)
    save_checkpoint(model, tiny_tokenizer, settings, tmp_path / "saved")
    native = VideoLlama3ForConditionalGeneration.from_pretrained(tmp_path / "saved")
    ours = model.state_dict()
    assert all(torch.equal(value, ours[key]) for key, value in native.state_dict().items())
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [type(native).__name__]
    assert load_video_settings(tmp_path / "saved") == settings
    assert load_tokenizer(tmp_path / "saved").get_vocab() == tiny_tokenizer.get_vocab()
    with pytest.raises(CheckpointError, match="is not empty"):
        save_checkpoint(model, tiny_tokenizer, settings, tmp_path / "saved")


def test_missing_unknown_and_misshapen_weights_are_listed(copy, tiny_tokenizer):
    def change(weights):
        del weights["model.projector.readout.0.bias"]
        weights["model.projector.extra"] = torch.zeros(2)
        weights["model.projector.readout.2.bias"] = torch.zeros(7)

    spoil(copy, change)
    with pytest.raises(CheckpointError) as caught:
        load_model(copy, tiny_tokenizer, CPU)
    message = str(caught.value)
    assert "missing: model.projector.readout.0.bias" in message
    assert "unknown: model.projector.extra" in message
    assert "shape of model.projector.readout.2.bias: found (7,), expected (96,)" in message


def test_broken_folders_are_named(copy, tiny_tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match="ckpt/README.md"):
        load_model(tmp_path / "nowhere", tiny_tokenizer, CPU)
    with pytest.raises(CheckpointError, match="no tokenizer_config.json"):
        load_tokenizer(tmp_path / "nowhere")
    (copy / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="model.safetensors: cannot be read as weights"):
        load_model(copy, tiny_tokenizer, CPU)
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        load_model(copy, tiny_tokenizer, CPU)
    config = json.loads((copy / "config.json").read_text()) | {"model_type": "llama"}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="model_type 'llama'"):
        load_model(copy, tiny_tokenizer, CPU)


def test_a_pickle_that_is_no_weights_is_refused(copy, tiny_tokenizer, tmp_path):
    import pickle

    class Attack:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    (copy / "model.safetensors").unlink()
    (copy / "pytorch_model.bin").write_bytes(pickle.dumps(Attack()))
    with pytest.raises(CheckpointError, match="cannot be read as weights"):
        load_model(copy, tiny_tokenizer, CPU)
    assert not (tmp_path / "owned").exists()


def test_layouts_rename_back_and_forth():
    native = [
        "model.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "model.projector.readout.0.weight",
        "model.language_model.layers.3.mlp.up_proj.weight",
        "model.language_model.norm.weight",
        "lm_head.weight",
    ]
    for layout in LAYOUTS:
        renamed = [rename_key(key, "native", layout) for key in native]
        assert detect_layout(renamed, "here") == layout
        assert [rename_key(key, layout, "native") for key in renamed] == native
    with pytest.raises(CheckpointError, match="no part of the native layout"):
        rename_key("transformer.wte.weight", "native", "local")
    with pytest.raises(CheckpointError, match="no vision encoder"):
        detect_layout(["model.layers.0.weight"], "here")


def test_an_adapter_saves_projector_and_lora_and_refuses_another_base(tiny_base, tiny_tokenizer, tmp_path):
    model = add_adapter(load_model(tiny_base, tiny_tokenizer, CPU), rank=4, alpha=8, dropout=0.0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.01
    model.save_pretrained(tmp_path / "adapter")
    loaded = load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), tmp_path / "adapter")
    expected = model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())

    with pytest.raises(CheckpointError, match="no adapter at"):
        load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), tmp_path)
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    first = next(key for key in weights if "lora_A" in key)
    weights[first] = torch.zeros(4, 50)
    save_file(weights, tmp_path / "adapter" / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="does not fit the base model"):
        load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), tmp_path / "adapter")
