"""Attention alone, one layer: six branches on a prefix, by every implementation there is,
forward and backward.

plain     six causal rows, each prefix and branch, one after the other (what question by question costs)
segments     one packed row, part by part (crashchat/attention.py)
dense     one packed row, SDPA with the dense mask
flex      one packed row, FlexAttention with the BlockMask, compiled (GPU only: it has no backward on a CPU)

`segments`, `dense` and `flex` are held against each other; the largest difference is printed.
"""

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from common import SIZES, median, report, turns
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention

from crashchat.model.attention import branch_attention, segments_of
from crashchat.model.masks import block_mask, dense_mask
from crashchat.processes import choose_device, choose_dtype

BRANCHES = [
    74,
    143,
    79,
    261,
    111,
    136,
]  # tokens of the six questions with their answers, in ckpt/tiny_base's tokenizer


def main() -> int:
    made = argparse.ArgumentParser(
        description=__doc__,
        epilog="example: python benchmarks/attention.py --size cpu --prefix 900",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--size", choices=SIZES, default="cpu", help="whose heads are taken")
    made.add_argument(
        "--prefix",
        type=int,
        default=900,
        help="tokens of the prefix (default 900; the recipe's are about 9000)",
    )
    made.add_argument(
        "--repeats", type=int, default=5, help="turns of each way, after one that warms up (default 5)"
    )
    made.add_argument("--out", type=Path, help="JSON file to write")
    arguments = made.parse_args()
    text, device = SIZES[arguments.size].text, choose_device()
    heads, kv_heads = text["num_attention_heads"], text["num_key_value_heads"]
    length, width = arguments.prefix + sum(BRANCHES), text["hidden_size"] // heads
    branch_ids = torch.tensor(
        [[0] * arguments.prefix + [n for n, size in enumerate(BRANCHES, 1) for _ in range(size)]]
    )
    none = torch.zeros_like(branch_ids, device=device)
    ids = (none, branch_ids.to(device), none)  # of one video, without stems
    torch.manual_seed(0)

    def states(count: int) -> Tensor:
        return torch.randn(
            1, count, length, width, device=device, dtype=choose_dtype(device)
        ).requires_grad_()

    inputs = [states(heads), states(kv_heads), states(kv_heads)]
    direction = torch.randn(1, length, heads, width, device=device, dtype=choose_dtype(device))
    compiled = torch.compile(flex_attention)

    def plain() -> Tensor:
        outputs, begin = [], arguments.prefix
        for size in BRANCHES:
            index = torch.cat([torch.arange(arguments.prefix), torch.arange(begin, begin + size)]).to(device)
            query, key, value = (tensor[:, :, index] for tensor in inputs)
            outputs.append(F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True))
            begin += size
        prefix = outputs[0][:, :, : arguments.prefix]
        return torch.cat(
            [prefix, *(output[:, :, arguments.prefix :] for output in outputs)], dim=2
        ).transpose(1, 2)

    def dense() -> Tensor:
        mask = dense_mask(*ids)
        return F.scaled_dot_product_attention(*inputs, attn_mask=mask, enable_gqa=True).transpose(1, 2)

    ways = {
        "plain": plain,
        "segments": lambda: branch_attention(None, *inputs, segments_of(*ids))[0],
        "dense": dense,
    }
    if device.type == "cuda":
        blocks = block_mask(*ids)
        ways["flex"] = lambda: compiled(*inputs, block_mask=blocks, enable_gqa=True).transpose(1, 2)
    found: dict[str, list[Tensor]] = {}

    def run(name: str) -> None:
        for tensor in inputs:
            tensor.grad = None
        output = ways[name]()
        (output * direction).sum().backward()
        found[name] = [output.detach(), *(tensor.grad for tensor in inputs)]

    def turn(name: str):
        return lambda: run(name)

    seconds = turns({name: turn(name) for name in ways}, arguments.repeats)
    figures = {
        name: {
            "ms": 1000 * median(taken),
            "tokens/s": length / median(taken),
            "against plain": median(seconds["plain"]) / median(taken),
        }
        for name, taken in seconds.items()
    }
    worst = {}
    for name in ways:
        pairs = zip(found[name], found["segments"], strict=True)
        # The plain way runs the prefix six times, so its gradients there are six times as large: outputs
        # alone are held.
        kept = list(pairs)[: 1 if name == "plain" else None]
        worst[name] = max(float((a - b).abs().max() / b.abs().max()) for a, b in kept)
    extra = {
        "prefix tokens": arguments.prefix,
        "branch tokens": BRANCHES,
        "largest relative difference from segments": worst,
    }
    report(
        "attention", f"{arguments.size}_{arguments.prefix}", figures=figures, extra=extra, out=arguments.out
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
