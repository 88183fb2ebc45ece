"""Checkpoint folders: what loads, and the clear errors for what does not."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import VideoLlama3Config, VideoLlama3ForConditionalGeneration

from crashchat.answering.generate import answer_from_prefix
from crashchat.answering.prefix import prefill
from crashchat.checkpoints.adapters import load_adapter
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
from crashchat.model.lora import add_adapter
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.tasks import question_text
from crashchat.video.tokens import VisualTokens
from tests.helpers.commands import crashchat, run
from tests.helpers.models import CPU, visual_of


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


def test_an_adapter_names_its_base_and_loads_without_a_warning(tiny_base, copy, tiny_tokenizer, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        trained = add_adapter(load_model(tiny_base, tiny_tokenizer, CPU), rank=2, alpha=4, dropout=0.0)
        trained.save_pretrained(tmp_path / "adapter")
        written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == str(tiny_base)
        loaded = load_adapter(load_model(copy, tiny_tokenizer, CPU), tmp_path / "adapter")
    assert loaded.peft_config["default"].base_model_name_or_path == str(copy)


def test_two_adapters_share_a_base_and_each_is_as_if_alone(tiny_base, tiny_tokenizer, tmp_path):
    def base():
        return load_model(tiny_base, tiny_tokenizer, CPU)

    visual, questions = visual_of(frames=3), ["Is there a car?", "Why?"]
    alone = {}
    for seed, name in enumerate(("one", "two")):
        torch.manual_seed(seed)
        model = add_adapter(base(), rank=4 + seed, alpha=8, dropout=0.5)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter += 0.3 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / name)
        prefix = prefill(model.eval(), tiny_tokenizer, [visual])
        alone[name] = answer_from_prefix(
            model, tiny_tokenizer, prefix=prefix, questions=[questions], max_new_tokens=8
        )
    assert alone["one"][0] != alone["two"][0]

    model = load_adapter(base(), tmp_path / "one", "one")
    model = load_adapter(model, tmp_path / "two", "two")
    assert model.active_adapter == "one"
    for name in ("one", "two", "one"):
        model.set_adapter(name)
        answers, logits, _ = answer_from_prefix(
            model,
            tiny_tokenizer,
            prefix=prefill(model, tiny_tokenizer, [visual]),
            questions=[questions],
            max_new_tokens=8,
        )
        assert answers == alone[name][0] and torch.equal(logits[0], alone[name][1][0])
    with pytest.raises(CheckpointError, match="has an adapter 'two' already"):
        load_adapter(model, tmp_path / "one", "two")
    with pytest.raises(CheckpointError, match="does not fit the base model"):
        misfit = load_file(tmp_path / "one" / "adapter_model.safetensors")
        misfit[next(key for key in misfit if "projector" in key)] = torch.zeros(3, 3)
        save_file(misfit, tmp_path / "one" / "adapter_model.safetensors", metadata={"format": "pt"})
        load_adapter(model, tmp_path / "one", "three")


def logits_of(folder: Path, shared: Path, adapter: Path | None = None) -> list[float]:
    """Losses of the golden cases with the recorded pixel values, to the last bit."""
    reference = shared / "golden" / "reference"
    golden = json.loads((reference / "golden.json").read_text())
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, tokenizer, CPU)
    model = load_adapter(model, adapter) if adapter else model
    visual = VisualTokens(
        pixel_values=torch.from_numpy(np.load(reference / "pixel_values.npy")),
        grid_thw=torch.tensor(golden["grid_sizes"]),
        merge_sizes=torch.tensor([2]),
        compression_mask=torch.from_numpy(np.load(reference / "compression_mask.npy")).bool(),
        seconds=golden["sampling"]["golden"]["timestamps"],
    )
    losses = []
    for case in golden["cases"]:
        branch = Branch(question_text(case["question"]), case["answer"])
        sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [branch])
        with torch.no_grad():
            output = model(**pack([sequence], [visual]).as_dict())
        losses.append(float(output.loss_sum / output.num_labels))
        assert abs(losses[-1] - case["lora_loss" if adapter else "loss"]) < 1e-5, case["task"]
    return losses


def test_every_layout_and_back_is_bit_identical(shared, tmp_path):
    reference = shared / "golden" / "reference"
    vision = ["--vision-config", reference / "vision" / "config.json"]
    run(sys.executable, "-m", "crashchat", "convert", reference / "base", tmp_path / "native", *vision)
    crashchat("convert", tmp_path / "native", tmp_path / "hub", "--to", "hub")
    crashchat("convert", tmp_path / "hub", tmp_path / "local", "--to", "local")
    crashchat("convert", tmp_path / "local", tmp_path / "again")
    original = torch.load(reference / "base" / "pytorch_model.bin", weights_only=True)
    local = load_file(tmp_path / "local" / "model.safetensors")
    assert local.keys() == original.keys() and all(torch.equal(local[key], original[key]) for key in local)
    native, again = (load_file(tmp_path / name / "model.safetensors") for name in ("native", "again"))
    assert native.keys() == again.keys() and all(torch.equal(native[key], again[key]) for key in native)
    assert VideoLlama3ForConditionalGeneration.from_pretrained(tmp_path / "native") is not None

    crashchat("convert", reference / "lora", tmp_path / "adapter")
    crashchat("convert", tmp_path / "adapter", tmp_path / "released", "--to", "local")
    for layout in ("native", "hub", "local", "again"):
        logits_of(tmp_path / layout, shared)
        for adapter in (reference / "lora", tmp_path / "adapter", tmp_path / "released"):
            logits_of(tmp_path / layout, shared, adapter)


def test_every_entry_point_takes_the_released_forms(shared, tiny_data, tmp_path):
    """Evaluation with a local base and a released adapter;
    the merge of both in each layout answers the same.
    """
    reference = shared / "golden" / "reference"
    vision = reference / "vision" / "config.json"

    def answers(name: str, layout: str, *settings: str) -> list[str]:
        output = crashchat(
            "evaluate",
            "configs/eval/crash_description.yaml",
            "model_name=m",
            f"output_dir={tmp_path / name}",
            f"data_dir={tiny_data}",
            "max_new_tokens=8",
            "max_frames=4",
            "num_workers=0",
            *settings,
        )
        assert f"{layout} layout" in output
        (path,) = (tmp_path / name).glob("*/m/*_predict.json")
        return [record["raw_response"] for record in json.loads(path.read_text())]

    base, adapter = reference / "base", reference / "lora"
    expected = answers("unmerged", "local", f"model={base}", f"adapter={adapter}", f"vision_config={vision}")
    assert any(expected)
    for layout in LAYOUTS:
        merged = tmp_path / f"merged_{layout}"
        words = ["--base", base, "--adapter", adapter, "--out", merged, "--to", layout]
        assert f"{layout} layout" in crashchat("merge", *words, "--vision-config", vision)
        assert answers(layout, layout, f"model={merged}") == expected
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_nothing_is_written_outside_the_destination(tiny_base, tmp_path):
    """A destination that is a link, or a source whose files are links, leads nowhere else."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert "is not empty" in crashchat("convert", tiny_base, tmp_path / "link", ok=False)
    source = tmp_path / "source"
    shutil.copytree(tiny_base, source)
    (tmp_path / "victim.json").write_text("kept")
    (source / "generation_config.json").unlink(missing_ok=True)
    (source / "generation_config.json").symlink_to(tmp_path / "victim.json")
    (source / "model.py").write_text("raise SystemExit")
    assert "a link out of its folder" in crashchat(
        "convert", source, tmp_path / "out", "--to", "local", ok=False
    )
    assert not (tmp_path / "out").exists()
    (source / "generation_config.json").unlink()
    crashchat("convert", source, tmp_path / "out", "--to", "local")
    assert (tmp_path / "victim.json").read_text() == "kept" and list((tmp_path / "elsewhere").iterdir()) == []
    assert (
        not (tmp_path / "out" / "generation_config.json").is_symlink()
        and not (tmp_path / "out" / "model.py").exists()
    )


def test_heads_are_never_guessed_and_nothing_is_left_half_written(shared, tmp_path):
    reference = shared / "golden" / "reference"
    output = crashchat("convert", reference / "base", tmp_path / "out", ok=False)
    assert "missing: model.vision_model" in output and "--vision-config" in output
    assert list(tmp_path.iterdir()) == []


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
