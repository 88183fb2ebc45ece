"""Who sees whom in a packed batch: one rule, as a dense mask or as FlexAttention's BlockMask.

A token sees an earlier token of its row and video that is in the prefix or in the token's own branch. For one video with a
prefix of two tokens and two branches of two (P prefix, a and b branches):

      P P a a b b
    P #
    P # #
    a # # #
    a # # # #
    b # #     #
    b # #     # #
"""

import torch
from torch import Tensor

from crashchat.sequence import PREFIX

PADDING = -1  # video id of a padding token


def visible(query: int, key: int, video_ids: Tensor, branch_ids: Tensor) -> Tensor:
    """The rule, elementwise: may the token at `query` see the token at `key`? bool, broadcast over the index tensors.

    video_ids, branch_ids: int64[L] of one row. Padding sees itself alone, so that no softmax is over nothing.
    """
    same_video = video_ids[query] == video_ids[key]
    in_reach = (branch_ids[key] == PREFIX) | (branch_ids[query] == branch_ids[key])
    real = video_ids[query] != PADDING
    return ((key <= query) & same_video & in_reach & real) | (query == key)


def dense_mask(video_ids: Tensor, branch_ids: Tensor) -> Tensor:
    """The rule as bool[R, 1, L, L] for SDPA, True where query (third axis) sees key (fourth).

    video_ids, branch_ids: int64[R, L].
    """
    index = torch.arange(video_ids.shape[1], device=video_ids.device)
    rows = [
        visible(index[:, None], index[None, :], row_videos, row_branches)
        for row_videos, row_branches in zip(video_ids, branch_ids, strict=True)
    ]
    return torch.stack(rows)[:, None]


def block_mask(video_ids: Tensor, branch_ids: Tensor):
    """The rule as a FlexAttention BlockMask; nothing of size L x L is kept. video_ids, branch_ids: int64[R, L]."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = video_ids.shape

    def rule(row, head, query, key):
        return visible(query, key, video_ids[row], branch_ids[row])

    return create_block_mask(rule, rows, None, length, length, device=video_ids.device)


def draw(mask: Tensor, branch_ids: Tensor) -> str:
    """A dense mask of one row, bool[L, L], as text: a line a query, `#` where it sees the key (see the module's head)."""
    names = ["P" if branch == PREFIX else chr(ord("a") + int(branch) - 1) for branch in branch_ids]
    lines = ["  " + " ".join(names)]
    for name, row in zip(names, mask, strict=True):
        lines.append((name + " " + " ".join("#" if seen else " " for seen in row)).rstrip())
    return "\n".join(lines)
