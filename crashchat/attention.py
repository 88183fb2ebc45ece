"""Attention that knows what a batch is made of, where transformers' own would compute what no one sees.

Vision encoder: frames of one size are one batched SDPA call (transformers loops over frames).
Language model: a packed row is taken apart into what sees what, each part an SDPA call without a mask of its own:

          P P a a b b
    P     1                1  a prefix, causal in itself
    P     1 1
    a     2 2 2            2  a branch against prefix and itself
    a     2 2 2 2
    b     3 3     3        3  the next branch, likewise
    b     3 3     3 3

What no token sees is not computed, nothing of size L x L is built, and on a GPU every call is a flash kernel. The rule is that of
masks.py, whose dense mask and BlockMask the tests hold against this.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from crashchat.masks import PADDING
from crashchat.sequence import PREFIX

FRAME_ATTENTION = "frame_attention"
BRANCH_ATTENTION = "branch_attention"


@dataclass(frozen=True)
class VideoSpan:
    """Where one video stands in a row: its prefix from `start` to `end`, then each branch up to its own end."""

    start: int
    end: int
    branch_ends: tuple[int, ...]


def video_spans(video_ids: Tensor, branch_ids: Tensor) -> list[VideoSpan]:
    """The videos of a packed row, in order. video_ids, branch_ids: int64[1, L] (packing.py). Raises ValueError for padding."""
    if len(video_ids) != 1 or bool((video_ids == PADDING).any()):
        raise ValueError(f"expected one row without padding, found video_ids {list(video_ids.shape)}")
    pairs = torch.stack([video_ids[0], branch_ids[0]], dim=1)
    runs, lengths = torch.unique_consecutive(pairs, dim=0, return_counts=True)
    spans: list[VideoSpan] = []
    end = 0
    for (_, branch), length in zip(runs.tolist(), lengths.tolist(), strict=True):
        end += length
        if branch == PREFIX:
            spans.append(VideoSpan(end - length, end, ()))
        else:
            spans[-1] = VideoSpan(spans[-1].start, spans[-1].end, (*spans[-1].branch_ends, end))
    return spans


def branch_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Attention of a packed row, part by part; with a tensor mask or none, transformers' SDPA.

    query: float[1, heads, L, head size]; key, value: with the key-value heads. attention_mask: list[VideoSpan].
    Returns float[1, L, heads, head size].
    """
    if not isinstance(attention_mask, list):
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, dropout=dropout, **kwargs)

    def attend(queries: slice, keys: Tensor, values: Tensor) -> Tensor:
        asking = query[:, :, queries]
        causal = causal_lower_right(asking.shape[2], keys.shape[2])
        return F.scaled_dot_product_attention(
            asking, keys, values, attn_mask=causal, scale=scaling, dropout_p=dropout, enable_gqa=True
        )

    parts = []
    for span in attention_mask:
        prefix = slice(span.start, span.end)
        parts.append(attend(prefix, key[:, :, prefix], value[:, :, prefix]))
        begin = span.end
        for end in span.branch_ends:
            own = slice(begin, end)
            seen = [torch.cat([states[:, :, prefix], states[:, :, own]], dim=2) for states in (key, value)]
            parts.append(attend(own, *seen))
            begin = end
    return torch.cat(parts, dim=2).transpose(1, 2), None


def frame_attention(module, query, key, value, attention_mask, scaling=None, dropout=0.0, num_frames=1, **kwargs):
    """Attention within each frame, all frames at once.

    query, key, value: float[1, heads, num_frames * patches, head size]. Returns float[1, num_frames * patches, heads, head size].
    """

    def by_frame(states: Tensor) -> Tensor:
        _, heads, length, size = states.shape
        return states.view(heads, num_frames, length // num_frames, size).transpose(0, 1)

    output = F.scaled_dot_product_attention(by_frame(query), by_frame(key), by_frame(value), scale=scaling, dropout_p=dropout)
    return output.transpose(1, 2).reshape(1, -1, output.shape[1], output.shape[3]), None


AttentionInterface.register(FRAME_ATTENTION, frame_attention)
AttentionInterface.register(BRANCH_ATTENTION, branch_attention)
