"""A clip as it is read for an analysis: its windows, and its frames for the model and for people."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from crashchat.analysis.windows import WindowSettings, plan
from crashchat.answering.answerer import MAX_VIDEOS
from crashchat.video.decode import Clip, read_clip
from crashchat.video.film_strip import STRIP_HEIGHT
from crashchat.video.reading import read_span
from crashchat.video.source import Source, VideoError, probe
from crashchat.video.tokens import VideoSettings, VisualTokens, resize_frames, tokens_of_clip


@dataclass
class Reading:
    """A clip that was read before the model is free for it.

    shown: what read_and_show gives; None of a recording, which is read window by window. error: why it
    cannot be read.
    """

    source: Source | None = None
    shown: tuple[VisualTokens, Tensor] | None = None
    error: VideoError | None = None


def read_before(path: Path, settings: VideoSettings, windows: WindowSettings) -> Reading:
    """Read a clip; never raises a VideoError."""
    reading = Reading()
    try:
        reading.source = probe(path)
        if len(spans_of(reading.source, windows)) == 1:
            reading.shown = read_and_show(path, settings, reading.source)
    except VideoError as error:
        reading.error = error
    return reading


def spans_of(source: Source, windows: WindowSettings) -> list[tuple[float, float]]:
    """The windows of a clip; one where it is not cut."""
    seconds = seconds_of(source)
    frames = source.timeline.pts if source.timeline else []
    return [(0.0, 0.0)] if seconds is None else plan(round(seconds, 3), windows, frames)


def seconds_of(source: Source) -> float | None:
    """How long a clip is; where its frames carry no times, as the file promises."""
    return source.timeline.end if source.timeline else source.promised_seconds


def read_ahead(
    path: Path, source: Source, spans: list[tuple[float, float]], numbers: list[int], settings: VideoSettings
) -> Iterator[tuple[int, VisualTokens | VideoError]]:
    """Some of the windows, by their numbers; the next ones are read while the model looks at those before."""

    def read(number: int) -> VisualTokens | VideoError:
        try:
            return read_span(path, settings, spans[number], source)
        except VideoError as error:
            return error

    with ThreadPoolExecutor(1) as reader:
        waiting: deque[tuple[int, Future]] = deque()
        try:
            for number in numbers:
                waiting.append((number, reader.submit(read, number)))
                if len(waiting) > MAX_VIDEOS:
                    first, reading = waiting.popleft()
                    yield first, reading.result()
            for first, reading in waiting:
                yield first, reading.result()
        finally:
            reader.shutdown(cancel_futures=True)


def read_and_show(path: Path, settings: VideoSettings, source: Source) -> tuple[VisualTokens, Tensor]:
    """A clip as the model takes it in, and its frames as uint8[T, 3, STRIP_HEIGHT, ·] to show to people.

    Frames are decoded once and never held in full size: each is resized twice as it comes, and the one result
    travels below the other in a common picture. Raises VideoError.
    """
    sizes: dict[str, tuple[int, int]] = {}

    def resize(frames: Tensor, num_frames: int) -> Tensor:
        model = resize_frames(frames, num_frames, settings.vision)
        width = max(1, round(frames.shape[3] * STRIP_HEIGHT / frames.shape[2]))
        shown = interpolate(frames, size=(STRIP_HEIGHT, width), mode="bilinear", antialias=True)
        for name, part in (("model", model), ("shown", shown)):
            sizes[name] = (part.shape[2], part.shape[3])
        widest = max(model.shape[3], width)
        return torch.cat([pad(part, (0, widest - part.shape[3])) for part in (model, shown)], dim=2)

    clip = read_clip(path, settings.fps, settings.max_frames, threads=0, resize=resize, source=source)
    (height, width), (_, shown_width) = sizes["model"], sizes["shown"]
    visual = tokens_of_clip(Clip(clip.path, clip.frames[:, :, :height, :width], clip.seconds), settings)
    return visual, clip.frames[:, :, height:, :shown_width]
