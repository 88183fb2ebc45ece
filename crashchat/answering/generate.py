"""Answers: a video's prefix goes through the language model once,
and all its questions are answered from it at once.

Decoding keeps the layout of training (packing.py): a row a video, its questions side by side as branches.
What a step adds is the next token of every open branch, each of which sees the prefix and its own branch by
the rule of masks.py:

                P P P  a a  b b b  a b  a b  b …
    prefill     ^^^^^                               plain causal, no mask
    questions          ^^^^^^^^^^                   the branches of one row
    steps                          ^^^  ^^^  ^      a token a branch; b is still open when a has ended

The prefix's keys and values are held and read once for all branches, not once a question. Greedy decoding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from crashchat.answering.constraints import Constraint
from crashchat.model.attention import Segment
from crashchat.model.masks import PADDING, dense_mask
from crashchat.model.sequence import PREFIX, Branch, branch_token_ids, prefix_ids
from crashchat.model.videollama3 import CrashChatModel, base_of
from crashchat.video.tokens import VisualTokens


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, float[V, heads, L, head size], with room behind them for those to come.

    transformers' DynamicLayer copies all that are there to append a token; here a step only writes its own.
    """

    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append the keys and values of n tokens; returns all of them."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        if self.room is None or end > self.room[0].shape[2]:
            old, capacity = self.room, end + max(256, end // 8)
            rows, heads, _, size = key_states.shape
            self.room = (
                key_states.new_empty(rows, heads, capacity, size),
                value_states.new_empty(rows, heads, capacity, size),
            )
            if old is not None:
                for room, states in zip(self.room, old, strict=True):
                    room[:, :, :begin] = states[:, :, :begin]
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, begin:end] = states
        self.is_initialized = True
        return self.keep(end)

    def keep(self, length: int) -> tuple[Tensor, Tensor]:
        """Forget all but the first `length` tokens, whose keys and values are returned."""
        assert self.room is not None, "tokens are kept only after update has put some in"
        keys, values = (room[:, :, :length] for room in self.room)
        self.keys, self.values = keys, values
        return keys, values


@dataclass
class Prefix:
    """Keys and values of the prefixes of V videos, a row each, those of shorter ones padded at their ends.

    They belong to the adapter that was active when they were made: after a switch, prefill again.
    lengths: int[V], tokens of each prefix.
    """

    cache: Cache
    lengths: list[int]


@torch.inference_mode()
def encode(model: nn.Module, visuals: Sequence[VisualTokens]) -> Tensor:
    """Vision features of some videos' kept tokens, float[K, vision hidden]: the cached ones, or encoded now.

    Adapters that leave the vision encoder alone share them.
    """
    model = base_of(model)
    new = [visual for visual in visuals if visual.features is None]
    encoded = iter(())
    if new:
        pixels = torch.cat([visual.pixel_values for visual in new]).to(model.device)
        grids, merges = (
            torch.cat(sizes) for sizes in zip(*((v.grid_thw, v.merge_sizes) for v in new), strict=True)
        )
        every = model.encode_videos(pixels, grids, merges)
        kept = every[torch.cat([visual.compression_mask for visual in new]).to(model.device)]
        encoded = iter(kept.split([visual.num_kept for visual in new]))
    return torch.cat(
        [next(encoded) if v.features is None else v.features.to(model.device, model.dtype) for v in visuals]
    )


