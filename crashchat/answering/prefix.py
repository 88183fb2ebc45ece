"""A video's prefix in front of the language model: its vision features, and the keys and values that they
make.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import Cache, PreTrainedTokenizerBase
from transformers.cache_utils import DynamicLayer

from crashchat.model.attention import Segment, Watch
from crashchat.model.lora import base_of
from crashchat.model.sequence import Branch, branch_token_ids, prefix_ids
from crashchat.model.videollama3 import CrashChatModel
from crashchat.video.tokens import VisualTokens


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values, float[V, heads, L, head size], with room behind them for those to come.

    transformers' DynamicLayer copies all that are there to append a token; here a step only writes its own.
    """

    room: tuple[Tensor, Tensor] | None = None
    whole: bool = False  # whether update returns all of the room, with zeros behind the tokens

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Append the keys and values of n tokens; returns all of them."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        if self.room is None or end > self.room[0].shape[2]:
            self._make_room(end + max(256, end // 8), (key_states, value_states), begin)
        assert self.room is not None
        for room, states in zip(self.room, (key_states, value_states), strict=True):
            room[:, :, begin:end] = states
        self.is_initialized = True
        kept = self.keep(end)
        return self.room if self.whole else kept

    def _make_room(self, capacity: int, like: tuple[Tensor, Tensor], length: int) -> None:
        """Have room for `capacity` tokens, and in it the `length` that are there."""
        old = self.room
        rows, heads, _, size = like[0].shape
        first, second = (states.new_zeros(rows, heads, capacity, size) for states in like)
        self.room = (first, second)
        if old is not None:
            for room, states in zip(self.room, old, strict=True):
                room[:, :, :length] = states[:, :, :length]

    def reserve(self, capacity: int) -> None:
        """From here on update returns the same number of tokens each time: `capacity`, or more."""
        assert self.room is not None, "room is reserved for what comes behind a prefix"
        length = self.get_seq_length()
        if self.room[0].shape[2] < capacity:
            self._make_room(capacity, self.room, length)
        for room in self.room:
            room[:, :, length:] = 0  # what an earlier answer left there
        self.whole = True

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
        grids = [grid for visual in new for grid in visual.grid_thw.tolist()]
        merges = [merge for visual in new for merge in visual.merge_sizes.tolist()]
        every = model.encode_videos(pixels, grids, merges)
        kept = every[torch.cat([visual.compression_mask for visual in new]).to(model.device)]
        encoded = iter(kept.split([visual.num_kept for visual in new]))
    return torch.cat(
        [next(encoded) if v.features is None else v.features.to(model.device, model.dtype) for v in visuals]
    )


@torch.inference_mode()
def embed_prefixes(
    model: CrashChatModel,
    tokenizer: PreTrainedTokenizerBase,
    visuals: Sequence[VisualTokens],
    features: Tensor,
) -> tuple[Tensor, list[int]]:
    """(float[V, L, hidden], int[V]): what the language model takes in of some videos, those of shorter ones
    padded at their ends, and how long each is.

    features: what encode gave for these videos.
    """
    prefixes = [prefix_ids(tokenizer, visual.seconds, visual.kept_per_frame) for visual in visuals]
    lengths = [len(ids) for ids in prefixes]
    ids = torch.full((len(prefixes), max(lengths)), tokenizer.pad_token_id)
    for row, own in zip(ids, prefixes, strict=True):
        row[: len(own)] = torch.tensor(own)
    places = (ids.flatten() == model.config.video_token_id).nonzero()[:, 0]
    return model.embed(ids.to(model.device), features, places.to(model.device)), lengths


@torch.inference_mode()
def embed_prompts(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    visuals: Sequence[VisualTokens],
    features: Tensor,
    questions: Sequence[Sequence[str]],
) -> Iterator[Tensor]:
    """float[L, hidden] of each question behind its video, row by row: all that its answer follows from."""
    model = base_of(model)
    prefixes, lengths = embed_prefixes(model, tokenizer, visuals, features)
    for prefix, length, texts in zip(prefixes, lengths, questions, strict=True):
        for text in texts:
            ids, _ = branch_token_ids(tokenizer, Branch(text))
            yield torch.cat([prefix[:length], embed_tokens(model, ids)])


def embed_tokens(model: CrashChatModel, ids: list[int]) -> Tensor:
    """float[n, hidden] of some tokens' words."""
    return model.model.language_model.embed_tokens(torch.tensor(ids, device=model.device, dtype=torch.int64))


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
    embeddings, lengths = embed_prefixes(model, tokenizer, visuals, features)
    cache = Cache(layer_class_to_replicate=PreallocatedLayer)
    # Without a mask SDPA is causal and builds nothing of size L x L; no token sees the padding behind it.
    run_language_model(
        model,
        embeddings,
        position_ids=torch.arange(max(lengths), device=model.device)[None],
        mask=None,
        cache=cache,
    )
    return Prefix(cache, lengths)


def keep_prefix(prefix: Prefix) -> None:
    """Forget what was asked behind the prefixes."""
    for layer in prefix.cache.layers:
        assert isinstance(layer, PreallocatedLayer), "prefill made them"
        layer.whole = False
        layer.keep(max(prefix.lengths))


def run_language_model(
    model: CrashChatModel,
    embeddings: Tensor,
    position_ids: Tensor,
    mask: Tensor | list[Segment] | None,
    cache: Cache,
    watch: Watch | None = None,
) -> Tensor:
    """Last hidden states float[V, n, hidden] of n new tokens a row; the cache grows by n.

    mask, watch: as for branch_attention.
    """
    return model.model.language_model(
        inputs_embeds=embeddings,
        position_ids=position_ids,
        attention_mask={"full_attention": mask},  # as a dict it is taken as it is
        past_key_values=cache,
        use_cache=True,
        watch=watch,  # layers hand on to the attention what they do not know
    ).last_hidden_state
