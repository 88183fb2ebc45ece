"""What answers come from: an engine, given videos and questions on them.

    visuals -> encode, once (or from the feature cache) -> the engine: prefix, once an adapter -> answers

TorchEngine computes in this process; VllmEngine (vllm.py) asks a server that batches all that it is asked.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from math import exp
from statistics import fmean
from typing import NamedTuple, Protocol

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, PreTrainedTokenizerBase

from crashchat.answering.attended import attended_frames
from crashchat.answering.candidates import Question, candidate_probabilities
from crashchat.answering.constraints import Constraint
from crashchat.answering.draws import Draw
from crashchat.answering.generate import Heard, answer_from_prefix, unheard, yes_probability
from crashchat.answering.prefix import (
    PreallocatedLayer,
    Prefix,
    embed_prompts,
    embed_tokens,
    encode,
    prefill,
    run_language_model,
)
from crashchat.model.lora import base_of
from crashchat.video.feature_cache import FeatureCache
from crashchat.video.tokens import VisualTokens

BASE = "base"  # the base model without any adapter, as free questions may be put to it


@dataclass
class VideoContext:
    """Videos in front of the model together: tokens, vision features,
    and prefixes under the adapter that read them last.
    """

    visuals: list[VisualTokens]
    features: Tensor | None = None
    prefix: Prefix | None = None
    adapter: str | None = None

    @classmethod
    @contextmanager
    def joined(cls, contexts: "Sequence[VideoContext]") -> "Iterator[VideoContext]":
        """The videos of several contexts in one, whose features each of them keeps; a single one itself."""
        if len(contexts) == 1:
            yield contexts[0]
            return
        visuals = [visual for context in contexts for visual in context.visuals]
        known = [context.features for context in contexts if context.features is not None]
        joined = cls(visuals, torch.cat(known) if len(known) == len(contexts) else None)
        yield joined
        if joined.features is not None:
            counts = [sum(visual.num_kept for visual in context.visuals) for context in contexts]
            for context, features in zip(contexts, joined.features.split(counts), strict=True):
                context.features = features

    def only(self, rows: list[int]) -> "VideoContext":
        """Some of the videos, with their features; this context itself where they are all of them."""
        if len(rows) == len(self.visuals):
            return self
        if self.features is None:
            return VideoContext([self.visuals[row] for row in rows])
        pieces = self.features.split([visual.num_kept for visual in self.visuals])
        return VideoContext([self.visuals[row] for row in rows], torch.cat([pieces[row] for row in rows]))


class Said(NamedTuple):
    """An engine's answer to one question.

    tokens: ids without the closing `<|im_end|>`. yes: probability of the first of two tokens against the
    second, as the answer's first. certainty: of the tokens and the closing one, the geometric mean of their
    probabilities. likely: of the listed answers, where they were asked for.
    """

    tokens: list[int]
    yes: float
    certainty: float
    likely: Sequence[float] = ()


def certainty_of(log_probs: Sequence[float]) -> float:
    """The geometric mean of some probabilities."""
    return exp(fmean(log_probs))


class Engine(Protocol):
    """Answers questions. Not for several threads at once.

    model: what encodes videos, and where. constrains: whether it can keep answers to a form. feature_cache:
    where vision features that had to be made are kept.
    """

    feature_cache: FeatureCache | None

    @property
    def model(self) -> nn.Module:
        """See above."""

    constrains: bool

    def answer(
        self,
        context: VideoContext,
        questions: list[list[str]],
        adapter: str | None,
        constraints: list[list[Constraint | None]] | None,
        most: int | None = None,
        heard: Heard = unheard,
        listed: list[list[tuple[str, ...]]] | None = None,
        draws: list[list[Draw]] | None = None,
    ) -> list[list[Said]]:
        """The answers to each video's questions, all at once.

        adapter: whose answers; None: whatever the model is, BASE: the base alone. constraints: what each
        answer may be, for an engine that constrains. most: tokens of an answer at most, where that is less
        than the engine's own. heard: called with all answers' tokens so far, as they come, by an engine that
        can. listed: answers whose probabilities are told, for an engine that constrains. draws: how each
        answer's tokens are drawn, for such an engine; without, the likeliest are taken.
        """

    def attended(
        self, context: VideoContext, questions: list[list[str]], adapter: str | None
    ) -> list[list[Tensor]]:
        """What each video's questions attend to (attended.py). Raises EngineError where that is not told."""

    def likelihoods(
        self,
        context: VideoContext,
        question: str,
        adapter: str | None,
        *,
        begun: list[int],
        tokens: list[int],
    ) -> list[float]:
        """The probabilities of some tokens as the next of an answer on one video, behind those that it began
        with.
        """


