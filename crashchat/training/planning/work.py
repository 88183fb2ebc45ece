"""What a run's steps do, learning from annotated answers or from drawn ones: the passes of each process, and
their time.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import ceil
from statistics import mean

from crashchat.data_settings import SplitName
from crashchat.model.packing import split_by_tokens
from crashchat.second_stages import PreferenceConfig, ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.training.planning.cost import Exchange, OperationCounter, Operations, Step, time_of
from crashchat.training.planning.gpus import Gpu
from crashchat.training.planning.shapes import Numbered, Pass, Split, VideoShape, passes_of, steps_of
from crashchat.training.rollout_data import RolloutSampler
from crashchat.training.trainer import VIDEOS_AT_ONCE

# (config, split) -> its videos
Shapes = Callable[[TrainConfig, SplitName], Split]
SPLITS: tuple[SplitName, SplitName] = ("train", "val")


@dataclass(frozen=True)
class Pace:
    """How fast things go. rate: operations a second and card. reading: seconds in which a process's readers
    read a video together.
    """

    counter: OperationCounter
    gpu: Gpu
    rate: float
    reading: float
    exchange: Exchange


class Work:
    """Of a run that learns from annotated answers, on `processes` cards.

    train, val: the videos of the two splits.
    """

    def __init__(self, config: TrainConfig, processes: int, shapes: Shapes):
        self.config, self.processes = config, processes
        self.train, self.val = (shapes(config, split) for split in SPLITS)

    @cached_property
    def steps(self) -> list[list[list[Pass]]]:
        """Of each step of an epoch, of each process, the passes that it learns from."""
        return list(steps_of(self.config, self.train, self.processes))

    @property
    def sequences(self) -> list[VideoShape]:
        """The videos as they are learnt from."""
        return self.train.videos

    @property
    def longest(self) -> tuple[Pass, bool]:
        """The pass of most tokens, and whether it may come behind another one of its step."""
        passes = [(one, len(share) > 1) for step in self.steps for share in step for one in share]
        return max(passes, key=lambda found: (sum(video.length for video in found[0]), found[1]))

    def timed(self, pace: Pace) -> tuple[Step, Step]:
        """The mean step of the first epoch and of later ones, which may have vision features from a cache."""

        def mean_step(vision: bool) -> Step:
            return mean_of(
                [
                    time_of(
                        step,
                        partial(self.learning, pace.counter, vision=vision),
                        rate=pace.rate,
                        gpu=pace.gpu,
                        exchange=pace.exchange,
                        read=pace.reading if vision else 0.0,
                    )
                    for step in self.steps
                ]
            )

        first = mean_step(True)
        return first, first if self.config.feature_cache is None else mean_step(False)

    def learning(self, counter: OperationCounter, video: VideoShape, *, vision: bool) -> Operations:
        """Of learning from a video. vision: whether it is encoded."""
        return counter.step(video, vision=vision)

    def asking(self, counter: OperationCounter, video: VideoShape, *, vision: bool) -> Operations:
        """Of a video in a validation."""
        return counter.forward(video, vision=vision)

    @property
    def validation_pass(self) -> Pass:
        """The longest videos of the validation split, as many as are asked at once."""
        videos = sorted(self.val.videos, key=lambda video: video.length, reverse=True)[:VIDEOS_AT_ONCE]
        first = split_by_tokens([video.length for video in videos], self.config.max_tokens_per_batch)[0]
        return [videos[index] for index in first]

    def validation_seconds(self, pace: Pace) -> float:
        """Of one validation: every video once, or as many as val_videos says."""
        vision = self.config.feature_cache is None
        forward = mean(self.asking(pace.counter, video, vision=vision).total for video in self.val.videos)
        return self._validated_by_each * max(forward / pace.rate, pace.reading if vision else 0.0)

    @property
    def _validated_by_each(self) -> int:
        videos = min(len(self.val.videos), self.config.val_videos or len(self.val.videos))
        return ceil(videos / self.processes)


class PairWork(Work):
    """Of a run that learns from pairs of answers, and asks the model as it was at the start as well."""

    def learning(self, counter: OperationCounter, video: VideoShape, *, vision: bool) -> Operations:
        """Of learning from a video."""
        return super().learning(counter, video, vision=vision) + counter.at_the_start(video, vision=vision)

    def asking(self, counter: OperationCounter, video: VideoShape, *, vision: bool) -> Operations:
        """Of a video in a validation."""
        return super().asking(counter, video, vision=vision) + counter.at_the_start(video, vision=vision)


@dataclass(frozen=True)
class DrawnShare:
    """What a process does with what it fetches: `asked` videos are drawn on, and their answers learnt from,
    in as many steps as updates says; annotated answers in the first of them.
    """

    asked: list[VideoShape]
    drawn: list[Pass]
    annotated: list[Pass]


class DrawnWork(Work):
    """Of a run that learns from drawn answers. One is taken to be as long as the annotated answer."""

    config: ReinforceConfig

    def __init__(self, config: ReinforceConfig, processes: int, shapes: Shapes):
        super().__init__(config, processes, shapes)
        self.supervised = (
            shapes(config.model_copy(update={"tasks": config.supervised_tasks}), "train").videos
            if config.supervised_tasks
            else []
        )

    def learnt(self, video: VideoShape) -> VideoShape:
        """A video with every drawn answer."""
        several = [
            replace(question, answers=question.answers * self.config.rollouts, closing=0)
            for question in video.questions
        ]
        return replace(video, questions=tuple(several))

    @property
    def sequences(self) -> list[VideoShape]:
        """The videos as they are learnt from."""
        return [*map(self.learnt, self.train.videos), *self.supervised]

    @cached_property
    def fetches(self) -> list[list[DrawnShare]]:
        """Of each fetch of an epoch, of each process, what it does with it (rollout_data.py)."""
        rewarded, others = Numbered(self.train.videos), Numbered(self.supervised, self.train.questions)
        samplers = [
            RolloutSampler(rewarded.groups, others.groups, self.config, rank=rank, processes=self.processes)
            for rank in range(self.processes)
        ]
        limit = self.config.max_tokens_per_batch
        found = []
        for shares in zip(*samplers, strict=True):
            if any(shares):  # an empty one is a further update on the same answers
                asked = [rewarded.videos_of(share) for share in shares]
                found.append(
                    [
                        DrawnShare(
                            own,
                            passes_of([self.learnt(video) for video in own], limit),
                            passes_of(others.videos_of(share), limit),
                        )
                        for own, share in zip(asked, shares, strict=True)
                    ]
                )
        return found

    @cached_property
    def steps(self) -> list[list[list[Pass]]]:
        """Of each step of an epoch, of each process, the passes that it learns from."""
        return [
            [share.drawn + ([] if update else share.annotated) for share in fetch]
            for fetch in self.fetches
            for update in range(self.config.updates)
        ]

    def timed(self, pace: Pace) -> tuple[Step, Step]:
        """The mean step; in every epoch the same."""
        step = mean_of(
            [
                self._step(fetch, pace, first=update == 0)
                for fetch in self.fetches
                for update in range(self.config.updates)
            ]
        )
        return step, step

    def _step(self, fetch: Sequence[DrawnShare], pace: Pace, first: bool) -> Step:
        counter, shares, waits, videos, passes = pace.counter, [], [], [], []
        for share in fetch:
            # Features are made where answers are drawn, and learnt through again.
            work = [counter.step(video, vision=False) for one in share.drawn for video in one]
            annotated = share.annotated if first else []
            work += [counter.step(video) for one in annotated for video in one]
            if first:
                work += [counter.drawn(self.learnt(video)) for video in share.asked]
                asked_again = share.drawn if self.config.keeps_start else []
                work += [counter.at_the_start(video, vision=False) for one in asked_again for video in one]
            waits.append(sum(counter.waited(video, pace.gpu) for video in share.asked) if first else 0.0)
            shares.append(sum(work, Operations()))
            videos.append(len(share.asked) * first + sum(map(len, annotated)))
            passes.append(len(share.drawn) + len(annotated))
        seconds = [own.total / pace.rate + wait for own, wait in zip(shares, waits, strict=True)]
        return Step(
            operations=sum(shares, Operations()),
            slowest=max(share.total for share in shares),
            computing=max(seconds),
            waiting=max(waits),
            reading=max(videos) * pace.reading,
            exchanging=pace.exchange.seconds(pace.gpu, max(passes)),
            videos=sum(videos),
        )

    def validation_seconds(self, pace: Pace) -> float:
        """Of one validation: answers drawn to each question of every video, as in a step."""
        counter, videos = pace.counter, [self.learnt(video) for video in self.val.videos]
        drawn = mean(
            counter.drawn(video).total / pace.rate + counter.waited(video, pace.gpu) for video in videos
        )
        return self._validated_by_each * max(drawn, pace.reading)


def mean_of(steps: Sequence[Step]) -> Step:
    """The mean of steps, part by part."""
    operations = steps[0].operations.parts()
    return Step(
        operations=Operations(
            *(mean(step.operations.parts()[name] for step in steps) for name in operations)
        ),
        **{
            name: mean(getattr(step, name) for step in steps)
            for name in ("slowest", "computing", "reading", "exchanging", "videos", "waiting")
        },
    )


def work_of(config: TrainConfig, processes: int, shapes: Shapes) -> Work:
    """What a run's steps do."""
    if isinstance(config, ReinforceConfig):
        return DrawnWork(config, processes, shapes)
    if isinstance(config, PreferenceConfig):
        return PairWork(config, processes, shapes)
    return Work(config, processes, shapes)
