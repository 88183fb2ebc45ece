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

    frames: for each row, int64[its prefix], the frame that a token is a visual token of; -1 for words.
    layers: of each branch, float[heads, frames] of each layer.
    """

    def __init__(self, frames: Sequence[Tensor]):
        self.frames = frames
        self.layers: list[list[Tensor]] = []

    def __call__(self, query: Tensor, key: Tensor, segments: list[Segment], scaling: float) -> None:
        if not self.layers:
            self.layers = [[] for _ in segments]
        shared_by = query.shape[1] // key.shape[1]
        for found, segment in zip(self.layers, segments, strict=True):
            asking = query[segment.row, :, segment.queries].unflatten(0, (-1, shared_by))
            keys = torch.cat([key[segment.row, :, part] for part in (segment.prefix, segment.own)], dim=1)
            scores = (asking @ keys[:, None].transpose(-1, -2) * scaling).float()
            later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(
                scores.shape[-1] - scores.shape[-2] + 1
            )
            given = scores.masked_fill(later, -torch.inf).softmax(dim=-1).mean(dim=-2).flatten(0, 1)
            frames = self.frames[segment.row].to(given.device)
            visual = (frames >= 0).nonzero()[:, 0]
            shares = given.new_zeros(len(given), int(frames.max()) + 1)
            found.append(shares.index_add_(1, frames[visual], given[:, visual]).cpu())


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
    shares = _Shares([_frames_of(tokenizer, visual) for visual in visuals])
    asked = lay_out(tokenizer, prefix, [[Branch(text) for text in texts] for texts in questions])
    run_tokens(
        base_of(model),
        prefix.cache,
        asked.tokens,
        mask=asked.segments,
        pad_token_id=tokenizer.pad_token_id,
        watch=shares,
    )
    keep_prefix(prefix)
    branches = iter(shares.layers)
    return [[torch.stack(next(branches)) for _ in texts] for texts in questions]


def _frames_of(tokenizer: PreTrainedTokenizerBase, visual: VisualTokens) -> Tensor:
    """int64[prefix], the frame that each token of a video's prefix is a visual token of; -1 for words."""
    ids = torch.tensor(prefix_ids(tokenizer, visual.seconds, visual.kept_per_frame))
    kept = torch.tensor(visual.kept_per_frame)
    frames = torch.full_like(ids, -1)
    frames[ids == image_token_id(tokenizer)] = torch.arange(len(kept)).repeat_interleave(kept)
    return frames
