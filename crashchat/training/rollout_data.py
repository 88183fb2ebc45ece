"""Which questions are answered by drawing, and which of them every process draws on in a step."""

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch.utils.data import Sampler

from crashchat.config import ConfigError
from crashchat.data.annotations import Question, VideoQAs
from crashchat.second_stages import ReinforceConfig
from crashchat.training.batches import Fetch, QuestionDataset, QuestionSampler
from crashchat.training.sharing import share_questions
from crashchat.video.tokens import VisualTokens


@dataclass
class Asked:
    """A video and its questions to be answered by drawing. numbers: the questions', as the data set has
    them.
    """

    video: VideoQAs
    visual: VisualTokens
    questions: list[Question]
    numbers: list[int]


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
        if len(self.video_of) < processes:
            raise ConfigError(
                f"found {len(self.video_of)} questions of tasks={','.join(config.tasks)}, expected one for "
                f"each of {processes} processes; start fewer of them"
            )
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

    def _questions_on(self, videos: list[int], others: list[int]) -> list[int]:
        """The rewarded questions on some videos, and on as many others as it takes for every process to have
        one.
        """
        numbers = [number for video in dict.fromkeys(videos) for number in self.rewarded[video]]
        for video in others:
            if len(numbers) >= self.processes:
                break
            if video not in videos:
                numbers += self.rewarded[video]
        return numbers

    def __iter__(self) -> Iterator[list[int]]:
        shuffled = list(range(len(self.rewarded)))
        random.Random(f"{self.config.seed}/{self.epoch}").shuffle(shuffled)
        left = [video for video in shuffled if video not in self.solved] or shuffled
        fetches = self.steps_per_epoch // self.config.updates
        stream = left * -(-fetches * self.config.videos_per_step // len(left))
        supervised = self._supervised()
        for step in range(fetches):
            start = step * self.config.videos_per_step
            own = self._questions_on(stream[start : start + self.config.videos_per_step], shuffled)
            yield share_questions(own, self.video_of, self.processes)[self.rank] + next(supervised)
            for _ in range(self.config.updates - 1):
                yield []
