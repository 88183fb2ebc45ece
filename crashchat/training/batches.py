"""Which questions share a step, and how a list of questions becomes PackedBatches.

The batch size counts questions (docs/reference.md, Strategies). An epoch is a stream of all questions, cut
every `global_batch_size`; with group_by_video the stream keeps a video's questions together, so that a batch
of 24 decodes and encodes 4 to 6 videos instead of 24. A video on a cut has some questions before it and some
behind: no question is lost, and a step is always exactly `global_batch_size` questions, on any number of
processes. How they share a step, sharing.py says.
"""

import random
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol, cast

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, get_worker_info
from transformers import PreTrainedTokenizerBase

from crashchat.data.annotations import Question, VideoQAs
from crashchat.model.packing import PackedBatch, pack, split_by_tokens
from crashchat.model.sequence import Branch, SequenceError, VideoSequence, build_sequence
from crashchat.processes import READ_AHEAD
from crashchat.tasks import TASKS
from crashchat.training.sharing import share_questions
from crashchat.video.feature_cache import FeatureCache
from crashchat.video.reading import read_visual_tokens
from crashchat.video.source import VideoError
from crashchat.video.tokens import VideoSettings, VisualTokens, without_pixels


@dataclass
class Pass:
    """What goes through the model at a time.

    videos: those of the batch, without their pixels, so that what is encoded of them can be stored; None
    without a feature cache.
    """

    batch: PackedBatch
    videos: list[VisualTokens] | None


class Fetch(NamedTuple):
    """What a list of questions becomes: the passes that they fill, and what is not packed (rollouts.py)."""

    passes: list[Pass]
    asked: list[Any]


class QuestionDataset(Dataset):
    """All questions on some videos, numbered; fetching several at once gives the passes that they fill.

    `numbers[i]` lists the question numbers of video i. max_tokens_per_batch: tokens a PackedBatch holds at
    most; a video with all its branches is never split, so one that is longer goes alone.
    """

    def __init__(
        self,
        videos: list[VideoQAs],
        tokenizer: PreTrainedTokenizerBase,
        settings: VideoSettings,
        max_length: int,
        max_tokens_per_batch: int | None = None,
        cache_videos: int = 0,
        feature_cache: FeatureCache | None = None,
    ):
        self.videos = videos
        self.tokenizer = tokenizer
        self.settings = settings
        self.max_length = max_length
        self.max_tokens_per_batch = max_tokens_per_batch
        self.cache_videos = cache_videos
        self.feature_cache = feature_cache
        self.weights: dict[str | None, float] = {name: task.weight for name, task in TASKS.items()}
        self._cache: OrderedDict[int, VisualTokens] = OrderedDict()
        self._questions: list[tuple[int, Question]] = []
        self.numbers: list[list[int]] = []
        for index, video in enumerate(videos):
            first = len(self._questions)
            self._questions += [(index, question) for question in video.questions]
            self.numbers.append(list(range(first, len(self._questions))))

    def __len__(self) -> int:
        return len(self._questions)

    def _visual(self, index: int) -> VisualTokens:
        if index in self._cache:
            self._cache.move_to_end(index)
            return self._cache[index]
        visual = read_visual_tokens(str(self.videos[index].path), self.settings, self.feature_cache)
        if self.cache_videos and visual.cache_key is None:  # with a key, its features will be found next time
            self._cache[index] = visual
            if len(self._cache) > self.cache_videos:
                self._cache.popitem(last=False)
        return visual

    def __getitem__(self, number: int) -> Fetch | Exception:
        return self.__getitems__([number])

    def __getitems__(self, numbers: list[int]) -> Fetch | Exception:
        """Some questions, those on one video as branches of one sequence (torch's batched fetch).

        Raises VideoError and SequenceError; in a worker process returns them, for QuestionLoader to raise.
        """
        try:
            return self._fetched(numbers)
        except (VideoError, SequenceError) as error:
            if get_worker_info() is None:
                raise
            return error

    def _fetched(self, numbers: list[int]) -> Fetch:
        return Fetch(self._packed(numbers), [])

    def _packed(self, numbers: list[int]) -> list[Pass]:
        asked: dict[int, list[Question]] = {}
        for number in numbers:
            index, question = self._questions[number]
            asked.setdefault(index, []).append(question)
        visuals = [self._visual(index) for index in asked]
        sequences = [
            build_sequence(
                self.tokenizer,
                visual.seconds,
                tokens_per_frame=visual.kept_per_frame,
                branches=self.branches(questions),
                max_length=self.max_length,
            )
            for visual, questions in zip(visuals, asked.values(), strict=True)
        ]
        # How many tokens compression leaves is known only now that the videos are decoded.
        lengths = [len(sequence) for sequence in sequences]
        lists = split_by_tokens(lengths, self.max_tokens_per_batch or sys.maxsize)
        return [self._pass([sequences[i] for i in some], [visuals[i] for i in some]) for some in lists]

    @property
    def tasks(self) -> list[str | None]:
        """The task of each question."""
        return [question.task for _, question in self._questions]

    def branches(self, questions: list[Question]) -> list[Branch]:
        """What is learnt of some questions on a video."""
        return [
            Branch(question.asked, question.answer, weight=self.weights.get(question.task, 1.0))
            for question in questions
        ]

    def _pass(self, sequences: list[VideoSequence], visuals: list[VisualTokens]) -> Pass:
        videos = [without_pixels(visual) for visual in visuals] if self.feature_cache else None
        return Pass(pack(sequences, visuals), videos)


