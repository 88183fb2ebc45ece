"""Answers drawn to learn from: several to each question of a video, as branches of one prefix.

    video -> vision features, once -> prefix, once -> G answers to each question, drawn side by side
          -> rewards -> advantages within each question's group
          -> prefix and all answers as one sequence, learnt from in one pass

A question's G answers cost its prompt once, and all answers the video once.
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from crashchat.answering.draws import Draw
from crashchat.answering.generate import answer_from_prefix, decode
from crashchat.answering.prefix import encode, prefill
from crashchat.data.annotations import Question
from crashchat.data.truth import crash_start_of
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.lora import base_of
from crashchat.model.sequence import Branch
from crashchat.second_stages import ReinforceConfig
from crashchat.tasks import TASKS
from crashchat.training.policy import advantages_of
from crashchat.training.rewards import Judged, Reward, value_of
from crashchat.training.rollout_data import Asked
from crashchat.video.tokens import VideoSettings, VisualTokens, without_pixels


@dataclass
class Group:
    """A question's drawn answers. log_probs: of their tokens when they were drawn.

    advantages: None where all answers are worth the same.
    """

    question: Question
    number: int
    tokens: list[list[int]]
    ended: list[bool]
    log_probs: list[list[float]]
    judged: list[Judged]
    rewards: list[float]
    advantages: list[float] | None

    def branches(self, closing: int) -> list[Branch]:
        """The answers as branches to be learnt from."""
        return [
            Branch(self.question.asked, answer_ids=(*tokens, closing) if ended else tuple(tokens))
            for tokens, ended in zip(self.tokens, self.ended, strict=True)
        ]


@dataclass
class Rollout:
    """A video with its features and the groups of its questions."""

    visual: VisualTokens
    groups: list[Group] = field(default_factory=list)


@contextlib.contextmanager
def as_answerer(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode, with the attention that answers are made with."""
    text = base_of(model).model.language_model.config
    attention, training = text._attn_implementation, model.training
    model.eval()
    text._attn_implementation = BRANCH_ATTENTION
    try:
        yield
    finally:
        text._attn_implementation = attention
        model.train(training)


class Roller:
    """Draws answers and says what they are worth.

    rewards: {task: (name, reward)}. known: {task: its training answers}.
    """

    def __init__(
        self,
        config: ReinforceConfig,
        tokenizer: PreTrainedTokenizerBase,
        settings: VideoSettings,
        rewards: Mapping[str, tuple[str, Reward]],
        known: Mapping[str, Sequence[str]],
    ):
        self.config, self.tokenizer, self.settings = config, tokenizer, settings
        self.rewards, self.known = rewards, known

    def draw(self, model: nn.Module, asked: Sequence[Asked], step: int | None) -> list[Rollout]:
        """G answers to each question of some videos, read one after the other.

        step: the optimizer's, a part of the seed; None: of a validation, which draws alike at every step.
        """
        return [self._draw_on(model, one, step) for one in asked]

    @torch.no_grad()
    def _draw_on(self, model: nn.Module, asked: Asked, step: int | None) -> Rollout:
        count, when = self.config.rollouts, "validation" if step is None else step
        texts = [question.asked for question in asked.questions for _ in range(count)]
        draws = [
            Draw(f"{self.config.seed}/{when}/{number}/{turn}", self.config.temperature, self.config.top_p)
            for number in asked.numbers
            for turn in range(count)
        ]
        with as_answerer(model):
            features = encode(model, [asked.visual])
            prefix = prefill(model, self.tokenizer, [asked.visual], features)
            found = answer_from_prefix(
                model,
                self.tokenizer,
                prefix,
                [texts],
                max_new_tokens=self.config.max_new_tokens,
                draws=[draws],
            )
        rollout = Rollout(_with_features(asked.visual, features))
        for place, (question, number) in enumerate(zip(asked.questions, asked.numbers, strict=True)):
            own = slice(place * count, (place + 1) * count)
            rollout.groups.append(
                self._judge(
                    asked, question, number, tokens=found.tokens[0][own], log_probs=found.log_probs[0][own]
                )
            )
        return rollout

    def _judge(
        self,
        asked: Asked,
        question: Question,
        number: int,
        tokens: list[list[int]],
        log_probs: list[list[float]],
    ) -> Group:
        assert question.task is not None, "only tasks' questions are rewarded"
        task = TASKS[question.task]
        name, reward = self.rewards[task.name]
        judged = []
        for ids in tokens:
            text = decode(self.tokenizer, ids)
            judged.append(
                Judged(
                    task=task.name,
                    text=text,
                    values=task.parse(text),
                    truth=task.ground_truth(question.answer),
                    seconds=self.settings.end_of(asked.visual),
                    crash_start=crash_start_of(asked.video, task),
                    known=self.known.get(task.name, ()),
                )
            )
        rewards = [value_of(name, reward, one) for one in judged]
        return Group(
            question,
            number,
            tokens,
            ended=[len(own) > len(ids) for ids, own in zip(tokens, log_probs, strict=True)],
            log_probs=log_probs,
            judged=judged,
            rewards=rewards,
            advantages=advantages_of(rewards, self.config.scale_advantages),
        )


def _with_features(visual: VisualTokens, features: torch.Tensor) -> VisualTokens:
    """The video as it goes through the language model again: encoded already."""
    # Features that were made in inference mode could not be learnt through.
    return replace(without_pixels(visual), features=features.clone(), cache_key=None)


def figures_of(rollouts: Iterable[Rollout]) -> dict[str, tuple[float, int]]:
    """{what the log says of drawn answers: (sum, count)}, so that processes can add theirs up.

    reward, and reward_<task>; unparsed, outside: shares of answers that are none, and of times behind the
    video's end; teaching: share of groups whose answers are not all worth the same; distinct: different
    answers of a group over their number; answer_tokens.
    """
    sums: dict[str, tuple[float, int]] = {}

    def add(name: str, values: Iterable[float]) -> None:
        values = list(values)
        total, count = sums.get(name, (0.0, 0))
        sums[name] = (total + sum(values), count + len(values))

    for group in (group for rollout in rollouts for group in rollout.groups):
        add("reward", group.rewards)
        add(f"reward_{group.question.task}", group.rewards)
        add("unparsed", [float(one.values is None) for one in group.judged])
        add("outside", [float(one.outside) for one in group.judged])
        add("teaching", [float(group.advantages is not None)])
        add("distinct", [len({one.text for one in group.judged}) / len(group.judged)])
        add("answer_tokens", [float(len(tokens)) for tokens in group.tokens])
    return sums
