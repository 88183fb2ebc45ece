"""Who sees whom: one rule, as a dense mask (answers are generated with it) or as FlexAttention's BlockMask.

A token sees an earlier token of its row and video that is in the prefix, in the token's own branch or in that
branch's stem. For one video with a prefix of two tokens and two branches of two (P prefix, a and b branches):

      P P a a b b
    P #
    P # #
    a # # #
    a # # # #
    b # #     #
    b # #     # #

With two answers, b and c, to one question, whose stem is a (sequence.py):

      P P a a b b c c
    P #
    P # #
    a # # #
    a # # # #
    b # # # # #
    b # # # # # #
    c # # # #     #
    c # # # #     # #
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from crashchat.model.sequence import PREFIX

PADDING = -1  # video id of a padding token
BLOCK = 128  # tokens a side of a BlockMask's block


def visible(query: Tensor, key: Tensor, video_ids: Tensor, branch_ids: Tensor, stem_ids: Tensor) -> Tensor:
    """The rule, elementwise: may the token at `query` see the token at `key`? bool,
    broadcast over the index tensors, which are int64.

    video_ids, branch_ids, stem_ids: int64[L] of one row. Padding sees itself alone, so that no softmax is
    over nothing.
    """
    same_video = video_ids[query] == video_ids[key]
    in_reach = _in_reach(branch_ids[query], stem_ids[query], branch_ids[key])
    real = video_ids[query] != PADDING
    return ((key <= query) & same_video & in_reach & real) | (query == key)


def _in_reach(branch: Tensor, stem: Tensor, other: Tensor) -> Tensor:
    """Whether tokens of a branch with this stem may see those of another one, of the same video."""
    return (other == PREFIX) | (other == branch) | (other == stem)


def dense_mask(video_ids: Tensor, branch_ids: Tensor, stem_ids: Tensor, queries: int | None = None) -> Tensor:
    """The rule as bool[R, 1, L, L] for SDPA, True where query (third axis) sees key (fourth).

    video_ids, branch_ids, stem_ids: int64[R, L]. queries: only the last so many tokens ask, the others are in
    a cache.
    """
    index = torch.arange(video_ids.shape[1], device=video_ids.device)
    rows = [
        visible(index[-(queries or 0) :, None], index[None, :], *ids)
        for ids in zip(video_ids, branch_ids, stem_ids, strict=True)
    ]
    return torch.stack(rows)[:, None]


def block_mask(video_ids: Tensor, branch_ids: Tensor, stem_ids: Tensor) -> BlockMask:
    """The rule as a FlexAttention BlockMask. video_ids, branch_ids, stem_ids: int64[R, L].

    Which blocks of 128 x 128 tokens hold something to see is worked out from the segments (a segment is a
    video's prefix or one of its branches), not token by token: nothing of size L x L is built, and nothing is
    compiled.
    """
    _rows, length = video_ids.shape

    def rule(row, head, query, key):
        ids = (video_ids[row], branch_ids[row], stem_ids[row])
        return visible(query, key, *ids)

    partial, full = _blocks(video_ids, branch_ids, stem_ids)
    return BlockMask.from_kv_blocks(
        *_listed(partial), *_listed(full), BLOCK_SIZE=BLOCK, mask_mod=rule, seq_lengths=(length, length)
    )


def _blocks(video_ids: Tensor, branch_ids: Tensor, stem_ids: Tensor) -> tuple[Tensor, Tensor]:
    """bool[R, 1, B, B] twice: blocks of queries (rows)
    and keys in which some token pairs may be visible, and all are.
    """
    rows, length = video_ids.shape
    blocks, device = -(-length // BLOCK), video_ids.device
    changes = (video_ids.diff(dim=1) != 0) | (branch_ids.diff(dim=1) != 0)
    segments = F.pad(changes.cumsum(dim=1), (1, 0))
    count = int(segments.max()) + 1
    segment_video = video_ids.new_full((rows, count), PADDING).scatter_(1, segments, video_ids)
    segment_branch = branch_ids.new_zeros(rows, count).scatter_(1, segments, branch_ids)
    segment_stem = stem_ids.new_zeros(rows, count).scatter_(1, segments, stem_ids)
    within_reach = _in_reach(segment_branch[:, :, None], segment_stem[:, :, None], segment_branch[:, None, :])
    sees = (
        (segment_video[:, :, None] == segment_video[:, None, :])
        & within_reach
        & (segment_video[:, :, None] != PADDING)
    )
    block_of = torch.arange(length, device=device) // BLOCK
    holds = torch.zeros(rows, blocks * count, device=device).scatter_(1, block_of * count + segments, 1.0)
    holds = holds.view(rows, blocks, count)  # 1.0 where a block holds a token of a segment
    some = (holds @ sees.float() @ holds.mT) > 0
    every = (holds @ (~sees).float() @ holds.mT) == 0
    index = torch.arange(blocks, device=device)
    earlier, same = index[:, None] > index[None, :], index[:, None] == index[None, :]
    full = every & earlier
    return ((some & earlier & ~full) | same)[:, None], full[:, None]


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """bool[R, 1, B, B] -> for each query block, how many key blocks int32[R, 1, B] and which, first,
    int32[R, 1, B, B].
    """
    order = blocks.int().argsort(dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32), order.int()


def draw(mask: Tensor, branch_ids: Tensor) -> str:
    """A dense mask of one row, bool[L, L], as text: a line a query, `#` where it sees the key
    (see the module's head).
    """
    names = ["P" if branch == PREFIX else chr(ord("a") + int(branch) - 1) for branch in branch_ids]
    lines = ["  " + " ".join(names)]
    for name, row in zip(names, mask, strict=True):
        lines.append((name + " " + " ".join("#" if seen else " " for seen in row)).rstrip())
    return "\n".join(lines)
