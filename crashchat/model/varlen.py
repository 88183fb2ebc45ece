"""The segments of attention.py in one call of flash-attn's kernel for sequences of varying lengths (GPUs).

          queries      keys and values, gathered
    P     P P          P P
    a     a a          P P a a          each query sequence is aligned with its keys' end,
    b     b b          P P b b          which is causal_lower_right of attention.py

One launch a layer, whatever the number of branches. A prefix is gathered once for each of its branches: at
the recipe's lengths 110 MB a layer and video, 0.1 ms on an H100, where two calls merged by their log-sum-exp
would launch twice and need a backward pass of their own, since the kernel gives no gradient of the
log-sum-exp.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from crashchat.model.attention import Segment

VARLEN_ATTENTION = "varlen_attention"
VARLEN_FRAMES = "varlen_frames"


@dataclass(frozen=True)
class Varlen:
    """A packed row's segments as flash_attn_varlen_func takes them.

    key_index: int64[sum of key lengths], the row's tokens that each segment sees, segment after segment.
    queries, keys: int32[segments + 1], where each segment begins among the row's tokens and in key_index.
    longest_queries, longest_keys: tokens.
    """

    key_index: Tensor
    queries: Tensor
    keys: Tensor
    longest_queries: int
    longest_keys: int


def varlen_of(segments: Sequence[Segment], device: torch.device) -> Varlen:
    """Segments of one row that follow each other without a gap."""
    own = [segment.own.stop - segment.own.start for segment in segments]
    parts = [[*segment.seen, segment.own] for segment in segments]
    lengths = [sum(part.stop - part.start for part in seen) for seen in parts]
    return Varlen(
        key_index=torch.cat([torch.arange(part.start, part.stop) for seen in parts for part in seen]).to(
            device
        ),
        queries=_starts(own, device),
        keys=_starts(lengths, device),
        longest_queries=max(own),
        longest_keys=max(lengths),
    )


def _starts(lengths: Sequence[int], device: torch.device) -> Tensor:
    starts = torch.tensor([0, *lengths]).cumsum(dim=0)
    return starts.to(device, torch.int32)


def kernel() -> Callable[..., Any]:
    """flash-attn's flash_attn_varlen_func. Raises ImportError without the package."""
    from flash_attn import flash_attn_varlen_func

    return flash_attn_varlen_func


def is_there() -> bool:
    """Whether flash-attn is installed."""
    return find_spec("flash_attn") is not None


def varlen_attention(module, query, key, value, attention_mask: Varlen, scaling=None, dropout=0.0, **kwargs):
    """Attention of a packed row.

    query: float[1, heads, L, head size]; key, value: float[1, key-value heads, L, head size]. Returns
    float[1, L, heads, head size].
    """
    asking = query[0].transpose(0, 1)
    keys, values = (states[0].transpose(0, 1)[attention_mask.key_index] for states in (key, value))
    output = kernel()(
        asking,
        keys,
        values,
        cu_seqlens_q=attention_mask.queries,
        cu_seqlens_k=attention_mask.keys,
        max_seqlen_q=attention_mask.longest_queries,
        max_seqlen_k=attention_mask.longest_keys,
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=True,
    )
    return output[None], None


def varlen_frames(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, num_frames=1, **kwargs
):
    """Attention within each frame.

    query, key, value: float[1, heads, num_frames * patches, head size]. Returns float[1, num_frames *
    patches, heads, head size].
    """
    length = query.shape[2] // num_frames
    starts = torch.arange(0, query.shape[2] + 1, length, device=query.device, dtype=torch.int32)
    output = kernel()(
        *(states[0].transpose(0, 1) for states in (query, key, value)),
        cu_seqlens_q=starts,
        cu_seqlens_k=starts,
        max_seqlen_q=length,
        max_seqlen_k=length,
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=False,
    )
    return output[None], None


AttentionInterface.register(VARLEN_ATTENTION, varlen_attention)
AttentionInterface.register(VARLEN_FRAMES, varlen_frames)
