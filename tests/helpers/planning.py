"""Small models whose runs are planned, and what a real step of one allocates and computes."""

from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import VideoLlama3Config

from crashchat.checkpoints.layouts import SO400M
from crashchat.config import CONFIG_DIR, ROOT, load_config
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.videollama3 import CrashChatModel
from crashchat.second_stages import PreferenceConfig
from crashchat.settings import TrainConfig
from crashchat.training.planning.memory import Imagined, batch_of
from crashchat.training.planning.shapes import QuestionShape, VideoShape
from crashchat.training.preferences import pair_losses
from crashchat.training.setup import prepared
from crashchat.training.start import keep_start
from tests.helpers.commands import TRAIN_CONFIG

SIX = (QuestionShape(60, (20,)),) * 6
TWO = (QuestionShape(30, (10,)),) * 2
# hidden, layers, heads, key-value heads, intermediate, vocabulary; the vision encoder's hidden, layers,
# intermediate, heads
SIZES = {
    "tiny": ((96, 3, 4, 2, 256, 1169), (48, 2, 128, 4)),
    "small": ((256, 6, 8, 2, 768, 1169), (96, 4, 256, 4)),
    "medium": ((512, 6, 8, 2, 1408, 4096), (192, 3, 512, 4)),
}
PASSES = {
    "tiny": [VideoShape(20, 2, 4, kept=160, text=100, questions=SIX)],
    "small": [VideoShape(24, 4, 5, kept=300, text=160, questions=SIX)],
    "medium": [VideoShape(16, 4, 6, kept=384, text=100, questions=TWO)],
}


def model_config(size: str) -> VideoLlama3Config:
    text, vision = SIZES[size]
    names = (
        "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size vocab_size"
    )
    parts = "hidden_size num_hidden_layers intermediate_size num_attention_heads"
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = VideoLlama3Config(
        text_config={
            "model_type": "qwen2",
            "rope_parameters": rope,
            **dict(zip(names.split(), text, strict=True)),
        },
        vision_config=SO400M | dict(zip(parts.split(), vision, strict=True)),
    )
    config.video_token_id = config.image_token_id = text[-1] - 1
    return config


def settings(*words: str) -> TrainConfig:
    """Of a run; with beta=, of one that learns from pairs and keeps the adapter that it starts from."""
    common = ["output_dir=out", "lora_rank=16", "gradient_checkpointing=false"]
    if not any(word.startswith("beta=") for word in words):
        return load_config(TrainConfig, None, [*common, *words])
    return load_config(PreferenceConfig, CONFIG_DIR / "train" / "preferences.yaml", [*common, *words])


@cache
def imagined(*words: str, gpu: bool = True) -> Imagined:
    """The tiny model with these settings."""
    return Imagined(model_config("tiny"), settings(*words), gpu)


CHECKPOINTING = "gradient_checkpointing=true"
RUNS = [
    ("tiny", "finetune=full"),
    ("tiny",),
    ("tiny", "dtype=bfloat16", CHECKPOINTING),
    ("tiny", "lora_on_vision=true", "lora_targets=q_proj,v_proj"),
    ("tiny", "beta=1", CHECKPOINTING),
    # A third of the time that all six take; the other two with checkpointing lie on either side of it.
    pytest.param(("small", CHECKPOINTING), marks=pytest.mark.slow),
    ("medium", CHECKPOINTING, "checkpoint_every_n_layers=2"),
]


class Measured(NamedTuple):
    peak: int  # bytes
    linear: float  # operations of matrix products


@cache
def measured(size: str, *words: str) -> Measured:
    """A real second step on a CPU, as torch's profiler saw it allocate and compute."""
    config, sizes = settings(*words), model_config(size)
    sizes.text_config._attn_implementation = BRANCH_ATTENTION
    torch.manual_seed(0)
    bfloat16 = config.dtype == "bfloat16"
    base = CrashChatModel(sizes).to(torch.bfloat16 if bfloat16 else torch.float32)
    model = prepared(base, config).train()
    if config.keeps_start:
        keep_start(model, None)
    if config.gradient_checkpointing:
        layers = {"every_n_layers": config.checkpoint_every_n_layers}
        base.activation_checkpointing_enable({"use_reentrant": False}, **layers)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)

    def step(batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            if isinstance(config, PreferenceConfig):
                loss = pair_losses(model, model, batch.as_dict(), config.beta).sum()
            else:
                loss = model(**batch.as_dict()).loss_sum
        loss.backward()
        del loss
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step(batch_of([VideoShape(1, 2, 2, kept=4, text=2, questions=TWO)], sizes.video_token_id))
    batch = batch_of(PASSES[size], sizes.video_token_id)
    states = [value for state in optimizer.state.values() for value in state.values()]
    live = peak = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers(), *states])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, with_flops=True) as profiler:
        step(batch)
    events = profiler.profiler.kineto_results.events()
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    products = {"aten::mm", "aten::addmm", "aten::bmm"}
    return Measured(peak, sum(one.flops for one in profiler.key_averages() if one.key in products))


def config_of(tiny_base, tiny_data, tmp_path, *more: str) -> TrainConfig:
    words = [f"base_model={tiny_base}", f"data_dir={tiny_data}", f"output_dir={tmp_path / 'out'}", *more]
    return load_config(TrainConfig, ROOT / TRAIN_CONFIG, ["with=configs/train/tiny_model.yaml", *words])
