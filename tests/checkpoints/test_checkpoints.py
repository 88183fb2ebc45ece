"""Checkpoint folders: what loads, and the clear errors for what does not."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

from crashchat.checkpoints.conversion import convert as convert_layout
from crashchat.checkpoints.folders import (
    check_shapes,
    expected_shapes,
    load_model,
    load_tokenizer,
    load_video_settings,
    save_checkpoint,
)
from crashchat.checkpoints.layouts import (
    LAYOUTS,
    SO400M,
    CheckpointError,
    detect_layout,
    rename_key,
    stored_dtype,
)
from crashchat.files import FolderError
from tests.helpers.models import CPU


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
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["architectures"] == [
        type(native).__name__
    ]
    assert load_video_settings(tmp_path / "saved") == settings
    assert load_tokenizer(tmp_path / "saved").get_vocab() == tiny_tokenizer.get_vocab()
    with pytest.raises(FolderError, match="is not empty"):
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


def test_shards_are_cut_and_read_back(tiny_base, tiny_tokenizer, tmp_path, copy):
    convert_layout(tiny_base, tmp_path / "shards", "hub", shard_bytes=200_000)
    assert len(list((tmp_path / "shards").glob("model-*.safetensors"))) > 3
    ours = load_model(tiny_base, tiny_tokenizer, CPU).state_dict()
    theirs = load_model(tmp_path / "shards", tiny_tokenizer, CPU).state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    half = convert_layout(copy, tmp_path / "half", dtype=torch.bfloat16)
    assert half == "native" and stored_dtype(tmp_path / "half") == torch.bfloat16

    index = tmp_path / "shards" / "model.safetensors.index.json"
    index.write_text(index.read_text().replace("model-00001-of", "../model-00001-of"))
    with pytest.raises(CheckpointError, match="which the folder does not hold"):
        load_model(tmp_path / "shards", tiny_tokenizer, CPU)


SIZES = {  # hidden size, heads, key-value heads, intermediate size, tied embeddings
    "7B": (3584, 28, 4, 18944, False),
    "2B": (1536, 12, 2, 8960, True),
}


@pytest.mark.parametrize("size", SIZES)
def test_full_size_keys_and_shapes_cover_each_other(size):
    """The native model on the meta device against the three key tables, names both ways."""
    names = (
        "hidden_size",
        "num_attention_heads",
        "num_key_value_heads",
        "intermediate_size",
        "tie_word_embeddings",
    )
    text = dict(zip(names, SIZES[size], strict=True)) | {"num_hidden_layers": 28, "vocab_size": 152064}
    config = VideoLlama3Config(text_config={"model_type": "qwen2"} | text, vision_config=SO400M)
    expected = expected_shapes(config)
    assert len(expected) == (2 + 27 * 16 + 2) + 4 + (1 + 28 * 12 + 1) + 1
    for layout in LAYOUTS:
        renamed = {rename_key(key, "native", layout): shape for key, shape in expected.items()}
        assert len(renamed) == len(expected)
        assert detect_layout(list(renamed), layout) == layout
        check_shapes(
            {rename_key(key, layout, "native"): shape for key, shape in renamed.items()}, config, layout
        )
        assert all(key.startswith(tuple(LAYOUTS[layout].values())) for key in renamed)