@torch.inference_mode()
def prefill(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    visuals: Sequence[VisualTokens],
    features: Tensor | None = None,
) -> Prefix:
    """The prefixes of some videos, under the adapter that is active now.

    features: what encode gave for these videos, where it is at hand.
    """
    model = base_of(model)
    features = encode(model, visuals) if features is None else features
    prefixes = [prefix_ids(tokenizer, visual.seconds, visual.kept_per_frame) for visual in visuals]
    lengths = [len(ids) for ids in prefixes]
    ids = torch.full((len(prefixes), max(lengths)), tokenizer.pad_token_id)
    for row, own in zip(ids, prefixes, strict=True):
        row[: len(own)] = torch.tensor(own)
    embeddings = model.embed(ids.to(model.device), features)
    cache = Cache(layer_class_to_replicate=PreallocatedLayer)
    # Without a mask SDPA is causal and builds nothing of size L x L; no token sees the padding behind it.
    _run(
        model,
        embeddings,
        position_ids=torch.arange(max(lengths), device=model.device)[None],
        mask=None,
        cache=cache,
    )
    return Prefix(cache, lengths)


def _run(
    model: CrashChatModel,
    embeddings: Tensor,
    position_ids: Tensor,
    mask: Tensor | list[Segment] | None,
    cache: Cache,
) -> Tensor:
    """Last hidden states float[V, n, hidden] of n new tokens a row; the cache grows by n.

    mask: as for branch_attention.
    """
    return model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        attention_mask={"full_attention": mask},  # as a dict it is taken as it is
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state


class _Rows:
    """What stands in the cache, a row a video: video_ids and branch_ids int64[V, L], as in a PackedBatch."""

    def __init__(self, model: CrashChatModel, prefix: Prefix, pad_token_id: int):
        self.model, self.cache, self.pad_token_id = model, prefix.cache, pad_token_id
        index = torch.arange(max(prefix.lengths))[None]
        self.video_ids = torch.where(index < torch.tensor(prefix.lengths)[:, None], 0, PADDING)
        self.branch_ids = torch.full_like(self.video_ids, PREFIX)

    def add(self, tokens: list[list[tuple[int, int, int]]], segments: list[Segment] | None = None) -> Tensor:
        """Run new tokens, (id, position, branch) of each row; returns their last hidden states,
        float[V, n, hidden].

        segments: what sees what, where each branch's new tokens stand together; without, a mask says it.
        """
        width, device = max(map(len, tokens)), self.model.device
        padding = (self.pad_token_id, 0, PREFIX)
        columns = torch.tensor([[*row, *[padding] * (width - len(row))] for row in tokens])
        real = torch.arange(width)[None] < torch.tensor([len(row) for row in tokens])[:, None]
        self.video_ids = torch.cat([self.video_ids, torch.where(real, 0, PADDING)], dim=1)
        self.branch_ids = torch.cat([self.branch_ids, columns[..., 2]], dim=1)
        embeddings = self.model.model.language_model.embed_tokens(columns[..., 0].to(device))
        mask: Tensor | list[Segment] | None = segments
        if segments is None:
            seen = dense_mask(self.video_ids, self.branch_ids, queries=width)
            # As SDPA adds it, once for all layers.
            mask = torch.where(seen, 0.0, -torch.inf).to(device, embeddings.dtype)
        return _run(
            self.model, embeddings, position_ids=columns[..., 1].to(device), mask=mask, cache=self.cache
        )


