"""How long the sequences of a run are: of its annotations and videos, as far as they are at hand,
and of the released set where they are not. Nothing is loaded but the tokenizer.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from crashchat.data.annotations import Question, VideoQAs
from crashchat.data.pairs import Pair
from crashchat.data.sources import weighted
from crashchat.data_settings import SplitName
from crashchat.model.packing import split_by_tokens
from crashchat.model.sequence import IGNORED, Branch, branch_token_ids, prefix_ids
from crashchat.second_stages import PreferenceConfig
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from crashchat.training.batches import QuestionSampler
from crashchat.training.setup import load_asked
from crashchat.video.reading import read_visual_tokens
from crashchat.video.tokens import VideoSettings, target_size

# The released set (docs/reference.md, Annotations): 18,385 videos, 8:1:1; of the validation split's 1,838
# videos 1,139 have a crash, and only these are asked when it happens.
RELEASED_VIDEOS = {"train": 14_708, "val": 1_838}
WITH_CRASH = 1_139 / 1_838
# Without a tokenizer: English prompts have about five characters a token; a turn's marks are five tokens and
# `,Time 12.3s:` about nine.
CHARACTERS_A_TOKEN, TURN_TOKENS, TIME_TOKENS = 5, 5, 9
TYPICAL_SECONDS, TYPICAL_SIZE = 10, (720, 1280)  # of a clip where none is at hand: length; height and width
MEASURED = 8  # videos that are read where there are some
FRAMES_A_SECOND = 91  # frames of a 720p clip that one reader decodes and resizes (benchmarks/RESULTS.md)


class PartShape(NamedTuple):
    """A branch, or the stem of several (model/sequence.py), in tokens.

    stem: of the stem before it. labelled: of its answer.
    """

    tokens: int
    stem: int
    labelled: int


@dataclass(frozen=True)
class QuestionShape:
    """A question, in tokens.

    answers: of each answer with its end, which is what is labelled. closing: behind each of them, not
    labelled.
    """

    tokens: int
    answers: tuple[int, ...]
    closing: int = 1

    @property
    def parts(self) -> list[PartShape]:
        """The branches, and before them their stem where they have one."""
        if len(self.answers) == 1:
            (answer,) = self.answers
            return [PartShape(self.tokens + answer + self.closing, stem=0, labelled=answer)]
        stem = self.tokens - 1
        branches = (PartShape(1 + answer + self.closing, stem, labelled=answer) for answer in self.answers)
        return [PartShape(stem, stem=0, labelled=0), *branches]


@dataclass(frozen=True)
class VideoShape:
    """One video and its questions, in tokens.

    frames; rows, columns: visual tokens down and across a frame, before compression. kept: visual tokens that
    compression leaves. text: the prefix's other tokens.
    """

    frames: int
    rows: int
    columns: int
    kept: int
    text: int
    questions: tuple[QuestionShape, ...] = ()

    @property
    def visual(self) -> int:
        """Visual tokens that the encoder makes."""
        return self.frames * self.rows * self.columns

    @property
    def prefix(self) -> int:
        """Tokens before the first question."""
        return self.kept + self.text

    @property
    def length(self) -> int:
        """Tokens of the whole sequence."""
        return self.prefix + sum(part.tokens for question in self.questions for part in question.parts)

    @property
    def labelled(self) -> int:
        """Tokens that are learnt."""
        return sum(sum(question.answers) for question in self.questions)


@dataclass(frozen=True)
class Split:
    """The videos of a split. seconds_to_read: of a video, by one reader. sources: where the lengths are from,
    as lines.
    """

    videos: list[VideoShape]
    seconds_to_read: float
    sources: list[str]

    @property
    def questions(self) -> int:
        """How many questions there are."""
        return sum(len(video.questions) for video in self.videos)


def typical_video(settings: VideoSettings, tokenizer: PreTrainedTokenizerBase | None = None) -> VideoShape:
    """A 10-second clip of 1280 x 720 pixels in which every token changes from frame to frame."""
    frames = min(settings.max_frames, max(1, int(TYPICAL_SECONDS * settings.fps)))
    factor = settings.vision.factor
    high, wide = (side // factor for side in target_size(*TYPICAL_SIZE, frames, settings.vision))
    text = 4 + TIME_TOKENS * frames
    if tokenizer is not None:
        text = len(prefix_ids(tokenizer, [frame / settings.fps for frame in range(frames)], [0] * frames))
    return VideoShape(frames, high, wide, kept=frames * high * wide, text=text)


def read_shape(path: Path, settings: VideoSettings, tokenizer: PreTrainedTokenizerBase | None) -> VideoShape:
    """A video file's own shape; it is decoded, as only that shows what compression leaves.

    Raises VideoError.
    """
    visual = read_visual_tokens(str(path), settings)
    frames, high, wide = visual.grid_thw[0].tolist()
    merge = int(visual.merge_sizes[0])
    text = 4 + TIME_TOKENS * frames
    if tokenizer is not None:
        text = len(prefix_ids(tokenizer, visual.seconds, [0] * frames))
    return VideoShape(frames, high // merge, wide // merge, kept=visual.num_kept, text=text)


def _counter(tokenizer: PreTrainedTokenizerBase | None) -> Callable[[str, str], tuple[int, int]]:
    """(question, answer) -> their tokens, as a QuestionShape has them."""

    @cache
    def count(question: str, answer: str) -> tuple[int, int]:
        if tokenizer is None:
            asked = -(-len(question) // CHARACTERS_A_TOKEN) + TURN_TOKENS
            return asked, -(-len(answer) // CHARACTERS_A_TOKEN) + 1
        ids, labels = branch_token_ids(tokenizer, Branch(question, answer))
        learnt = sum(label != IGNORED for label in labels)
        return len(ids) - learnt - 1, learnt

    return count


def released_split(config: TrainConfig, split: str, video: VideoShape) -> list[VideoShape]:
    """The released set's videos of a split, all of one shape; those without a crash are not asked
    when it is.
    """
    asked = [TASKS[name] for name in config.tasks or TASKS]
    count = _counter(None)
    every = {task.name: _shape(count, task.prompt or "", ["x" * task.typical_length]) for task in asked}
    calm = tuple(every[task.name] for task in asked if not task.asked_if)
    crashes = round(RELEASED_VIDEOS[split] * WITH_CRASH)
    others = RELEASED_VIDEOS[split] - crashes if calm else 0
    return [replace(video, questions=tuple(every.values()))] * crashes + [
        replace(video, questions=calm)
    ] * others


def _shape(
    count: Callable[[str, str], tuple[int, int]], question: str, answers: Sequence[str]
) -> QuestionShape:
    """A question with its answers; count: from _counter."""
    found = [count(question, answer) for answer in answers]
    return QuestionShape(found[0][0], tuple(answer for _, answer in found))


def shapes_of(
    config: TrainConfig,
    split: SplitName,
    settings: VideoSettings,
    tokenizer: PreTrainedTokenizerBase | None = None,
    measured: int = MEASURED,
) -> Split:
    """The shapes of a split's videos: questions and answers of the annotations; of the videos some that are
    read, whose shapes stand for the others', and typical ones where there are none.

    tokenizer: the base's, None where that is not at hand. Raises AnnotationError and VideoError.
    """
    usual = [config.data_dir / TASKS[task].annotation_file(split) for task in config.tasks]
    named = config.data or config.annotation_files.get(split)
    typical = typical_video(settings, tokenizer)
    reading = typical.frames / FRAMES_A_SECOND
    size = "{1} x {0}".format(*TYPICAL_SIZE)
    assumed = f"a {TYPICAL_SECONDS} s clip of {size} pixels, nothing compressed away"
    if not named and not any(path.is_file() for path in usual):
        videos = released_split(config, split, typical)
        return Split(
            videos, reading, [f"the released set's numbers of videos and questions, each on {assumed}"]
        )
    annotated = load_asked(config, split, config.tasks)
    if split == "train":
        annotated = weighted(annotated, config.seed)
    count = _counter(tokenizer)
    questions = [
        tuple(_shape(count, one.asked, _answers(one)) for one in video.questions) for video in annotated
    ]
    paired = isinstance(config, PreferenceConfig)
    shapes, seconds = _measured(annotated, settings, tokenizer, measured)
    sources = [f"questions and {'pairs of ' if paired else ''}answers of the annotations"]
    if shapes:
        sources.append(f"videos like {len(shapes)} of them that were read")
    else:
        shapes, seconds = [typical], reading
        sources.append(f"no video at hand, so each is {assumed}")
    videos = [replace(shapes[i % len(shapes)], questions=asked) for i, asked in enumerate(questions)]
    return Split(videos, seconds, sources)


def _answers(question: Question) -> tuple[str, ...]:
    """The answers that are learnt from."""
    return (question.answer, question.rejected) if isinstance(question, Pair) else (question.answer,)


def _measured(
    videos: Sequence[VideoQAs], settings: VideoSettings, tokenizer: PreTrainedTokenizerBase | None, most: int
) -> tuple[list[VideoShape], float]:
    """The shapes of some videos that are there, and the mean seconds that reading one took."""
    there = [video.path for video in videos if video.file.is_file()]
    chosen = there[:: max(1, len(there) // most)][:most]
    shapes, seconds = [], [0.0]
    for path in chosen:
        start = time.monotonic()
        shapes.append(read_shape(path, settings, tokenizer))
        seconds.append(time.monotonic() - start)
    return shapes, mean(seconds[1:] or seconds)


Pass = list[VideoShape]


class Numbered:
    """Videos whose questions are numbered, as data sets number them. first: the first question's number.

    groups: the numbers of each video's questions.
    """

    def __init__(self, videos: Sequence[VideoShape], first: int = 0):
        self.videos = videos
        self.groups: list[list[int]] = []
        self._owner: dict[int, tuple[int, QuestionShape]] = {}
        for index, video in enumerate(videos):
            begin = first + len(self._owner)
            self.groups.append([*range(begin, begin + len(video.questions))])
            self._owner |= {begin + place: (index, one) for place, one in enumerate(video.questions)}

    def videos_of(self, numbers: Sequence[int]) -> list[VideoShape]:
        """The videos of some questions, each with those alone; numbers of other videos' are passed over."""
        asked: dict[int, tuple[QuestionShape, ...]] = {}
        for number in numbers:
            if number in self._owner:
                index, question = self._owner[number]
                asked[index] = (*asked.get(index, ()), question)
        return [replace(self.videos[index], questions=some) for index, some in asked.items()]


def passes_of(row: Sequence[VideoShape], limit: int) -> list[Pass]:
    """Videos as the passes that go through the model one after the other (batches.py)."""
    lists = split_by_tokens([video.length for video in row], limit)
    return [[row[index] for index in some] for some in lists]


def steps_of(config: TrainConfig, split: Split, processes: int) -> Iterator[list[list[Pass]]]:
    """An epoch's steps: of each process the passes that it makes, as training makes them (batches.py)."""
    known = Numbered(split.videos)
    ranks = [
        QuestionSampler(
            known.groups,
            config.global_batch_size,
            rank=rank,
            processes=processes,
            group_by_video=config.group_by_video,
            seed=config.seed,
        )
        for rank in range(processes)
    ]
    for shares in zip(*ranks, strict=True):
        yield [passes_of(known.videos_of(share), config.max_tokens_per_batch) for share in shares]
