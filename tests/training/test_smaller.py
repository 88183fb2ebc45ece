"""What fits a smaller card: 4-bit bases, DoRA, rank-stabilised LoRA, chosen layers, 8-bit moments,
offloading.
"""

import pytest
import torch

from crashchat.checkpoints.folders import load_model
from crashchat.checkpoints.model_card import read_card
from crashchat.config import ConfigError, load_config
from crashchat.model.lora import add_adapter
from crashchat.settings import TrainConfig
from tests.helpers.commands import adapter, crashchat, train
from tests.helpers.models import CPU

pytest.importorskip("bitsandbytes", reason="requirements-quantized.txt is not installed")
QUICK = ["max_steps=2", "eval_steps=2", "save_steps=2", "global_batch_size=6", "val_videos=1"]


def types_in(value) -> set[torch.dtype]:
    """Of all tensors of nested dicts."""
    if isinstance(value, dict):
        return set().union(*map(types_in, value.values()))
    return {value.dtype} if isinstance(value, torch.Tensor) else set()


def test_a_4bit_base_trains_an_adapter_that_merges(tiny_data, tiny_base, tmp_path):
    """With DoRA, two projections alone and 8-bit moments besides; in bfloat16, as on a GPU."""
    settings = ["quantization=4bit", "dora=true", "lora_targets=q_proj,v_proj", "optimizer=adamw_8bit"]
    train(tiny_data, tmp_path / "run", 1, *QUICK, *settings, "dtype=bfloat16")
    weights = adapter(tmp_path / "run")
    assert sum("lora_magnitude_vector" in name for name in weights) == 2 * 3
    assert not any("k_proj" in name or "mlp" in name for name in weights)
    moved = [weight for name, weight in weights.items() if "lora_B" in name]
    assert all(bool(weight.abs().max() > 0) for weight in moved)
    card = read_card(tmp_path / "run")
    assert card.settings["quantization"] == "4bit" and card.settings["dora"] is True
    state = torch.load(tmp_path / "run" / "checkpoint-2" / "optimizer.pt", weights_only=True)
    assert torch.uint8 in types_in(
        state["state"]
    )  # of the projector; those of 4,096 weights or fewer stay float32
    words = ["--base", tiny_base, "--adapter", tmp_path / "run", "--out", tmp_path / "merged"]
    crashchat("merge", *words)
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_lora_on_the_vision_encoder_is_trained_and_merged(tiny_data, tiny_base, tmp_path):
    settings = ["lora_on_vision=true", "rslora=true", "offload_activations=true", "profile=true"]
    settings += ["gradient_checkpointing=true", "checkpoint_every_n_layers=2"]
    output = train(tiny_data, tmp_path / "run", 1, *QUICK[3:], "max_steps=4", *settings)
    weights = adapter(tmp_path / "run")
    vision = [name for name in weights if "vision_model" in name and "lora_B" in name]
    assert len(vision) == 2 * 6 and all(bool(weights[name].abs().max() > 0) for name in vision)
    assert (tmp_path / "run" / "profile" / "trace.json.gz").stat().st_size > 1000
    assert all(name in output for name in ("tokens_per_second", "waiting_for_data", "model_tflops"))
    crashchat("merge", "--base", tiny_base, "--adapter", tmp_path / "run", "--out", tmp_path / "merged")


def test_linear_layers_of_the_language_model_alone_are_quantised(tiny_base, tiny_tokenizer):
    from bitsandbytes.nn import Linear4bit

    model = load_model(tiny_base, tiny_tokenizer, CPU, quantized=True)
    small = {name for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    assert len(small) == 3 * 7 and all("language_model.layers" in name for name in small)
    plain = load_model(tiny_base, tiny_tokenizer, CPU)
    weight = model.get_submodule(next(iter(small))).weight
    assert weight.dtype == torch.uint8 and weight.quant_state.nested
    assert weight.numel() * 2 == plain.get_submodule(next(iter(small))).weight.numel()
    adapted = add_adapter(model.requires_grad_(False), rank=4, alpha=8, dropout=0.0)
    assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["quantization=4bit", "deepspeed=configs/deepspeed/zero1.json"], "does not go with deepspeed"),
        (["optimizer=adamw_8bit", "deepspeed=configs/deepspeed/zero1.json"], "has its own"),
        (["quantization=4bit", "finetune=full"], "trains every weight"),
        (["lora_on_vision=true", "feature_cache=x"], "does not go with feature_cache"),
        (["lora_targets=[]"], "lora_targets"),
        (["lora_targets=lm_head"], "lora_targets"),
        (["report_to=swanlab"], "pip install swanlab"),
        (["attention=flash_attn"], "needs flash-attn"),
    ],
)
def test_contradictions_are_errors(words, said, tmp_path):
    with pytest.raises(ConfigError, match=said):
        load_config(TrainConfig, None, [f"output_dir={tmp_path}", *words])
