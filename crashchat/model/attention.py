"""Attention that knows what a batch is made of, where transformers' own would compute what no one sees.

Vision encoder: frames of one size are one batched SDPA call (transformers loops over frames).
Language model: a packed row is taken apart into what sees what, each part an SDPA call without a mask of its
own:

          P P a a b b
    P     1                1  a prefix, causal in itself
    P     1 1
    a     2 2 2            2  a branch against prefix and itself
    a     2 2 2 2
    b     3 3     3        3  the next branch, likewise
    b     3 3     3 3

A branch that goes on from a stem is against the prefix, the stem and itself.

What no token sees is not computed, nothing of size L x L is built, and on a GPU every call is a flash kernel:
torch would take cuDNN's first on an H100, which make a plan for every new length (0.06-0.4 s each), and every
video has a length of its own. The rule is that of masks.py, whose dense mask and BlockMask the tests hold
against this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface

from crashchat.model.masks import PADDING
from crashchat.model.sequence import PREFIX

FRAME_ATTENTION = "frame_attention"
BRANCH_ATTENTION = "branch_attention"


@dataclass(frozen=True)
class Segment:
    """Tokens that attend alike: a prefix, a branch, or the stem of several.

    row: of the batch. queries: where the tokens stand among those that ask. own: where they stand among the
    keys, causal in themselves. seen: the keys that all of them see besides, of the prefix and of a stem; none
    for a prefix.
    """

    row: int
    queries: slice
    own: slice
    seen: tuple[slice, ...]


def segments_of(video_ids: Tensor, branch_ids: Tensor, stem_ids: Tensor) -> list[Segment]:
    """The segments of a packed row, in order.

    video_ids, branch_ids, stem_ids: int64[1, L] (packing.py). Raises ValueError for padding.
    """
    if len(video_ids) != 1 or bool((video_ids == PADDING).any()):
        raise ValueError(f"expected one row without padding, found video_ids {list(video_ids.shape)}")
    ids = torch.stack([video_ids[0], branch_ids[0], stem_ids[0]], dim=1)
    runs, lengths = torch.unique_consecutive(ids, dim=0, return_counts=True)
    segments: list[Segment] = []
    places: dict[int, slice] = {}  # of the video's prefix and branches so far
    start = 0
    for (_, branch, stem), length in zip(runs.tolist(), lengths.tolist(), strict=True):
        own = slice(start, start + length)
        if branch == PREFIX:
            places = {}
        seen = () if branch == PREFIX else seen_by(places, stem)
        segments.append(Segment(0, own, own, seen))
        places[branch] = own
        start += length
    return segments


def seen_by(places: Mapping[int, slice], stem: int) -> tuple[slice, ...]:
    """What a branch sees besides itself. places: of its video's prefix and branches; stem: or PREFIX."""
    return tuple(places[one] for one in dict.fromkeys((PREFIX, stem)))


def stems_of(segments: Sequence[Segment]) -> list[slice]:
    """Where the stems of some segments stand, once for each branch that goes on from them."""
    return [stem for segment in segments for stem in segment.seen[1:]]


class Watch(Protocol):
    """Is told what a layer's attention over segments computes with.

    query: float[R, heads, n, head size]; key: float[R, key-value heads, L, head size]; both turned by their
    positions. scaling: of their products.
    """

    def __call__(self, query: Tensor, key: Tensor, segments: list[Segment], scaling: float) -> None: ...


def branch_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, watch: Watch | None = None, **kwargs
):
    """Attention of packed rows.

    query: float[R, heads, n, head size]; key, value: float[R, key-value heads, L, head size].
    attention_mask: list[Segment], in the order of rows and queries (what is left of a row is padding and gets
    zeros, where there are several rows); or bool[R, 1, n, L] or float[R, 1, n, L] as for SDPA; or None, for
    rows that are causal from end to end. watch: sees the queries and keys of segments. Returns float[R, n,
    heads, head size].
    """
    if isinstance(attention_mask, Tensor):
        # Heads that share keys and values ask as one head with more queries: keys and values are read once
        # for all of them.
        heads, shared_by = query.shape[1], query.shape[1] // key.shape[1]
        asking, mask = (
            query.flatten(1, 2).unflatten(1, (key.shape[1], -1)),
            attention_mask.repeat(1, 1, shared_by, 1),
        )
        output = F.scaled_dot_product_attention(
            asking, key, value, attn_mask=mask, scale=scaling, dropout_p=dropout
        )
        return output.flatten(1, 2).unflatten(1, (heads, -1)).transpose(1, 2), None
    settings = {"scale": scaling, "dropout_p": dropout, "enable_gqa": True}
    if attention_mask is None:
        causal = query.shape[2] > 1  # a single token asks at the end: it sees everything
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal, **settings).transpose(
            1, 2
        ), None
    if watch:
        watch(query, key, attention_mask, scaling or query.shape[-1] ** -0.5)
    rows: list[list[Tensor]] = [[] for _ in query]
    for segment in attention_mask:
        row = slice(segment.row, segment.row + 1)
        asking = query[row, :, segment.queries]
        keys, values = (
            torch.cat([states[row, :, part] for part in (*segment.seen, segment.own)], dim=2)
            for states in (key, value)
        )
        causal = causal_lower_right(asking.shape[2], keys.shape[2])
        rows[segment.row].append(
            F.scaled_dot_product_attention(asking, keys, values, attn_mask=causal, **settings)
        )
    joined = [torch.cat(row, dim=2) for row in rows]
    if len(joined) == 1:  # a packed row, which has no padding
        return joined[0].transpose(1, 2), None
    output = torch.cat([F.pad(row, (0, 0, 0, query.shape[2] - row.shape[2])) for row in joined])
    return output.transpose(1, 2), None


def frame_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, num_frames=1, **kwargs
):
    """Attention within each frame, all frames at once.

    query, key, value: float[1, heads, num_frames * patches, head size]. Returns float[1, num_frames *
    patches, heads, head size].
    """

    def by_frame(states: Tensor) -> Tensor:
        _, heads, length, size = states.shape
        return states.view(heads, num_frames, length // num_frames, size).transpose(0, 1)

    output = F.scaled_dot_product_attention(
        by_frame(query), by_frame(key), by_frame(value), scale=scaling, dropout_p=dropout
    )
    return output.transpose(1, 2).reshape(1, -1, output.shape[1], output.shape[3]), None


torch.backends.cuda.enable_cudnn_sdp(False)
AttentionInterface.register(FRAME_ATTENTION, frame_attention)
AttentionInterface.register(BRANCH_ATTENTION, branch_attention)
