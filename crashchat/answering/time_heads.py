"""Attention heads that look at the time that is asked for, and times read off them.

Which heads these are is found on annotated clips (`crashchat find-heads`). A head's attention to the frames,
divided by what it gives to that place of a video at any rate, is high where it looks; a time is read off the
mean of the best heads:

    relevance        ▁▁▂▁▂▅█▇▅▂▁▁        the highest frame, and its neighbours above the threshold
    interval              └──┘
    moment                 ┴

After arXiv 2605.21954 (heads of prefill, their usual attention taken out, the interval around the peak); how
heads and thresholds are chosen is ours.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from crashchat.errors import CrashChatError
from crashchat.json_files import Exact, Line, checked, read_json
from crashchat.metrics.localization import interval_iou
from crashchat.provenance import text_hash
from crashchat.tasks import TASKS

PLACES = 20  # of a video, evenly spread, at which usual attention is known
MOST_HEADS = 4
THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
TINY = 1e-9
Positive = Annotated[float, Field(gt=0)]


class HeadsError(CrashChatError):
    """A file of heads that cannot be used; the message says why."""


class Head(Exact):
    """One head of one layer."""

    layer: Annotated[int, Field(strict=True, ge=0)]
    head: Annotated[int, Field(strict=True, ge=0)]
    lift: float
    """Its attention to the frames of the time that is asked for, over its attention to any frame, both over
    the usual; the mean over clips."""
    usual: Annotated[list[Positive], Field(min_length=PLACES, max_length=PLACES)]
    """What it gives to a frame at the start of a video, … at its end, over the mean of all its frames."""


class TaskHeads(Exact):
    """How a task's times are read."""

    heads: Annotated[list[Head], Field(min_length=1)]
    threshold: Annotated[float, Field(ge=0, le=1)]
    """Between the lowest relevance of a clip (0) and the highest (1): what an interval's frames have."""
    score: float
    """Of the times read on the clips that the heads were chosen on: mean IoU; of moments minus the mean
    distance in seconds."""
    clips: Annotated[int, Field(strict=True, ge=1)]


class TimeHeads(Exact):
    """What `crashchat find-heads` writes."""

    format: Literal["crashchat.time_heads/1"] = "crashchat.time_heads/1"
    weights: dict[Line, Line]
    """{file or folder: SHA-256} of the model that they are heads of."""
    split: Line
    tasks: dict[Line, TaskHeads]

    @property
    def sha256(self) -> str:
        """Of all that it says."""
        return text_hash([self.model_dump_json()])


class Sample(NamedTuple):
    """A question on a clip of which the times are known.

    shares: float[layers, heads, frames] (attended.py). seconds: of each frame from the clip's start, and of
    the clip's end. times: what is annotated.
    """

    shares: np.ndarray
    seconds: list[float]
    times: list[float]


def read_heads(path: Path) -> TimeHeads:
    """A file that `crashchat find-heads` wrote. Raises HeadsError."""
    return checked(TimeHeads, read_json(path, HeadsError, "a file of heads"), path, HeadsError)


def check_fit(heads: TimeHeads, layers: int, count: int, path: Path) -> None:
    """Raises HeadsError for heads that a model of so many layers of `count` heads does not have."""
    for task, found in heads.tasks.items():
        for one in found.heads:
            if one.layer >= layers or one.head >= count:
                raise HeadsError(
                    f"{path}: {task}: head {one.head} of layer {one.layer} was chosen, and the model has "
                    f"{layers} layers of {count} heads; run crashchat find-heads with this model"
                )


def read_times(task: str, found: TaskHeads, shares: np.ndarray, seconds: Sequence[float]) -> list[float]:
    """A task's times on a clip, in tenths of a second: (start, end) or (time,).

    shares: float[layers, heads, frames] of its question, of a model that has the heads; seconds: see Sample.
    """
    relevance = np.mean([_over_usual(shares[one.layer, one.head], one.usual) for one in found.heads], axis=0)
    return _times(relevance, seconds, found.threshold, len(TASKS[task].answer.fields))


