"""From every layout into every other and back, bit for bit, and nothing left half written."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from transformers import VideoLlama3ForConditionalGeneration

from crashchat.checkpoints.adapters import load_adapter
from crashchat.checkpoints.folders import (
    load_model,
    load_tokenizer,
)
from crashchat.checkpoints.layouts import (
    LAYOUTS,
)
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.tasks import question_text
from crashchat.video.tokens import VisualTokens
from tests.helpers.commands import crashchat, run
from tests.helpers.models import CPU


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
