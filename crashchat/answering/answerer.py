"""A loaded model that answers questions on videos; evaluation and the cascade ask the same one.

visuals -> encode, once (or from the feature cache) -> prefill, once an adapter -> all questions, side by side
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.constraints import Choices, constraint_for
from crashchat.answering.generate import answer_from_prefix, decode, yes_and_no, yes_probability
from crashchat.answering.outputs import Answer
from crashchat.answering.prefix import Prefix, encode, prefill
from crashchat.checkpoints.adapters import load_adapter
from crashchat.checkpoints.folders import load_model, load_tokenizer
from crashchat.checkpoints.layouts import CheckpointError, read_vision_config
from crashchat.model.lora import base_of
from crashchat.model.videollama3 import CrashChatModel
from crashchat.settings import Decode
from crashchat.tasks import TASKS, Group
from crashchat.video.feature_cache import FeatureCache
from crashchat.video.source import VideoError
from crashchat.video.tokens import VideoSettings, VisualTokens

BASE = "base"  # the base model without any adapter, as free questions may be put to it
RECOGNITION = "crash_recognition"
MAX_VIDEOS = 16  # answered at once: what a killed run has to do again
Key = TypeVar("Key")


class Asked(NamedTuple):
    """A question on a video. task: a name of TASKS, None for a general question."""

    text: str
    task: str | None

    @classmethod
    def of(cls, task: str) -> "Asked":
        """A task's own question."""
        return cls(TASKS[task].prompt, task)


@dataclass
class VideoContext:
    """Videos in front of the model together: tokens, vision features,
    and prefixes under the adapter that read them last.
    """

    visuals: list[VisualTokens]
    features: Tensor | None = None
    prefix: Prefix | None = None
    adapter: str | None = None

    def only(self, rows: list[int]) -> "VideoContext":
        """Some of the videos, with their features; this context itself where they are all of them."""
        if len(rows) == len(self.visuals):
            return self
        if self.features is None:
            return VideoContext([self.visuals[row] for row in rows])
        pieces = self.features.split([visual.num_kept for visual in self.visuals])
        return VideoContext([self.visuals[row] for row in rows], torch.cat([pieces[row] for row in rows]))


class Answerer:
    """A model, its tokenizer, and how answers are made. Not for several threads at once.

    decode: "free" or "constrained" (constraints.py); a question of no task is always answered freely.
    choices: {task: its training answers}, for tasks limited to them. feature_cache: where what had to be
    encoded is kept.
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        settings: VideoSettings,
        *,
        max_new_tokens: int,
        decode: Decode = "free",
        choices: dict[str, Choices] | None = None,
        feature_cache: FeatureCache | None = None,
    ):
        """Raises CheckpointError for a tokenizer that begins 'Yes' and 'No' alike."""
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.max_new_tokens, self.decode = max_new_tokens, decode
        self.choices, self.feature_cache = choices or {}, feature_cache
        # A released adapter may hold LoRA on the vision encoder too; then each has features of its own.
        self._one_vision = not any(
            "vision_model" in name and "lora_" in name for name, _ in model.named_parameters()
        )
        try:
            self._yes_no = yes_and_no(tokenizer)
        except ValueError as error:
            raise CheckpointError(str(error)) from error

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return base_of(self.model).device

    @contextmanager
    def under(self, context: VideoContext, adapter: str | None) -> Iterator[Prefix]:
        """The prefixes of a context under an adapter (None: whatever the model is,
        BASE: the base alone), made where needed.
        """
        mode: AbstractContextManager = torch.no_grad()
        if isinstance(self.model, PeftModel) and adapter == BASE:
            mode = self.model.disable_adapter()
        elif isinstance(self.model, PeftModel) and adapter is not None:
            self.model.set_adapter(adapter)
        with mode:
            if context.prefix is None or context.adapter != adapter:
                context.prefix = None  # the old one's memory is free before the new one is made
                if context.features is None or not self._one_vision:
                    context.features = encode(self.model, context.visuals)
                    if self.feature_cache:
                        self.feature_cache.store_new(context.visuals, context.features)
                context.prefix = prefill(self.model, self.tokenizer, context.visuals, context.features)
                context.adapter = adapter
            try:
                yield context.prefix
            except BaseException:
                context.prefix = None  # half an answer may stand in its cache
                raise

    def answer(
        self,
        context: VideoContext,
        questions: list[list[Asked]],
        adapter: str | None = None,
        group: Group | None = None,
    ) -> list[list[Answer]]:
        """The answers to each video's questions, all at once.

        group: what the answers say of who gave them.
        """
        constraints = None
        if self.decode == "constrained":
            constraints = [
                [
                    constraint_for(asked.task, self.tokenizer, self.settings.end_of(visual), self.choices)
                    if asked.task
                    else None
                    for asked in row
                ]
                for visual, row in zip(context.visuals, questions, strict=True)
            ]
        texts = [[asked.text for asked in row] for row in questions]
        with self.under(context, adapter) as prefix:
            tokens, logits, _ = answer_from_prefix(
                self.model,
                self.tokenizer,
                prefix,
                texts,
                max_new_tokens=self.max_new_tokens,
                constraints=constraints,
            )
        return [
            [
                Answer(
                    asked.task,
                    group,
                    decode(self.tokenizer, ids),
                    yes_probability(first, self._yes_no) if asked.task == RECOGNITION else None,
                )
                for asked, ids, first in zip(row, row_tokens, row_logits, strict=True)
            ]
            for row, row_tokens, row_logits in zip(questions, tokens, logits, strict=True)
        ]


def load_with_adapters(
    folder: Path,
    adapters: dict[str, Path],
    device: torch.device | None = None,
    vision_config: Path | None = None,
    dtype: torch.dtype | None = None,
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """A model folder of any layout with adapters on it, {name: folder}, and its tokenizer.

    Raises CheckpointError.
    """
    tokenizer = load_tokenizer(folder)
    model: CrashChatModel | PeftModel = load_model(
        folder, tokenizer, device, dtype, vision=read_vision_config(vision_config)
    )
    for name, adapter in adapters.items():
        model = load_adapter(model, adapter, name)
    return model, tokenizer


def tokens_at_once(device: torch.device) -> int:
    """Visual tokens that are answered at once: on a GPU eight full-size videos, whose keys and values take 8
    GB.
    """
    return 131072 if device.type == "cuda" else 32768


def in_batches(
    reader: Iterable[tuple[Key, VisualTokens | VideoError]], limit: int
) -> Iterator[list[tuple[Key, VisualTokens | VideoError]]]:
    """Videos that are answered at once, in order: at most MAX_VIDEOS,
    of at most `limit` visual tokens, padding included.

    Those that could not be read count nothing.
    """
    waiting: list[tuple[Key, VisualTokens | VideoError]] = []
    longest = 0
    for key, visual in reader:
        own = visual.num_kept if isinstance(visual, VisualTokens) else 0
        if waiting and ((len(waiting) + 1) * max(longest, own) > limit or len(waiting) == MAX_VIDEOS):
            yield waiting
            waiting, longest = [], 0
        waiting.append((key, visual))
        longest = max(longest, own)
    if waiting:
        yield waiting
