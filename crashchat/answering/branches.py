"""Branches behind videos' prefixes: a row a video, its branches side by side.

                    P P P ·  a a a  b b          · the place of a longer video's prefix
queries                      0 1 2  3 4          where they stand among what is asked now
keys of a           ^ ^ ^    ^ ^ ^               the prefix and itself
keys of b           ^ ^ ^           ^ ^
positions           0 1 2    3 4 5  3 4          each goes on from its video's prefix

Branches of one question stand behind its stem, which they see as well (model/sequence.py).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import Cache, PreTrainedTokenizerBase

from crashchat.answering.prefix import Prefix, run_language_model
from crashchat.model.attention import Segment, Watch, seen_by
from crashchat.model.sequence import PREFIX, Branch, parts_of
from crashchat.model.videollama3 import CrashChatModel

Tokens = list[list[tuple[int, int]]]  # (id, position) of each row's


class Laid(NamedTuple):
    """Branches as tokens, row by row.

    segments: of all of them and of their stems. branches: of the branches alone. labels: of each branch's
    tokens, as in training: the answer's, else IGNORED.
    """

    tokens: Tokens
    segments: list[Segment]
    branches: list[Segment]
    labels: list[list[int]]

    @property
    def ends(self) -> list[tuple[int, int]]:
        """(row, column) of each branch's last token."""
        return [(branch.row, branch.queries.stop - 1) for branch in self.branches]


def lay_out(tokenizer: PreTrainedTokenizerBase, prefix: Prefix, branches: Sequence[Sequence[Branch]]) -> Laid:
    """Each video's branches, to be run behind its prefix."""
    laid = Laid([[] for _ in branches], [], [], [])
    cached = max(prefix.lengths)
    for row, (own, length) in enumerate(zip(branches, prefix.lengths, strict=True)):
        places = {PREFIX: slice(0, length)}
        for number, part in enumerate(parts_of(tokenizer, own), start=1):
            begin = len(laid.tokens[row])
            end, position = begin + len(part.ids), length + part.begin
            laid.tokens[row].extend((token, position + offset) for offset, token in enumerate(part.ids))
            places[number] = slice(cached + begin, cached + end)
            segment = Segment(row, slice(begin, end), places[number], seen_by(places, part.stem))
            laid.segments.append(segment)
            if part.branch is not None:
                laid.branches.append(segment)
                laid.labels.append(part.labels)
    return laid


def run_tokens(
    model: CrashChatModel,
    cache: Cache,
    tokens: Tokens,
    *,
    mask: Tensor | list[Segment],
    pad_token_id: int,
    watch: Watch | None = None,
) -> Tensor:
    """The last hidden states of some tokens of each row, float[V, n, hidden], shorter rows padded at their
    ends; the cache grows by n.

    mask, watch: as for branch_attention.
    """
    width = max(map(len, tokens))
    columns = torch.tensor([[*row, *[(pad_token_id, 0)] * (width - len(row))] for row in tokens])
    return run_language_model(
        model,
        model.model.language_model.embed_tokens(columns[..., 0].to(model.device)),
        position_ids=columns[..., 1].to(model.device),
        mask=mask,
        cache=cache,
        watch=watch,
    )