def see(model: nn.Module, context: VideoContext, cache: FeatureCache | None) -> Tensor:
    """The vision features of a context's videos, made where it has none; new ones go to the cache.

    float[K, vision hidden], of the kept tokens.
    """
    if context.features is None:
        context.features = encode(model, context.visuals)
        if cache:
            cache.store_new(context.visuals, context.features)
    return context.features


class TorchEngine:
    """The model itself, in this process."""

    constrains = True

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        yes_no: list[int],
        max_new_tokens: int,
        feature_cache: FeatureCache | None = None,
    ):
        """yes_no: the two tokens whose probabilities are told. max_new_tokens: of an answer at most."""
        self.model, self.tokenizer, self.yes_no = model, tokenizer, yes_no
        self.max_new_tokens, self.feature_cache = max_new_tokens, feature_cache
        # A released adapter may hold LoRA on the vision encoder too; then each has features of its own.
        self._one_vision = not any(
            "vision_model" in name and "lora_" in name for name, _ in model.named_parameters()
        )

    def _as(self, adapter: str | None) -> AbstractContextManager:
        """The model under an adapter, from the call on; inside, for BASE, without any."""
        if isinstance(self.model, PeftModel) and adapter == BASE:
            return self.model.disable_adapter()
        if isinstance(self.model, PeftModel) and adapter is not None:
            self.model.set_adapter(adapter)
        return nullcontext()

    @contextmanager
    def under(self, context: VideoContext, adapter: str | None) -> Iterator[Prefix]:
        """The prefixes of a context under an adapter, made where needed."""
        with self._as(adapter):
            if context.prefix is None or context.adapter != adapter:
                context.prefix = None  # the old one's memory is free before the new one is made
                if not self._one_vision:
                    context.features = None
                features = see(self.model, context, self.feature_cache)
                context.prefix = prefill(self.model, self.tokenizer, context.visuals, features)
                context.adapter = adapter
            try:
                yield context.prefix
            except BaseException:
                context.prefix = None  # half an answer may stand in its cache
                raise

    def answer(
        self,
        context: VideoContext,
        questions: list[list[str]],
        adapter: str | None,
        constraints: list[list[Constraint | None]] | None,
        most: int | None = None,
        heard: Heard = unheard,
        listed: list[list[tuple[str, ...]]] | None = None,
        draws: list[list[Draw]] | None = None,
    ) -> list[list[Said]]:
        """See Engine."""
        with self.under(context, adapter) as prefix:
            tokens, logits, log_probs = answer_from_prefix(
                self.model,
                self.tokenizer,
                prefix,
                questions,
                max_new_tokens=min(most or self.max_new_tokens, self.max_new_tokens),
                constraints=constraints,
                draws=draws,
                heard=heard,
            )
            candidates = listed or [[()] * len(row) for row in questions]
            likely = candidate_probabilities(
                self.model,
                self.tokenizer,
                prefix,
                [list(map(Question, *both)) for both in zip(questions, candidates, strict=True)],
            )
        return [
            [
                Said(ids, yes_probability(first, self.yes_no), certainty_of(own), shares)
                for ids, first, own, shares in zip(*row, strict=True)
            ]
            for row in zip(tokens, logits, log_probs, likely, strict=True)
        ]

    def attended(
        self, context: VideoContext, questions: list[list[str]], adapter: str | None
    ) -> list[list[Tensor]]:
        """See Engine."""
        with self.under(context, adapter) as prefix:
            return attended_frames(
                self.model, self.tokenizer, prefix, visuals=context.visuals, questions=questions
            )

    @torch.inference_mode()
    def likelihoods(
        self,
        context: VideoContext,
        question: str,
        adapter: str | None,
        *,
        begun: list[int],
        tokens: list[int],
    ) -> list[float]:
        """See Engine."""
        with self._as(adapter):
            model, features = base_of(self.model), see(self.model, context, self.feature_cache)
            (prompt,) = embed_prompts(
                model, self.tokenizer, context.visuals, features=features, questions=[[question]]
            )
            prompt = torch.cat([prompt, embed_tokens(model, begun)])[None]
            hidden = run_language_model(
                model,
                prompt,
                position_ids=torch.arange(prompt.shape[1], device=prompt.device)[None],
                mask=None,
                cache=Cache(layer_class_to_replicate=PreallocatedLayer),
            )
            return model.lm_head(hidden[0, -1]).float().softmax(dim=-1)[tokens].tolist()


def device_of(engine: Engine) -> torch.device:
    """Where an engine's videos are encoded."""
    return base_of(engine.model).device
