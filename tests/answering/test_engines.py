"""Engines: what is exported for one, that it answers as ours does, and what is refused."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from crashchat.config import ROOT
from crashchat.provenance import content_hash
from tests.helpers.analyses import read
from tests.helpers.commands import crashchat
from tests.helpers.engines import serving, write_model
from tests.helpers.flashes import frames, write_video
from tests.helpers.serving import free_port
from tests.helpers.web import web

VLLM = Path(os.environ.get("VLLM_ENVIRONMENT", ROOT / ".venv-vllm")) / "bin" / "vllm"


@pytest.fixture(scope="session")
def exported(tiny_base, once) -> tuple[Path, Path]:
    """(a model, the same as an engine takes it)"""

    def make(made: Path) -> None:
        write_model(tiny_base, made / "model")
        crashchat("convert", made / "model", made / "exported", "--to", "vllm")

    made = once("exported", make)
    return made / "model", made / "exported"


@pytest.fixture(scope="session")
def three_clips(once) -> Path:
    def make(made: Path) -> None:
        made.mkdir()
        for number, flash in enumerate((None, (2, 5), (4, 6))):
            write_video(made / f"clip{number}.mp4", frames(60 + 20 * number, 9, flash))

    return once("three_clips", make)


def test_the_export_holds_every_weight_once_and_the_embeddings_twice(exported):
    model, out = exported
    whole = load_file(model / "model.safetensors")
    engine, ours = (load_file(folder / "model.safetensors") for folder in (out, out / "crashchat"))
    language = {key for key in whole if key.startswith(("model.language_model.", "lm_head."))}
    assert {key.replace("model.language_model.", "model.") for key in language} == engine.keys()
    assert whole.keys() - language < ours.keys() < whole.keys()
    assert {key for key in ours if key in language} == {
        "model.language_model.embed_tokens.weight",
        "model.language_model.norm.weight",
    }
    assert json.loads((out / "config.json").read_text())["architectures"] == ["Qwen2ForCausalLM"]
    assert (out / "crashchat").stat().st_mode & 0o111
    # A projector that is another is another model.
    before = content_hash(out)
    other = shutil.copytree(out, out.with_name("other"), dirs_exist_ok=True)
    ours["model.projector.readout.0.weight" if "model.projector.readout.0.weight" in ours else min(ours)] += 1
    save_file(ours, other / "crashchat" / "model.safetensors")
    assert content_hash(other) != before


def test_an_engine_with_the_export_says_the_same_tokens(exported, three_clips):
    model, out = exported
    with serving(out) as address:
        said = crashchat(
            "conform", three_clips, "--model", model, "--exported", out, "--engine-address", address,
            "--max-new-tokens", "12",
        )  # fmt: skip
    assert "18 of 18 answers on 3 clips have the same tokens" in said


def test_the_first_difference_is_named_with_both_probabilities(exported, three_clips, tiny_base, tmp_path):
    model, out = exported
    spoilt = shutil.copytree(out, tmp_path / out.name)
    weights = load_file(spoilt / "model.safetensors")
    weights["model.layers.1.mlp.down_proj.weight"] *= 0.3
    save_file(weights, spoilt / "model.safetensors", metadata={"format": "pt"})
    with serving(spoilt) as address:
        said = crashchat(
            "conform", three_clips / "clip0.mp4", "--model", model, "--exported", out,
            "--engine-address", address, "--max-new-tokens", "12", ok=False,
        )  # fmt: skip
    assert "equal tokens (" in said and "ours gives them" in said and "have the same tokens" in said
    line = next(line for line in said.splitlines() if "ours gives them" in line)
    ours, theirs = line.split("ours gives them ")[1].split(", the engine ")
    first, second = map(float, ours.split(" and "))
    third, fourth = map(float, theirs.split(" and "))
    assert first >= second and third <= fourth


def test_analyze_and_evaluate_answer_through_an_engine(exported, three_clips, tiny_data, tmp_path):
    model, out = exported
    short = ["--max-new-tokens", "8", "--fps", "1"]
    with serving(out) as address:
        engine = ["--engine", "vllm", "--engine-address", address]
        crashchat("analyze", three_clips, "--model", model, *short, "--out", tmp_path / "torch")
        crashchat("analyze", three_clips, "--model", out, *short, *engine, "--out", tmp_path / "vllm")
        asked = [
            "evaluate", "configs/eval/all_tasks.yaml", f"data_dir={tiny_data}", "limit=2", "num_workers=0",
            "max_new_tokens=8", "model_name=m",
        ]  # fmt: skip
        crashchat(*asked, f"model={model}", f"output_dir={tmp_path / 'a'}")
        crashchat(
            *asked, f"model={out}", f"output_dir={tmp_path / 'b'}", "engine=vllm", f"engine_address={address}"
        )
    for name in ("clip0", "clip1", "clip2"):
        one, other = (read(tmp_path / kind / f"{name}.json") for kind in ("torch", "vllm"))
        assert [a["raw_response"] for a in one["windows"][0]["answers"]] == [
            a["raw_response"] for a in other["windows"][0]["answers"]
        ]
        assert one["crash_probability"] == pytest.approx(other["crash_probability"], abs=1e-4)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").glob("*/*/*_predict.json"))
    assert files
    for file in files:
        one, other = (json.loads((tmp_path / folder / file).read_text()) for folder in ("a", "b"))
        assert [record["raw_response"] for record in one] == [record["raw_response"] for record in other]


def test_what_an_engine_cannot_do_is_refused_in_one_line(exported, tiny_base, three_clips, tmp_path):
    _, out = exported
    said = crashchat("convert", tiny_base, tmp_path / "none", "--to", "vllm", ok=False)
    assert "96 wide with 4 heads, a head size of 24; vLLM supports 32, 64, 96, 128, 256" in said
    assert not (tmp_path / "none").exists()
    clip = three_clips / "clip0.mp4"
    nobody = ["--engine", "vllm", "--engine-address", f"http://127.0.0.1:{free_port()}"]
    words = ["analyze", clip, "--out", tmp_path / "out", *nobody]
    assert "no engine answers" in crashchat(*words, "--model", out, ok=False)
    assert "no crashchat/config.json in it" in crashchat(*words, "--model", tiny_base, ok=False)
    adapters = ["--linguistic", tmp_path / "a", "--perception", tmp_path / "a"]
    with serving(out) as address:
        at = [*words[:-1], address, "--model", out]
        assert "this engine answers freely alone" in crashchat(*at, "--decode", "constrained", ok=False)
        other = shutil.copytree(out, tmp_path / "another")
        said = crashchat(*words[:-1], address, "--model", other, ok=False)
        assert f"serves {out}, expected {other}" in said
    assert "adapter" in crashchat(*words, "--model", out, *adapters, ok=False)


@pytest.mark.slow
def test_vllm_itself_says_the_same_tokens(exported, three_clips, tmp_path):
    if not VLLM.is_file():
        pytest.skip(f"{VLLM} is not installed; bash scripts/engine.sh makes it")
    model, out = exported
    port = free_port()
    with open(tmp_path / "log", "wb") as log:
        engine = subprocess.Popen(
            ["bash", "scripts/engine.sh", out, str(port), "--dtype", "float32", "--max-model-len", "2048"],
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )
    try:
        address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 300
        while True:
            assert engine.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            try:
                web.get(f"{address}/health")
                break
            except httpx.TransportError:
                time.sleep(1)
        said = crashchat(
            "conform", three_clips, "--model", model, "--exported", out, "--engine-address", address,
            "--max-new-tokens", "24",
        )  # fmt: skip
    finally:
        engine.terminate()
        engine.wait(60)
    assert "18 of 18 answers on 3 clips have the same tokens" in said


def test_our_part_says_nothing_by_itself(exported):
    """Its language model has no layers; what it is for are embeddings."""
    from crashchat.checkpoints.folders import load_model, load_tokenizer
    from tests.helpers.models import CPU

    part = exported[1] / "crashchat"
    model = load_model(part, load_tokenizer(part), CPU)
    assert len(model.model.language_model.layers) == 0
    whole = load_file(exported[0] / "model.safetensors")
    assert torch.equal(
        model.model.language_model.embed_tokens.weight, whole["model.language_model.embed_tokens.weight"]
    )
