"""A clip as it is read for an analysis: its windows, and its frames for the model and for people."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate, pad

from crashchat.analysis.windows import WindowSettings, plan
from crashchat.video.decode import Clip, read_clip
from crashchat.video.film_strip import STRIP_HEIGHT
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