def choose_heads(task: str, samples: Sequence[Sample]) -> TaskHeads:
    """The heads whose times lie closest to those that are annotated, and the threshold that goes with them.

    samples: one at least.
    """
    heads = samples[0].shares.shape[1]
    usual = np.mean([_at_places(sample.shares) for sample in samples], axis=0)
    lifts = np.mean([_lift(sample, usual) for sample in samples], axis=0)
    best = np.argsort(-lifts, axis=None, kind="stable")[:MOST_HEADS]
    ranked = [
        Head(
            layer=int(index // heads),
            head=int(index % heads),
            lift=round(float(lifts.flat[index]), 4),
            usual=[round(max(float(value), TINY), 6) for value in usual[index // heads, index % heads]],
        )
        for index in best
    ]
    tried = [
        TaskHeads(heads=ranked[:count], threshold=threshold, score=0.0, clips=len(samples))
        for count in range(1, len(ranked) + 1)
        for threshold in THRESHOLDS
    ]
    scores = [np.mean([_score(task, one, sample) for sample in samples]) for one in tried]
    chosen = int(np.argmax(scores))
    return tried[chosen].model_copy(update={"score": round(float(scores[chosen]), 4)})


def _lift(sample: Sample, usual: np.ndarray) -> np.ndarray:
    """float[layers, heads]: relevance of the annotated frames over that of all."""
    middles = np.array(sample.seconds[:-1])
    asked = (middles >= sample.times[0] - TINY) & (middles <= sample.times[-1] + TINY)
    if not asked.any():  # a moment, or less than a frame
        asked[np.abs(middles - np.mean(sample.times)).argmin()] = True
    layers, heads, _ = sample.shares.shape
    relevance = np.array(
        [
            [_over_usual(sample.shares[layer, head], usual[layer, head]) for head in range(heads)]
            for layer in range(layers)
        ]
    )
    return relevance[..., asked].mean(axis=-1)


def _score(task: str, found: TaskHeads, sample: Sample) -> float:
    times = read_times(task, found, sample.shares, sample.seconds)
    if len(times) == 1:
        return -abs(times[0] - sample.times[0])
    (start, end), (true_start, true_end) = times, sample.times
    return interval_iou((true_start, true_end), (start, end))


def _at_places(shares: np.ndarray) -> np.ndarray:
    """float[layers, heads, PLACES] of float[layers, heads, frames]: attention over its mean."""
    count = shares.shape[-1]
    at, of = np.linspace(0, 1, PLACES), np.linspace(0, 1, count)
    means = np.maximum(shares.mean(axis=-1, keepdims=True), TINY)
    flat = (shares / means).reshape(-1, count)
    return np.array([np.interp(at, of, one) for one in flat]).reshape(*shares.shape[:-1], PLACES)


def _over_usual(shares: np.ndarray, usual: Sequence[float] | np.ndarray) -> np.ndarray:
    """float[frames] of one head: its attention over the usual, with a mean of 1."""
    expected = np.interp(np.linspace(0, 1, len(shares)), np.linspace(0, 1, PLACES), usual)
    relevance = shares / np.maximum(expected, TINY)
    return relevance / max(float(relevance.mean()), TINY)


def _times(relevance: np.ndarray, seconds: Sequence[float], threshold: float, count: int) -> list[float]:
    peak = int(relevance.argmax())
    if count == 1:
        return [round(seconds[peak], 1)]
    lowest = float(relevance.min())
    enough = relevance >= lowest + threshold * (float(relevance[peak]) - lowest)
    first = last = peak
    while first > 0 and enough[first - 1]:
        first -= 1
    while last + 1 < len(relevance) and enough[last + 1]:
        last += 1
    return [round(seconds[first], 1), round(seconds[last + 1], 1)]