@torch.inference_mode()
def answer_from_prefix(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prefix: Prefix,
    questions: Sequence[Sequence[str]],
    max_new_tokens: int = 256,
    constraints: Sequence[Sequence[Constraint | None]] | None = None,
) -> tuple[list[list[list[int]]], list[Tensor]]:
    """Greedy answers to each video's questions, as token ids without the closing `<|im_end|>`.

    prefix: what prefill gave, under the adapter that is active now; it can be asked again. max_new_tokens:
    tokens of an answer at most. constraints: what the answer to each question may be; None for any. Also
    returns, for each video, float[its questions, vocabulary]: the logits of its answers' first tokens.
    """
    model = base_of(model)
    rows = _Rows(model, prefix, tokenizer.pad_token_id)
    answers: list[list[list[int]]] = [[[] for _ in asked] for asked in questions]
    # An open branch: its row, its number among the row's branches, and the position of its next token.
    asked_tokens: list[list[tuple[int, int, int]]] = [[] for _ in questions]
    open_branches: list[tuple[int, int, int]] = []
    places: list[tuple[int, int]] = []  # where the last token of each open branch stands among what was added
    segments: list[Segment] = []
    cached = max(prefix.lengths)
    for row, asked in enumerate(questions):
        for number, question in enumerate(asked, start=1):
            ids, _ = branch_token_ids(tokenizer, Branch(question))
            position, begin = prefix.lengths[row], len(asked_tokens[row])
            end = begin + len(ids)
            asked_tokens[row] += [(token, position + offset, number) for offset, token in enumerate(ids)]
            open_branches.append((row, number, position + len(ids)))
            places.append((row, end - 1))
            segments.append(
                Segment(row, slice(begin, end), slice(cached + begin, cached + end), slice(0, position))
            )
    logits = _logits_at(model, rows.add(asked_tokens, segments), places)
    first_logits = list(logits.clone().split([len(asked) for asked in questions]))
    for step in range(max_new_tokens):
        if constraints is not None:
            for index, (row, number, _) in enumerate(open_branches):
                if (constraint := constraints[row][number - 1]) is not None:
                    logits[index] = mask_logits(logits[index], constraint.allowed(answers[row][number - 1]))
        still_open, places = [], []
        added: list[list[tuple[int, int, int]]] = [[] for _ in questions]
        for (row, number, position), token in zip(open_branches, logits.argmax(dim=-1).tolist(), strict=True):
            if token != tokenizer.eos_token_id:
                answers[row][number - 1].append(token)
                places.append((row, len(added[row])))
                added[row].append((token, position, number))
                still_open.append((row, number, position + 1))
        open_branches = still_open
        if not open_branches or step == max_new_tokens - 1:
            break
        logits = _logits_at(model, rows.add(added), places)
    for layer in prefix.cache.layers:
        assert isinstance(layer, PreallocatedLayer), "prefill makes the cache of these"
        layer.keep(cached)
    return answers, first_logits


def mask_logits(logits: Tensor, tokens: list[int]) -> Tensor:
    """float[vocabulary], with all but some tokens ruled out."""
    kept = torch.full_like(logits, -torch.inf)
    kept[tokens] = logits[tokens]
    return kept


def _logits_at(model: CrashChatModel, hidden: Tensor, places: list[tuple[int, int]]) -> Tensor:
    """float[places, vocabulary] of the hidden states float[V, n, hidden] at (row, column) places."""
    row, column = torch.tensor(places, device=hidden.device).unbind(dim=1)
    return model.lm_head(hidden[row, column])


def answer_questions(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    visuals: Sequence[VisualTokens],
    questions: Sequence[Sequence[str]],
    max_new_tokens: int = 256,
) -> list[list[list[int]]]:
    """Greedy answers to each video's questions, all at once; as from answer_from_prefix.

    model: a CrashChatModel or a PEFT model around one.
    """
    return answer_from_prefix(
        model,
        tokenizer,
        prefix=prefill(model, tokenizer, visuals),
        questions=questions,
        max_new_tokens=max_new_tokens,
    )[0]


def yes_and_no(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens that 'Yes' and 'No' begin with. Raises ValueError where they are the same."""
    yes, no = (tokenizer.encode(word, add_special_tokens=False)[0] for word in ("Yes", "No"))
    if yes == no:
        raise ValueError(
            "the tokenizer begins 'Yes' and 'No' with the same token, so recognition has no probability"
        )
    return [yes, no]


def yes_probability(logits: Tensor, tokens: list[int]) -> float:
    """Of 'Yes' against 'No'.

    logits: float[vocabulary], of an answer's first token; tokens: from yes_and_no.
    """
    return float(logits[tokens].float().softmax(dim=-1)[0])


def decode(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    """Token ids of an answer as text."""
    # One answer's ids give one text; transformers' type also tells of a list for several.
    return cast(str, tokenizer.decode(token_ids, skip_special_tokens=True)).strip()
