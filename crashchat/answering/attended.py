"""Which frames a question attends to while it is read, before a word of its answer is made.

    prefix      Time 0.0s: ▒▒▒▒ , Time 0.2s: ▒▒▒▒ , …      visual tokens, those of a frame together
    question    q q q q                                   what its tokens give to each frame, as a mean

After arXiv 2605.21954, which found that a few heads look at what is asked for.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.branches import lay_out, run_tokens
from crashchat.answering.prefix import Prefix, keep_prefix
from crashchat.model.attention import Segment
from crashchat.model.lora import base_of
from crashchat.model.sequence import Branch, image_token_id, prefix_ids
from crashchat.video.tokens import VisualTokens


class _Shares:
    """Hears from layer after layer how much of each branch's attention goes to each frame (attention.Watch).

    visual: for each row, where its visual tokens stand in its prefix, the frame that each is of, and the
    number of frames. layers: of each branch, float[heads, frames] of each layer.
    """

    def __init__(self, visual: Sequence[tuple[Tensor, Tensor, int]]):
        self.visual = visual
        self.layers: list[list[Tensor]] = []

    def __call__(self, query: Tensor, key: Tensor, segments: list[Segment], scaling: float) -> None:
        if not self.layers:
            self.layers = [[] for _ in segments]
        shared_by = query.shape[1] // key.shape[1]
        for found, segment in zip(self.layers, segments, strict=True):
            asking = query[segment.row, :, segment.queries].unflatten(0, (-1, shared_by))
            keys = torch.cat([key[segment.row, :, part] for part in (*segment.seen, segment.own)], dim=1)
            scores = (asking @ keys[:, None].transpose(-1, -2) * scaling).float()
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(
                scores.shape[-1] - scores.shape[-2] + 1
            )
            given = scores.masked_fill(later, -torch.inf).softmax(dim=-1).mean(dim=-2).flatten(0, 1)
            places, frames, count = self.visual[segment.row]
            shares = given.new_zeros(len(given), count)
            found.append(shares.index_add_(1, frames, given[:, places]).cpu())


@torch.inference_mode()
def attended_frames(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Prefix,
    visuals: Sequence[VisualTokens],
    questions: Sequence[Sequence[str]],
) -> list[list[Tensor]]:
    """Of each video's questions, float32[layers, heads, frames]: the mean over the question's tokens of what
    a head gives to a frame's visual tokens, all of its attention being 1.

    prefix: what prefill gave for these videos, under the adapter that is active now; it can be asked again.
    """
    model = base_of(model)
    shares = _Shares([_visual_tokens(tokenizer, visual, model.device) for visual in visuals])
    once = [list(dict.fromkeys(texts)) for texts in questions]  # the same text has the same shares
    asked = lay_out(tokenizer, prefix, [[Branch(text) for text in texts] for texts in once])
    run_tokens(
        model,
        prefix.cache,
        asked.tokens,
        mask=asked.segments,
        pad_token_id=tokenizer.pad_token_id,
        watch=shares,
    )
    keep_prefix(prefix)
    branches = iter(shares.layers)
    found = [{text: torch.stack(next(branches)) for text in texts} for texts in once]
    return [[own[text] for text in texts] for own, texts in zip(found, questions, strict=True)]


def _visual_tokens(
    tokenizer: PreTrainedTokenizerBase, visual: VisualTokens, device: torch.device
) -> tuple[Tensor, Tensor, int]:
    """(int64[K], int64[K], frames): see _Shares."""
    ids = torch.tensor(prefix_ids(tokenizer, visual.seconds, visual.kept_per_frame))
    places = (ids == image_token_id(tokenizer)).nonzero()[:, 0]
    kept = torch.tensor(visual.kept_per_frame)
    frames = torch.arange(len(kept)).repeat_interleave(kept)
    return places.to(device), frames.to(device), len(kept)
