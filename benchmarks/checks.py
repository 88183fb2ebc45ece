"""Whether results are right on this machine's device: each check prints a line, and one that fails ends with
1.

    python benchmarks/checks.py

On a GPU in bfloat16, as users run; on a CPU in float32. Attention, losses and gradients are held against the
one rule of crashchat/model/masks.py, in float64 on the CPU.
"""

import sys

import torch
import torch.nn.functional as F
from common import SIZES, make_model, make_tokenizer

from crashchat.answering.generate import answer_from_prefix
from crashchat.answering.prefix import prefill
from crashchat.model import varlen
from crashchat.model.attention import branch_attention, segments_of
from crashchat.model.lora import base_of
from crashchat.model.masks import dense_mask
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.processes import choose_device, choose_dtype
from crashchat.tasks import TASKS
from crashchat.video.tokens import VisualTokens

PREFIXES = (900, 2300, 4096)  # tokens; lengths that no other has
BRANCHES = [80, 60, 120, 90]


def visual_of(frames: int) -> VisualTokens:
    """A video of random pixels, 12 visual tokens a frame."""
    generator = torch.Generator().manual_seed(frames)
    return VisualTokens(
        pixel_values=torch.randint(0, 256, (frames * 48, 588), dtype=torch.uint8, generator=generator),
        grid_thw=torch.tensor([[frames, 6, 8]]),
        merge_sizes=torch.tensor([2]),
        compression_mask=torch.ones(frames * 12, dtype=torch.bool),
        seconds=[0.1 * index for index in range(frames)],
    )


def attention_error(prefix: int, way: str) -> float:
    """Largest difference of outputs and gradients from the dense rule in float64, relative to the largest
    value.
    """
    device = choose_device()
    branch_ids = torch.tensor([[0] * prefix + [n for n, size in enumerate(BRANCHES, 1) for _ in range(size)]])
    ids = (torch.zeros_like(branch_ids), branch_ids, torch.zeros_like(branch_ids))  # one video, no stems
    torch.manual_seed(0)
    states = [torch.randn(1, heads, branch_ids.shape[1], 64) for heads in (4, 2, 2)]
    exact = [state.double().requires_grad_() for state in states]
    mask = dense_mask(*ids)
    expected = F.scaled_dot_product_attention(*exact, attn_mask=mask, enable_gqa=True).transpose(1, 2)
    direction = torch.randn_like(states[0]).transpose(1, 2)
    (expected * direction.double()).sum().backward()
    own = [state.to(device, choose_dtype(device)).requires_grad_() for state in states]
    segments = segments_of(*ids)
    if way == "flash_attn":
        found, _ = varlen.varlen_attention(None, *own, varlen.varlen_of(segments, device))
    else:
        found, _ = branch_attention(None, *own, segments)
    (found * direction.to(device, found.dtype)).sum().backward()
    pairs = [
        (found.detach(), expected.detach()),
        *((a.grad, b.grad) for a, b in zip(own, exact, strict=True)),
    ]
    return max(float((a.double().cpu() - b).abs().max() / b.abs().max()) for a, b in pairs)


def training_error() -> tuple[float, float]:
    """Relative differences of loss and of gradients: six questions as branches against six samples."""
    tokenizer = make_tokenizer()
    model = make_model(SIZES["cpu"], tokenizer, adapter=True)
    model.train()
    base, visual = base_of(model), visual_of(24)
    branches = [Branch(task.prompt, "1.9 - 4.0 seconds") for task in TASKS.values()]
    results = []
    for packs in ([branches], [[branch] for branch in branches]):
        model.zero_grad()
        total = 0.0
        for some in packs:
            sequence = build_sequence(tokenizer, visual.seconds, visual.kept_per_frame, some)
            with torch.autocast(base.device.type, base.dtype, enabled=base.dtype != torch.float32):
                loss = model(**pack([sequence], [visual]).as_dict(base.device)).loss_sum
            loss.backward()
            total += float(loss.detach())
        grads = [p.grad.flatten().float().cpu() for p in model.parameters() if p.grad is not None]
        results.append((total, torch.cat(grads)))
    (one, first), (other, second) = results
    return abs(one - other) / other, float((first - second).norm() / second.norm())


def answer_error() -> float:
    """Largest difference in the first tokens' log-probabilities: all questions on three videos at once, with
    constant shapes, against each alone without.
    """
    tokenizer = make_tokenizer()
    model = make_model(SIZES["cpu"], tokenizer, adapter=False)
    visuals = [visual_of(frames) for frames in (24, 10, 17)]
    prompts = [task.prompt for task in TASKS.values()]
    prefix = prefill(model, tokenizer, visuals)
    ways = {"max_new_tokens": 4, "constant_shapes": True}
    together = answer_from_prefix(model, tokenizer, prefix, [prompts] * 3, **ways).first_logits
    worst = 0.0
    for visual, logits in zip(visuals, together, strict=True):
        for number, prompt in enumerate(prompts):
            alone = answer_from_prefix(
                model, tokenizer, prefill(model, tokenizer, [visual]), [[prompt]], max_new_tokens=1
            ).first_logits[0][0]
            difference = logits[number].float().log_softmax(dim=-1) - alone.float().log_softmax(dim=-1)
            worst = max(worst, float(difference.abs().max()))
    return worst


def main() -> int:
    device = choose_device()
    exact = device.type == "cpu"
    ways = ["branch_attention"] + (["flash_attn"] if varlen.is_there() and not exact else [])
    figures = {
        f"{way}, prefix of {prefix}": (attention_error(prefix, way), 1e-5 if exact else 2e-2)
        for way in ways
        for prefix in PREFIXES
    }
    loss, gradients = training_error()
    figures["loss of six branches against six samples"] = (loss, 1e-5 if exact else 1e-2)
    figures["their gradients"] = (gradients, 1e-4 if exact else 5e-2)
    figures["log-probabilities, questions at once against one by one"] = (
        answer_error(),
        1e-3 if exact else 0.2,
    )
    print(f"on {device}, {choose_dtype(device)}")
    for name, (found, bound) in figures.items():
        print(f"{'ok    ' if found <= bound else 'FAILED'}  {name}: {found:.1e}, at most {bound:.0e}")
    return 0 if all(found <= bound for found, bound in figures.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
