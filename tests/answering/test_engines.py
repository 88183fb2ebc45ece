"""Engines: what is exported for one, that it answers as ours does, and what is refused."""

import json
import os
import shutil
import subprocess
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from crashchat.checkpoints.engine_export import HEAD_SIZES, Heads
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
def exported_two(tiny_base, flash_adapters, once) -> Path:
    """The tiny base, whose heads no engine has kernels for, with two adapters, as an engine takes them."""

    def make(made: Path) -> None:
        crashchat("convert", tiny_base, made, "--to", "vllm", "--adapters", *flash_adapters)

    return once("exported_two", make)


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


def test_two_adapters_on_one_engine_answer_as_ours_do(
    exported_two, flash_adapters, tiny_base, three_clips, tmp_path
):
    config = json.loads((exported_two / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["head_dim"] == 32
    assert (exported_two / "engine.yaml").read_text().splitlines()[:2] == [
        "enable-lora: true",
        "max-loras: 2",
    ]
    own = ["--linguistic", flash_adapters[0], "--perception", flash_adapters[1]]
    served = [exported_two / "adapters" / folder.name for folder in flash_adapters]
    with serving(exported_two) as address:
        said = crashchat(
            "conform", three_clips, "--model", tiny_base, *own, "--exported", exported_two,
            "--engine-address", address, "--max-new-tokens", "24",
        )  # fmt: skip
        assert "18 of 18 answers on 3 clips have the same tokens" in said
        words = ["--max-new-tokens", "24", "--fps", "1"]
        crashchat("analyze", three_clips, "--model", tiny_base, *own, *words, "--out", tmp_path / "torch")
        crashchat(
            "analyze", three_clips, "--model", exported_two, "--linguistic", served[0],
            "--perception", served[1], *words, "--out", tmp_path / "vllm", "--engine", "vllm",
            "--engine-address", address,
        )  # fmt: skip
    crashes = 0
    for name in ("clip0", "clip1", "clip2"):
        one, other = (read(tmp_path / kind / f"{name}.json") for kind in ("torch", "vllm"))
        assert [a["raw_response"] for a in one["windows"][0]["answers"]] == [
            a["raw_response"] for a in other["windows"][0]["answers"]
        ]
        assert one["events"] == other["events"]
        for ours, theirs in zip(one["windows"][0]["answers"], other["windows"][0]["answers"], strict=True):
            assert 0 < ours["certainty"] == pytest.approx(theirs["certainty"], abs=2e-4)
        crashes += len(one["events"])
    assert crashes  # both adapters were asked


@pytest.mark.parametrize(("width", "heads"), [(96, 4), (96, 6), (120, 3)])
def test_widened_heads_compute_the_same(width, heads):
    torch.manual_seed(0)
    text = Qwen2Config(
        vocab_size=50, hidden_size=width, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=heads, num_key_value_heads=heads // 2 or 1,
        rope_parameters={"rope_type": "default", "rope_theta": 1e4},
    )  # fmt: skip
    wide = Heads.of(text, Path("a model"))
    assert wide.room in HEAD_SIZES and wide.room > wide.size == width // heads
    model = Qwen2ForCausalLM(text).eval()
    lora = partial(LoraConfig, r=4, target_modules=r"model\..*proj", init_lora_weights=False)
    adapted = get_peft_model(model, lora())
    for name, weight in model.named_parameters():
        if "_proj." in name and name.endswith("bias"):
            torch.nn.init.normal_(weight)
    config = Qwen2Config(**wide.config(text) | {"model_type": "qwen2"})
    other = get_peft_model(Qwen2ForCausalLM(config).eval(), lora())
    widened = {
        # What PEFT puts in between is in no exported name.
        name: wide.widen(name.replace(".base_layer", "").replace(".default", ""), weight)
        for name, weight in adapted.state_dict().items()
    }
    other.load_state_dict(widened)
    tokens = torch.randint(0, 50, (1, 700))
    with torch.no_grad():
        expected, found = adapted(tokens).logits, other(tokens).logits
        assert (expected - found).abs().max() < 1e-4 * expected.std()
        # Told apart from heads that are widened and no more.
        config.rope_parameters["rope_theta"] = 1e4
        wrong = get_peft_model(Qwen2ForCausalLM(config).eval(), lora())
        wrong.load_state_dict(widened)
        assert (expected - wrong(tokens).logits).abs().max() > 1e-2 * expected.std()


def test_what_no_engine_serves_is_refused(tiny_base, flash_adapters, tmp_path):
    def refused(folder: Path, *adapters: Path) -> str:
        words = ["convert", folder, tmp_path / "none", "--to", "vllm"]
        said = crashchat(*words, *(["--adapters", *adapters] if adapters else []), ok=False)
        assert not (tmp_path / "none").exists()
        return said

    wide = shutil.copytree(tiny_base, tmp_path / "wide")
    config = json.loads((wide / "config.json").read_text())
    config["text_config"] |= {"num_attention_heads": 32, "num_key_value_heads": 16}
    (wide / "config.json").write_text(json.dumps(config))
    assert "96 wide with 32 heads, a head size of 3; vLLM supports even ones up to 256" in refused(wide)
    one = flash_adapters[0]
    assert f"two adapters are called {one.name}" in refused(tiny_base, one, one)
    single = shutil.copytree(one, tmp_path / "single")
    config = json.loads((single / "adapter_config.json").read_text())
    (single / "adapter_config.json").write_text(json.dumps(config | {"alpha_pattern": {"q_proj": 3}}))
    assert "has ranks or alphas of single modules, which no engine serves" in refused(tiny_base, single)
    assert "it goes with its base: crashchat convert BASE OUT --to vllm --adapters" in refused(one)
    said = crashchat("convert", tiny_base, tmp_path / "none", "--adapters", one, ok=False)
    assert "--adapters belongs to --to vllm" in said


def test_what_an_engine_cannot_do_is_refused_in_one_line(
    exported, exported_two, tiny_base, flash_adapters, three_clips, tmp_path
):
    _, out = exported
    clip = three_clips / "clip0.mp4"
    nobody = ["--engine", "vllm", "--engine-address", f"http://127.0.0.1:{free_port()}"]
    words = ["analyze", clip, "--out", tmp_path / "out", *nobody]
    assert "no engine answers" in crashchat(*words, "--model", out, ok=False)
    assert "no crashchat/config.json in it" in crashchat(*words, "--model", tiny_base, ok=False)
    adapters = ["--linguistic", flash_adapters[0], "--perception", flash_adapters[1]]
    with serving(out) as address:
        at = [*words[:-1], address, "--model", out]
        assert "this engine answers freely alone" in crashchat(*at, "--decode", "constrained", ok=False)
        other = shutil.copytree(out, tmp_path / "another")
        said = crashchat(*words[:-1], address, "--model", other, ok=False)
        assert f"serves {out}, expected {other}" in said
    said = crashchat(*words, "--model", out, *adapters, ok=False)
    assert "engine=vllm takes adapters that were exported with the model" in said
    # The server was started without them.
    both = [exported_two / "adapters" / folder.name for folder in flash_adapters]
    alone = shutil.copytree(exported_two, tmp_path / "alone" / exported_two.name)
    shutil.rmtree(alone / "adapters")
    with serving(alone) as address:
        at = [*words[:-1], address, "--model", exported_two, "--linguistic", both[0], "--perception", both[1]]
        assert f"serves served, not the adapter {both[0].name}" in crashchat(*at, ok=False)


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
