"""Answers drawn to learn from: several to each question of a video, as branches of one prefix.

    video -> vision features, once -> prefix, once -> G answers to each question, drawn side by side
          -> rewards -> advantages within each question's group
          -> prefix and all answers as one sequence, learnt from in one pass

A question's G answers cost its prompt G times and the video once.
"""

import contextlib
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from crashchat.answering.draws import Draw
from crashchat.answering.generate import answer_from_prefix, decode
from crashchat.answering.prefix import encode, prefill
from crashchat.data.annotations import Question, VideoQAs
from crashchat.data.truth import crash_start_of
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.lora import base_of
from crashchat.model.sequence import Branch
from crashchat.settings import ReinforceConfig
from crashchat.tasks import TASKS
from crashchat.training.batches import Fetch, QuestionDataset, QuestionSampler
from crashchat.training.policy import advantages_of
from crashchat.training.rewards import Judged, Reward, value_of
from crashchat.training.sharing import share_questions
from crashchat.video.tokens import VideoSettings, VisualTokens, without_pixels


@dataclass
class Asked:
    """A video and its questions to be answered by drawing. numbers: the questions', as the data set has
    them.
    """

    video: VideoQAs
    visual: VisualTokens
    questions: list[Question]
    numbers: list[int]


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
            Branch(self.question.text, answer_ids=(*tokens, closing) if ended else tuple(tokens))
            for tokens, ended in zip(self.tokens, self.ended, strict=True)
        ]


@dataclass
class Rollout:
    """A video with its features and the groups of its questions."""

    visual: VisualTokens
    groups: list[Group] = field(default_factory=list)


class RolloutDataset(QuestionDataset):
    """Questions of which those of some tasks are to be answered by drawing; the others come packed with their
    annotated answers.
    """

    def __init__(self, *args, rewarded: frozenset[str], **kwargs):
        super().__init__(*args, **kwargs)
        self.rewarded = rewarded

    def split(self) -> tuple[list[list[int]], list[list[int]]]:
        """Question numbers by video: of the rewarded tasks, and of the others; videos without any are left
        out.
        """
        sides: tuple[list[list[int]], list[list[int]]] = ([], [])
        for numbers in self.numbers:
            own: tuple[list[int], list[int]] = ([], [])
            for number in numbers:
                own[self._questions[number][1].task not in self.rewarded].append(number)
            for side, group in zip(sides, own, strict=True):
                if group:
                    side.append(group)
        return sides

    def _fetched(self, numbers: list[int]) -> Fetch:
        others = [number for number in numbers if self._questions[number][1].task not in self.rewarded]
        asked: dict[int, Asked] = {}
        for number in numbers:
            index, question = self._questions[number]
            if question.task in self.rewarded:
                if index not in asked:
                    asked[index] = Asked(self.videos[index], self._visual(index), [], [])
                asked[index].questions.append(question)
                asked[index].numbers.append(number)
        return Fetch(self._packed(others) if others else [], list(asked.values()))


class RolloutSampler(Sampler[list[int]]):
    """One process's share of every step: rewarded questions of some videos, and questions with answers to
    keep what is known. An empty list behind each for every further update on the same answers.

    solved: videos all of whose groups taught nothing when they were last asked; an epoch leaves them out.
    visited: {video: whether it taught something}, of this epoch so far.
    """

    def __init__(
        self,
        rewarded: list[list[int]],
        others: list[list[int]],
        config: ReinforceConfig,
        rank: int,
        processes: int,
    ):
        self.rewarded, self.config = rewarded, config
        self.rank, self.processes = rank, processes
        self.video_of = {number: video for video, group in enumerate(rewarded) for number in group}
        self.others = None
        if config.global_batch_size and others:
            self.others = QuestionSampler(
                others, config.global_batch_size, rank, processes, group_by_video=True, seed=config.seed
            )
        self.epoch = 0
        self.solved: set[int] = set()
        self.visited: dict[int, bool] = {}

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        if epoch != self.epoch:
            self.solved = {video for video, taught in self.visited.items() if not taught}
            self.visited = {}
        self.epoch = epoch

    def note(self, groups: Iterable[tuple[int, bool]]) -> None:
        """Keep which videos' groups taught something, (video, whether)."""
        for video, taught in groups:
            self.visited[video] = taught or self.visited.get(video, False)

    def state(self) -> dict:
        """What a run that goes on must know, for JSON."""
        visited = [[video, taught] for video, taught in sorted(self.visited.items())]
        return {"epoch": self.epoch, "solved": sorted(self.solved), "visited": visited}

    def restore(self, state: dict) -> None:
        """Go on from a state that `state` gave."""
        self.epoch, self.solved = state["epoch"], set(state["solved"])
        self.visited = dict(state["visited"])

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return -(-len(self.rewarded) // self.config.videos_per_step) * self.config.updates

    def __len__(self) -> int:
        return self.steps_per_epoch

    def _supervised(self) -> Iterator[list[int]]:
        """The shares of questions with answers, epoch after epoch of their own, from where this epoch is."""
        if self.others is None:
            while True:
                yield []
        fetches = self.steps_per_epoch // self.config.updates
        epoch, skip = divmod(self.epoch * fetches, len(self.others))
        while True:
            self.others.set_epoch(epoch)
            yield from list(self.others)[skip:]
            epoch, skip = epoch + 1, 0

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = list(range(len(self.rewarded)))
        random.Random(f"{self.config.seed}/{self.epoch}").shuffle(shuffled)
        left = [video for video in shuffled if video not in self.solved] or shuffled
        fetches = self.steps_per_epoch // self.config.updates
        stream = left * -(-fetches * self.config.videos_per_step // len(left))
        supervised = self._supervised()
        for step in range(fetches):
            videos = stream[step * self.config.videos_per_step : (step + 1) * self.config.videos_per_step]
            numbers = [number for video in dict.fromkeys(videos) for number in self.rewarded[video]]
            own = (
                share_questions(numbers, self.video_of, self.processes)[self.rank]
                if len(numbers) >= self.processes
                else numbers[self.rank : self.rank + 1]
            )
            yield own + next(supervised)
            for _ in range(self.config.updates - 1):
                yield []


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
        """G answers to each question of some videos, read one after the other; step: the optimizer's, a part
        of the seed. None: one answer each, the likeliest.
        """
        return [self._draw_on(model, one, step) for one in asked]

    @torch.no_grad()
    def _draw_on(self, model: nn.Module, asked: Asked, step: int | None) -> Rollout:
        count = 1 if step is None else self.config.rollouts
        texts = [question.text for question in asked.questions for _ in range(count)]
        draws = None
        if step is not None:
            draws = [
                Draw(f"{self.config.seed}/{step}/{number}/{turn}", self.config.temperature, self.config.top_p)
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
                draws=None if draws is None else [draws],
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
                    crash_start=crash_start_of(asked.video),
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
            advantages=advantages_of(rewards, self.config.scale_advantages) if len(rewards) > 1 else None,
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
