"""One training step on one video with six questions:
six plain samples against one sequence with six branches.

plain     for each question: the video is read, encoded and run through the language model again, by
transformers' own forward shared    the video is read, encoded and run through once, with six branches, by
crashchat's forward

Both are timed from the file to the gradients, with LoRA on the language model, the projector trained, and the
same loss.
"""

import sys
import tempfile
from pathlib import Path

import torch
from common import (
    PEAK_FLOPS,
    SIZES,
    Size,
    machine,
    make_clip,
    make_model,
    make_tokenizer,
    measure,
    median,
    parser,
    report,
    turns,
)
from transformers import VideoLlama3ForConditionalGeneration

from crashchat.model.lora import base_of
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.tasks import TASKS
from crashchat.training.setup import ATTENTION
from crashchat.video.reading import read_visual_tokens
from crashchat.video.tokens import VisualTokens, normalise

ANSWERS = {
    "crash_recognition": "Yes",
    "crash_description": "ego-car hits a car",
    "causal_reasoning": "The ego-car follows the car ahead too closely and does not brake in time.",
    "prevention_reasoning": "Drivers should keep a safe distance, watch brake lights ahead and slow down.",
    "crash_localization": "3.9 - 5.0 seconds",
    "pre_crash_localization": "2.6 seconds",
}
BRANCHES = [Branch(TASKS[name].prompt, answer) for name, answer in ANSWERS.items()]


def in_its_type(base) -> torch.autocast:
    """As Trainer computes: under autocast where the base is bfloat16."""
    return torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32)


def plain_step(model, tokenizer, clip: Path, size: Size) -> float:
    """Six samples, one after the other; returns the loss summed over all labelled tokens.

    Gradients add up.
    """
    base = base_of(model)
    base.model.vision_model.config._attn_implementation = "sdpa"
    attention = base.model.language_model.config._attn_implementation
    base.model.language_model.config._attn_implementation = "sdpa"
    total = 0.0
    for branch in BRANCHES:
        visual = read_visual_tokens(str(clip), size.video)
        sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, [branch])
        batch = pack([sequence], [visual])
        count, batch = len(batch.label_index), batch.as_dict(base.device)
        pixels = normalise(batch["pixel_values_videos"]).to(base.dtype)
        with in_its_type(base):
            loss = VideoLlama3ForConditionalGeneration.forward(
                base,
                input_ids=batch["input_ids"],
                attention_mask=torch.ones_like(batch["input_ids"]),
                labels=batch["labels"],
                pixel_values_videos=pixels,
                video_grid_thw=visual.grid_thw.to(base.device),
                video_merge_sizes=visual.merge_sizes.to(base.device),
                video_compression_mask=visual.compression_mask.to(base.device),
                use_cache=False,
            ).loss
        (loss * count).backward()
        total += float(loss.detach()) * count
    base.model.language_model.config._attn_implementation = attention
    return total


def shared_step(model, tokenizer, clip: Path, size: Size) -> float:
    """One sequence with six branches; returns the loss summed over all labelled tokens."""
    return shared_step_of(model, tokenizer, read_visual_tokens(str(clip), size.video))


def shared_step_of(model, tokenizer, visual: VisualTokens) -> float:
    """The same from a video that has been read: what the GPU does."""
    base = base_of(model)
    sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, BRANCHES)
    batch = pack([sequence], [visual])
    with in_its_type(base):
        loss = model(**batch.as_dict(base.device)).loss_sum
    loss.backward()
    return float(loss.detach())


def model_flops(size: Size, patches: int, prefix: int, branches: list[int]) -> float:
    """Operations that a shared step needs, recomputation not counted.

    Language model: forward 2 P T for P weights and T tokens, backward 2 P T (gradients of activations; those
    of frozen weights are not needed), LoRA's own weights 6 a token, attention 4 h a visible pair forward and
    twice that backward. Vision encoder, frozen: forward alone. The head counts for labelled tokens only
    and is left out.
    """
    text, vision = size.text, size.vision
    hidden, layers = text["hidden_size"], text["num_hidden_layers"]
    kv = hidden // text["num_attention_heads"] * text["num_key_value_heads"]
    shapes = [(hidden, hidden)] * 2 + [(hidden, kv)] * 2 + [(hidden, text["intermediate_size"])] * 3
    weights = layers * sum(a * b for a, b in shapes)
    lora = layers * 64 * sum(a + b for a, b in shapes)
    tokens = prefix + sum(branches)
    pairs = prefix * (prefix + 1) / 2 + sum(prefix * own + own * (own + 1) / 2 for own in branches)
    language = 4 * weights * tokens + 6 * lora * tokens + 3 * 4 * hidden * layers * pairs
    wide, deep = vision["hidden_size"], vision["num_hidden_layers"]
    frames = min(size.video.max_frames, int(size.clip[0] * size.video.fps))
    encoder = deep * (4 * wide**2 + 2 * wide * vision["intermediate_size"])
    return language + 2 * encoder * patches + 4 * wide * deep * patches * (patches / frames)


def main() -> int:
    made = parser(__doc__, "python benchmarks/train_step.py --size cpu")
    made.add_argument("--attention", choices=list(ATTENTION), default="branch_attention")
    arguments = made.parse_args()
    size = SIZES[arguments.size]
    tokenizer = make_tokenizer()
    model = make_model(size, tokenizer, adapter=True, attention=ATTENTION[arguments.attention])
    model.train()
    if arguments.size in ("2b", "7b"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    losses: dict[str, float] = {}
    gradients: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as folder:
        clip = make_clip(size, Path(folder))

        def run(name, step) -> None:
            model.zero_grad()
            losses[name] = step(model, tokenizer, clip, size)

        ways = {"plain": lambda: run("plain", plain_step), "shared": lambda: run("shared", shared_step)}
        figures = measure(
            ways, arguments, __file__, ["--size", arguments.size, "--attention", arguments.attention]
        )
        if figures is None:
            return 0
        for (
            name,
            way,
        ) in ways.items():  # once more, off the clock: 700 MB of the 7B recipe's go to the computer
            way()
            gradients[name] = torch.cat(
                [p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None]
            )
        visual = read_visual_tokens(str(clip), size.video)
    taken = turns({"model": lambda: shared_step_of(model, tokenizer, visual)}, arguments.repeats)["model"]
    sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, BRANCHES)
    prefix = int((sequence.branch_ids == 0).sum())
    branches = [int((sequence.branch_ids == number).sum()) for number in range(1, len(BRANCHES) + 1)]
    trained = 6 * prefix + sum(branches)  # tokens that the plain way runs through the language model
    for values in figures.values():
        values["videos/s"] = 1 / values["seconds"]
        values["tokens/s"] = trained / values["seconds"]  # the same useful work on both lines
    extra = {
        "ratio": figures["plain"]["seconds"] / figures["shared"]["seconds"],
        "prefix tokens": prefix,
        "branch tokens": branches,
        "loss difference": abs(losses["plain"] - losses["shared"]) / abs(losses["plain"]),
        "gradient difference": float(
            (gradients["plain"] - gradients["shared"]).norm() / gradients["plain"].norm()
        ),
    }
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in machine()["device"]), None)
    flops = model_flops(size, len(visual.pixel_values), prefix, branches)
    extra["model TFLOPs of a step"] = flops / 1e12
    extra["seconds of a shared step from a video that has been read"] = median(taken)
    if peak:
        extra["MFU"] = flops / median(taken) / peak
    report("train_step", arguments.size, figures=figures, extra=extra, out=arguments.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