def as_model_input(fetch: Fetch | Exception) -> dict[str, Any] | Exception:
    """The collator: batches are packed when they are fetched, so only their fields are handed on.

    {"batches": [a batch's fields], "videos": [its videos]}, a pass each, and "num_videos" of all of them.
    """
    if isinstance(fetch, Exception):
        return fetch
    return {
        "batches": [one.batch.as_dict() for one in fetch.passes],
        "videos": [one.videos for one in fetch.passes],
        "num_videos": sum(int(one.batch.video_ids[0, -1]) + 1 for one in fetch.passes),
        "asked": fetch.asked,
    }


class QuestionLoader(DataLoader):
    """What a QuestionDataset fetches as the model's input,
    at most READ_AHEAD fetches ahead in each of `num_workers` processes.

    An error in one of those is raised here as itself. torch would make a new one of it, a traceback for its
    message.
    """

    def __init__(
        self,
        dataset: QuestionDataset,
        batches: Iterable[list[int]],
        num_workers: int,
        persistent: bool = False,
    ):
        super().__init__(
            dataset,
            batch_sampler=batches,
            collate_fn=cast(Callable[[list], Any], as_model_input),  # of one fetch, not of a list of samples
            num_workers=num_workers,
            prefetch_factor=READ_AHEAD if num_workers else None,
            persistent_workers=persistent and num_workers > 0,
            # Of its own, so that a run that went on from a checkpoint draws what one without a break does:
            # without it every new iterator takes a number from torch's own generator.
            generator=torch.Generator(),
        )

    # torch's type promises an iterator of its own, of which nobody needs more than what any iterator has.
    def __iter__(self) -> Iterator[dict]:  # type: ignore[override]
        for batch in super().__iter__():
            if isinstance(batch, Exception):
                raise batch
            yield batch


class StepSampler(Protocol):
    """One process's share of every step, as Trainer's loop asks for it."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[list[int]]: ...


class QuestionSampler(Sampler[list[int]]):
    """One process's share of every step: lists of question numbers, of global_batch_size over all processes.

    Each epoch has its own seeded order. The last step of an epoch is filled up from the epoch's beginning.
    """

    def __init__(
        self,
        numbers: list[list[int]],
        global_batch_size: int,
        rank: int = 0,
        processes: int = 1,
        group_by_video: bool = True,
        seed: int = 0,
        shares: Mapping[str, float] = MappingProxyType({}),
        tasks: Sequence[str | None] = (),
    ):
        """shares: {task: which share of its questions an epoch has}, all of them where it is left out; tasks:
        that of each question number.
        """
        self.numbers = numbers
        self.places: dict[str, list[int]] = {
            name: [number for number, task in enumerate(tasks) if task == name] for name in shares
        }
        self.left_out = {name: round((1 - share) * len(self.places[name])) for name, share in shares.items()}
        self.global_batch_size = global_batch_size
        self.video_of = {number: video for video, group in enumerate(numbers) for number in group}
        self.rank = rank
        self.processes = processes
        self.group_by_video = group_by_video
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration gives."""
        self.epoch = epoch

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        left = sum(map(len, self.numbers)) - sum(self.left_out.values())
        return -(-left // self.global_batch_size)

    def _epochs_own(self) -> list[list[int]]:
        """The numbers of each video's questions that this epoch has."""
        gone = {
            number
            for name, count in self.left_out.items()
            for number in random.Random(f"{self.seed}/{self.epoch}/{name}").sample(self.places[name], count)
        }
        return (
            [[number for number in group if number not in gone] for group in self.numbers]
            if gone
            else self.numbers
        )

    def __len__(self) -> int:
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = random.Random(f"{self.seed}/{self.epoch}")
        groups = (
            list(self._epochs_own())
            if self.group_by_video
            else [[number] for group in self._epochs_own() for number in group]
        )
        order.shuffle(groups)
        stream = [number for group in groups for number in group]
        total = self.steps_per_epoch * self.global_batch_size
        stream = (stream * (-(-total // len(stream))))[:total]
        steps = (
            stream[start : start + self.global_batch_size]
            for start in range(0, total, self.global_batch_size)
        )
        return iter([share_questions(step, self.video_of, self.processes)[self.rank] for step in steps])
