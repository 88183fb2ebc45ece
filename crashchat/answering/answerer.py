"""A loaded model that answers questions on videos; evaluation and the cascade ask the same one.

What answers is an engine (engines.py): the model in this process, or a server of vLLM.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.constraints import Choices, constraint_for
from crashchat.answering.draws import Draw
from crashchat.answering.engines import Engine, VideoContext, device_of
from crashchat.answering.generate import decode
from crashchat.answering.outputs import Answer
from crashchat.answering.time_heads import TimeHeads, read_times
from crashchat.answering.vllm import EngineError
from crashchat.evaluation_settings import Decode
from crashchat.tasks import TASKS, Group
from crashchat.tasks.context import asked_with
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.task import CRASH
from crashchat.video.source import VideoError
from crashchat.video.tokens import VideoSettings, VisualTokens

MAX_VIDEOS = 16  # answered at once: what a killed run has to do again
Key = TypeVar("Key")


class Asked(NamedTuple):
    """A question on a video. task: a name of TASKS, None for a general question. draw: how its answer is
    drawn; None: the likeliest.
    """

    text: str
    task: str | None
    draw: Draw | None = None

    @classmethod
    def of(cls, task: str, told: str = "") -> "Asked":
        """A task's own question, with what is told of the clip."""
        return cls(asked_with(told, TASKS[task].prompt or ""), task)


class Answerer:
    """An engine, its model's tokenizer, and how answers are made. Not for several threads at once.

    decode: "free" or "constrained" (constraints.py); a question of no task is always answered freely.
    choices: {task: its training answers}, for tasks limited to them. option_probabilities: say how likely
    each answer is, of tasks whose answers are listed.
    """

    def __init__(
        self,
        engine: Engine,
        tokenizer: PreTrainedTokenizerBase,
        settings: VideoSettings,
        *,
        max_new_tokens: int,
        decode: Decode = "free",
        choices: dict[str, Choices] | None = None,
        option_probabilities: bool = False,
    ):
        """Raises EngineError for what the engine cannot do: answers of a form, probabilities of options."""
        self.engine, self.tokenizer, self.settings = engine, tokenizer, settings
        self.max_new_tokens, self.decode, self.choices = max_new_tokens, decode, choices or {}
        self.option_probabilities = option_probabilities
        if not engine.constrains and (decode == "constrained" or option_probabilities):
            raise EngineError(
                "this engine answers freely alone; decode=constrained and option_probabilities=true need "
                "engine=torch"
            )

    @property
    def model(self) -> nn.Module:
        """What encodes the videos, and with engine=torch answers too."""
        return self.engine.model

    @property
    def device(self) -> torch.device:
        """Where videos are encoded."""
        return device_of(self.engine)

    def answer(
        self,
        context: VideoContext,
        questions: list[list[Asked]],
        adapter: str | None = None,
        group: Group | None = None,
    ) -> list[list[Answer]]:
        """The answers to each video's questions, all at once.

        group: what the answers say of who gave them. Either all questions are answered by drawing or none is.
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
        listed = [[self._candidates(asked) for asked in row] for row in questions]
        draws = [[asked.draw for asked in row if asked.draw is not None] for row in questions]
        said = self.engine.answer(
            context, texts, adapter, constraints, listed=listed, draws=draws if any(draws) else None
        )
        return [
            [
                Answer(
                    asked.task,
                    group,
                    decode(self.tokenizer, answer.tokens),
                    answer.yes if _begins_with_yes_or_no(asked.task) else None,
                    certainty=answer.certainty,
                    option_probabilities=dict(zip(options, answer.likely, strict=True)) or None,
                )
                for asked, options, answer in zip(row, candidates, answers, strict=True)
            ]
            for row, candidates, answers in zip(questions, listed, said, strict=True)
        ]

    def read(
        self,
        context: VideoContext,
        questions: list[list[Asked]],
        heads: TimeHeads,
        adapter: str | None = None,
        group: Group | None = None,
    ) -> list[list[Answer]]:
        """The answers to each video's questions on times, read off what the questions attend to.

        heads: of all tasks that are asked, which the model has (check_fit).
        """
        texts = [[asked.text for asked in row] for row in questions]
        attended = self.engine.attended(context, texts, adapter)
        answers: list[list[Answer]] = []
        for visual, row, shares in zip(context.visuals, questions, attended, strict=True):
            seconds = self.settings.frame_ends(visual)
            answers.append([])
            for asked, own in zip(row, shares, strict=True):
                assert asked.task is not None, "general questions have no heads"
                times = read_times(asked.task, heads.tasks[asked.task], own.numpy(), seconds)
                answers[-1].append(Answer(asked.task, group, TASKS[asked.task].answer.write(times)))
        return answers

    def _candidates(self, asked: Asked) -> tuple[str, ...]:
        """A question's possible answers; none where they are not to be held against each other."""
        return TASKS[asked.task].answer.candidates if asked.task and self.option_probabilities else ()


def _begins_with_yes_or_no(task: str | None) -> bool:
    return task is not None and (TASKS[task].fact == CRASH or isinstance(TASKS[task].answer, EarlyWarning))


def tokens_at_once(device: torch.device) -> int:
    """Visual tokens that are answered at once: on a GPU eight full-size videos, whose keys and values take 8
    GB.
    """
    return 131072 if device.type == "cuda" else 32768


def fits_at_once(sizes: list[int], limit: int) -> bool:
    """Whether videos of so many visual tokens each are answered at once: at most MAX_VIDEOS, of at most
    `limit` tokens, padding included; one alone always is.
    """
    return len(sizes) == 1 or (len(sizes) <= MAX_VIDEOS and len(sizes) * max(sizes) <= limit)


def size_of(visual: VisualTokens | VideoError) -> int:
    """Its visual tokens; a video that could not be read counts nothing."""
    return visual.num_kept if isinstance(visual, VisualTokens) else 0


def in_batches(
    reader: Iterable[tuple[Key, VisualTokens | VideoError]], limit: int
) -> Iterator[list[tuple[Key, VisualTokens | VideoError]]]:
    """Videos that are answered at once (fits_at_once), in order."""
    waiting: list[tuple[Key, VisualTokens | VideoError]] = []
    for key, visual in reader:
        if waiting and not fits_at_once([size_of(one) for _, one in waiting] + [size_of(visual)], limit):
            yield waiting
            waiting = []
        waiting.append((key, visual))
    if waiting:
        yield waiting
