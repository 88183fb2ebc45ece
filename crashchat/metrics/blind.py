"""Blind baselines: answers that understand no video, from the training annotations and a file's outside.

A constant answer, the source, a file's size and codec, or how much its pictures change can go a long way
where the collections of crash videos and of calm ones differ. Each of these guesses goes through the same
metrics as a model and stands beside it in every comparison.

What can be learnt from the source, the metadata or the motion is learnt by one shallow decision tree over the
training videos. Only the times from motion are more direct: the moment of the largest change, moved by as
much as the times of the training videos lie behind theirs.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor
from tqdm import tqdm

from crashchat.data.predictions import constant_answer, with_answers
from crashchat.parts import file_of, span_of
from crashchat.tasks import Task
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.quantities import Timed
from crashchat.video.source import best_video_stream, open_container
from crashchat.video.timeline import time_base

NO_ACCIDENT, MOST_FREQUENT, MEAN_TIMES = "no-accident answer", "most frequent answer", "mean times"
SOURCE, METADATA, MOTION = "source alone", "metadata alone", "motion alone"
BLIND = (NO_ACCIDENT, MOST_FREQUENT, MEAN_TIMES, SOURCE, METADATA, MOTION)
TREE = {"max_depth": 3, "min_samples_leaf": 5, "random_state": 0}


@dataclass(frozen=True)
class Metadata:
    """What a video file's header says.

    fps: frames per second; seconds: duration, 0 where the header has none; of a part, when it ends.
    """

    width: int
    height: int
    fps: float
    seconds: float
    codec: str


@dataclass(frozen=True)
class Outside:
    """What is known of some videos without understanding them, in their order; None where not known of all.

    motion: float64[F] each, as crashchat.video.motion gives it: the moment of the largest change, in seconds,
    then figures without a time.
    """

    sources: list[str] | None = None
    metadata: list[Metadata] | None = None
    motion: list[np.ndarray] | None = None


NOTHING = Outside()


@dataclass(frozen=True)
class Training:
    """The training videos of one task: their annotated answers, and what is known of them."""

    answers: list[str]
    outside: Outside = NOTHING


def read_metadata(paths: list[Path]) -> list[Metadata] | None:
    """The headers of video files, no frame of them decoded;
    None where one cannot be opened or has no video.
    """
    found = []
    for path in tqdm(
        paths, desc="video headers", unit="file", leave=False, disable=None if len(paths) > 500 else True
    ):
        try:
            with open_container(file_of(path)) as container:
                stream = best_video_stream(container)
                if stream is None:
                    return None
                seconds = (
                    float(stream.duration * time_base(stream))
                    if stream.duration
                    else (container.duration or 0) / 1e6
                )
                if span := span_of(path):
                    seconds = span[1]
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
    task: Task, records: list[dict], training: Training | None, outside: Outside = NOTHING
) -> dict[str, list[dict]]:
    """{row: records answered without looking} of one task; a row that cannot be made is left out.

    outside: what is known of the records' videos.
    """
    rows = {NO_ACCIDENT: constant_answer(task, records)}
    if training is None:
        return rows
    answers, known = training.answers, training.outside
    times = _times(task, answers) if isinstance(task.answer, Timed) else None

    shares: dict[str, list[float]] = {}  # {row: how likely a Yes is}, of warnings

    def learn(row: str, known: np.ndarray, asked: np.ndarray) -> list[str]:
        if isinstance(task.answer, EarlyWarning):
            shares[row] = _share_of_yes(answers, known, asked)
        return _vote(answers, known, asked) if times is None else _mean_times(times, known, asked)

    ((usual, _),) = Counter(answers).most_common(1)
    said = {MOST_FREQUENT: [usual] * len(records)}
    if times is not None:
        said[MEAN_TIMES] = _in_words([times.mean(axis=0)] * len(records))
    if known.sources and outside.sources:
        kinds = sorted(set(known.sources))
        said[SOURCE] = learn(SOURCE, _one_hot(known.sources, kinds), _one_hot(outside.sources, kinds))
    if known.metadata and outside.metadata:
        codecs = sorted({header.codec for header in known.metadata})
        said[METADATA] = learn(
            METADATA, _features(known.metadata, codecs), _features(outside.metadata, codecs)
        )
    if known.motion and outside.motion:
        before, now = np.array(known.motion), np.array(outside.motion)
        moments = before[:, 0], now[:, 0]
        said[MOTION] = learn(MOTION, before[:, 1:], now[:, 1:]) if times is None else _moved(times, *moments)
    rows |= {name: with_answers(task, records, given) for name, given in said.items()}
    for name, likely in shares.items():
        rows[name] = [
            record | {"crash_probability": share} for record, share in zip(rows[name], likely, strict=True)
        ]
    return rows


def _vote(answers: list[str], known: np.ndarray, asked: np.ndarray) -> list[str]:
    """The most frequent answer of each leaf. known: float64[N, F]; asked: float64[M, F]."""
    return DecisionTreeClassifier(**TREE).fit(known, answers).predict(asked).tolist()


def _share_of_yes(answers: list[str], known: np.ndarray, asked: np.ndarray) -> list[float]:
    """float in 0 to 1: how often each leaf's answers begin with Yes. Shapes as for _vote."""
    yes = [float(answer.startswith("Yes")) for answer in answers]
    return DecisionTreeRegressor(**TREE).fit(known, yes).predict(asked).tolist()


def _mean_times(times: np.ndarray, known: np.ndarray, asked: np.ndarray) -> list[str]:
    """The mean times of each leaf. times: float64[N, K] in seconds."""
    said = DecisionTreeRegressor(**TREE).fit(known, times).predict(asked)
    return _in_words(said.reshape(len(asked), -1))


def _moved(times: np.ndarray, moments: np.ndarray, asked: np.ndarray) -> list[str]:
    """A moment of each video, moved by as much as half of the training videos' times lie behind theirs.

    times: float64[N, K]; moments: float64[N]; asked: float64[M]; all in seconds.
    """
    offsets = np.median(times - moments[:, None], axis=0)
    return _in_words(np.maximum(asked[:, None] + offsets, 0.0))


def _times(task: Task, answers: list[str]) -> np.ndarray:
    """float64[N, K]: annotated times in seconds, swapped ends put right."""
    return np.array([sorted(task.ground_truth(answer).values()) for answer in answers])


def _in_words(times: Iterable[Iterable[float]]) -> list[str]:
    """Times as answers in the annotations' form."""
    return [" - ".join(f"{time:.1f}" for time in row) + " seconds" for row in times]


def _one_hot(values: list[str], kinds: list[str]) -> np.ndarray:
    return np.array([[value == kind for kind in kinds] for value in values], dtype=float)


def _features(metadata: list[Metadata], codecs: list[str]) -> np.ndarray:
    sizes = np.array(
        [[header.width, header.height, header.fps, header.seconds] for header in metadata], dtype=float
    )
    return np.concatenate([sizes, _one_hot([header.codec for header in metadata], codecs)], axis=1)
