"""Blind baselines: answers that never see the video, from the training annotations and a file's metadata.

A constant answer, the source, or a file's size and codec can go a long way where the collections of crash
videos and of calm ones differ. Each of these guesses goes through the same metrics as a model and stands
beside it in every comparison.

All of them are one small regression tree over the training videos (Breiman et al., 1984): without any split
it is the most frequent answer or the mean time, with splits on the source or on the metadata it is the guess
from these.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from crashchat.data.predictions import constant_answer, with_answers
from crashchat.tasks import PERCEPTION, Task
from crashchat.video.source import best_video_stream, open_container, time_base

NO_ACCIDENT, MOST_FREQUENT, MEAN_TIMES = "no-accident answer", "most frequent answer", "mean times"
SOURCE, METADATA = "source alone", "metadata alone"
BLIND = (NO_ACCIDENT, MOST_FREQUENT, MEAN_TIMES, SOURCE, METADATA)
DEPTH, SMALLEST_LEAF = 3, 5
CLASSES = 50  # so many of the most frequent answers decide where a tree splits
Summary = Callable[[Task, list[str]], str]  # how the answers of a leaf become one


@dataclass(frozen=True)
class Metadata:
    """What a video file's header says.

    fps: frames per second; seconds: duration, 0 where the header has none.
    """

    width: int
    height: int
    fps: float
    seconds: float
    codec: str


@dataclass(frozen=True)
class Training:
    """The training videos of one task, N of them.

    answers: as annotated; sources, metadata: None where not known of all.
    """

    answers: list[str]
    sources: list[str] | None = None
    metadata: list[Metadata] | None = None


def read_metadata(paths: list[Path]) -> list[Metadata] | None:
    """The headers of video files, no frame of them decoded;
    None where one cannot be opened or has no video.
    """
    found = []
    for path in tqdm(
        paths, desc="video headers", unit="file", leave=False, disable=None if len(paths) > 500 else True
    ):
        try:
            with open_container(path) as container:
                stream = best_video_stream(container)
                if stream is None:
                    return None
                seconds = (
                    float(stream.duration * time_base(stream))
                    if stream.duration
                    else (container.duration or 0) / 1e6
                )
                codec = stream.codec_context
                found.append(
                    Metadata(
                        width=codec.width,
                        height=codec.height,
                        fps=float(stream.average_rate or 0),
                        seconds=seconds,
                        codec=codec.name,
                    )
                )
        except (OSError, av.error.FFmpegError):
            return None
    return found


def guesses(
    task: Task,
    records: list[dict],
    training: Training | None,
    sources: list[str] | None,
    metadata: list[Metadata] | None,
) -> dict[str, list[dict]]:
    """{row: records answered without looking} of one task; a row that cannot be made is left out.

    sources, metadata: of the records' videos, in the records' order; None where not known of all.
    """
    rows = {NO_ACCIDENT: constant_answer(task, records)}
    if training is None:
        return rows
    blind = np.zeros((len(training.answers), 0)), np.zeros((len(records), 0))
    # {row: (its summary, what is known of the training videos, and of the records')}
    learnt: dict[str, tuple[Summary, np.ndarray, np.ndarray]] = {MOST_FREQUENT: (_vote, *blind)}
    summary: Summary = _vote
    if task.group == PERCEPTION:
        summary = _mean_times
        learnt[MEAN_TIMES] = (summary, *blind)
    if training.sources and sources:
        kinds = sorted(set(training.sources))
        learnt[SOURCE] = summary, _one_hot(training.sources, kinds), _one_hot(sources, kinds)
    if training.metadata and metadata:
        codecs = sorted({header.codec for header in training.metadata})
        learnt[METADATA] = summary, _features(training.metadata, codecs), _features(metadata, codecs)
    targets = _targets(task, training.answers)
    for name, (summary, known, asked) in learnt.items():
        leaves = _leaves(known, targets, asked)
        said = {id(leaf): summary(task, [training.answers[index] for index in leaf]) for leaf in leaves}
        rows[name] = with_answers(task, records, [said[id(leaf)] for leaf in leaves])
    return rows


def _vote(_: Task, answers: list[str]) -> str:
    return Counter(answers).most_common(1)[0][0]


def _mean_times(task: Task, answers: list[str]) -> str:
    """The mean of annotated times, as an answer in the annotations' form."""
    times = np.array([sorted(task.ground_truth(answer).values()) for answer in answers]).mean(axis=0)
    return " - ".join(f"{time:.1f}" for time in times) + " seconds"


def _one_hot(values: list[str], kinds: list[str]) -> np.ndarray:
    return np.array([[value == kind for kind in kinds] for value in values], dtype=float)


def _features(metadata: list[Metadata], codecs: list[str]) -> np.ndarray:
    sizes = np.array(
        [[header.width, header.height, header.fps, header.seconds] for header in metadata], dtype=float
    )
    return np.concatenate([sizes, _one_hot([header.codec for header in metadata], codecs)], axis=1)


def _targets(task: Task, answers: list[str]) -> np.ndarray:
    """float64[N, K]: what a split should tell apart, the times or the answers as one-hot classes."""
    if task.group == PERCEPTION:
        return np.array([sorted(task.ground_truth(answer).values()) for answer in answers])
    return _one_hot(answers, [answer for answer, _ in Counter(answers).most_common(CLASSES)])


def _leaves(
    known: np.ndarray, targets: np.ndarray, asked: np.ndarray, depth: int = DEPTH
) -> list[np.ndarray]:
    """For each row of `asked` (float64[M, F]) the rows of `known` (float64[N, F]) that share its leaf,
    int[n] each.
    """
    found: list[np.ndarray] = [np.arange(0)] * len(asked)

    def grow(inside: np.ndarray, wanted: np.ndarray, depth: int) -> None:
        split = _best_split(known[inside], targets[inside]) if depth else None
        if split is None:
            for index in wanted:
                found[index] = inside
            return
        feature, threshold = split
        for left in (True, False):
            grow(
                inside[(known[inside, feature] <= threshold) == left],
                wanted[(asked[wanted, feature] <= threshold) == left],
                depth - 1,
            )

    grow(np.arange(len(known)), np.arange(len(asked)), depth)
    return found


def _best_split(features: np.ndarray, targets: np.ndarray) -> tuple[int, float] | None:
    """(feature, threshold) that leaves the least squared error around the two sides' means;
    None where none lessens it.
    """
    count = len(targets)
    best, split = 1e-9, None
    sizes = np.arange(1, count)[:, None]
    total = targets.sum(axis=0)
    for feature in range(features.shape[1]):
        order = np.argsort(features[:, feature], kind="stable")
        values, left = features[order, feature], targets[order].cumsum(axis=0)[:-1]
        # The squared error falls by as much as the squared sums over their sizes grow.
        gains = ((left**2 / sizes) + (total - left) ** 2 / (count - sizes)).sum(axis=1) - (
            total**2
        ).sum() / count
        allowed = (
            (values[1:] > values[:-1])
            & (sizes[:, 0] >= SMALLEST_LEAF)
            & (count - sizes[:, 0] >= SMALLEST_LEAF)
        )
        gains = np.where(allowed, gains, 0.0)
        if len(gains) and gains.max() > best:
            at = int(gains.argmax())
            best, split = gains[at], (feature, (values[at] + values[at + 1]) / 2)
    return split
