"""What can be measured of clips without understanding them: picture, frame rate, length, brightness.

Over a set of clips these spread; a clip far outside that is unlike the set, and what a model that learnt on
the set says of it is worth less.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydantic import ConfigDict, Field
from torch import Tensor, int64

from crashchat.json_files import Exact
from crashchat.parts import span_of
from crashchat.video.decode import read_clip
from crashchat.video.source import Source, VideoError, probe

MEASURED = 200  # clips of a set whose headers are read, evenly chosen
LOOKED_AT = 30  # of these, evenly chosen, whose brightness is measured
FRAMES = 4  # of a clip, from which its brightness is
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
# How far outside the middle nine tenths of a set a clip may lie and still be like it: a ratio, and of
# brightness a difference.
RATIO, DIFFERENCE = 1.5, 0.1


class Spread(Exact):
    """How a measure spreads over a set of clips."""

    model_config = ConfigDict(frozen=True)

    least: float
    low: float
    """One clip in twenty lies below."""
    middle: float
    """The median."""
    high: float
    """One clip in twenty lies above."""
    greatest: float


class ClipSpreads(Exact):
    """How the measures of a set's clips spread; none where no clip has it."""

    model_config = ConfigDict(frozen=True)

    videos: int = Field(ge=1)
    """How many clips were measured."""
    width: Spread
    """Pixels of the upright picture."""
    height: Spread
    """Pixels of the upright picture."""
    fps: Spread | None
    """Frames a second of the files, before any are chosen."""
    seconds: Spread | None
    """How long the clips last."""
    brightness: Spread | None
    """Mean of a clip's pixels: 0 black, 1 white."""


@dataclass(frozen=True)
class Measures:
    """What was measured of one clip; None where it is not known.

    width, height: pixels of the upright picture. fps: frames a second of the file. brightness: mean of its
    pixels, 0 black to 1 white.
    """

    width: int
    height: int
    fps: float | None
    seconds: float | None
    brightness: float | None = None


def measures_of(source: Source) -> Measures:
    """What a file's headers and packets tell; not its brightness."""
    width, height = source.width, source.height
    if source.rotation % 180:
        width, height = height, width
    timeline = source.timeline
    fps = len(timeline.pts) / timeline.end if timeline and timeline.end > 0 else None
    return Measures(width, height, fps, timeline.end if timeline else source.promised_seconds)


def brightness_of(pixels: Tensor) -> float:
    """uint8[…] pixels -> their mean, 0 black to 1 white."""
    return int(pixels.sum(dtype=int64)) / (255 * pixels.numel())


def measure_clips(paths: Sequence[Path]) -> ClipSpreads | None:
    """How the measures of a set's clips spread, from MEASURED of them; None where none can be read.

    One that cannot be read is named on stderr and left out.
    """
    found: list[Measures] = []
    chosen = [paths[index] for index in _evenly(len(paths), MEASURED)]
    looked_at = {chosen[index] for index in _evenly(len(chosen), LOOKED_AT)}
    for path in chosen:
        try:
            source = probe(path)
            measures = measures_of(source)
            if span := span_of(path):
                measures = replace(measures, seconds=span[1] - span[0])
            if path in looked_at:
                rate = FRAMES / measures.seconds if measures.seconds else 1.0
                frames = read_clip(path, rate, FRAMES, source=source).frames
                measures = replace(measures, brightness=brightness_of(frames))
            found.append(measures)
        except VideoError as error:
            print(f"warning: left out where training clips are measured: {error}", file=sys.stderr)
    if not found:
        return None
    spreads = {
        name: _spread([value for one in found if (value := getattr(one, name)) is not None])
        for name in ("width", "height", "fps", "seconds", "brightness")
    }
    return ClipSpreads.model_validate({"videos": len(found), **spreads})


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly apart."""
    return np.linspace(0, count - 1, min(count, most), dtype=int).tolist() if count else []


def _spread(values: list[float]) -> Spread | None:
    if not values:
        return None
    rounded = [round(float(value), 4) for value in np.quantile(values, QUANTILES)]
    return Spread.model_validate(dict(zip(Spread.model_fields, rounded, strict=True)))


def unlike(clip: Measures, spreads: ClipSpreads, whose: str) -> list[str]:
    """A sentence for each measure in which a clip lies outside what a set's middle nine tenths span, and
    RATIO (of brightness DIFFERENCE) more to either side; both figures are in it.

    whose: what the set is called, e.g. "the training clips of heterogeneous".
    """
    found = []
    if _outside(clip.width, spreads.width) or _outside(clip.height, spreads.height):
        sizes = f"{_range(spreads.width)} x {_range(spreads.height)}"
        found.append(f"Its picture is {clip.width} x {clip.height} pixels; that of {whose} is {sizes}.")
    if clip.fps is not None and spreads.fps and _outside(clip.fps, spreads.fps):
        found.append(f"Its frame rate is {clip.fps:.4g} a second; that of {whose} is {_range(spreads.fps)}.")
    if clip.seconds is not None and spreads.seconds and _outside(clip.seconds, spreads.seconds):
        found.append(f"It lasts {clip.seconds:.1f} s; {whose} last {_range(spreads.seconds)} s.")
    light = spreads.brightness
    if (
        clip.brightness is not None
        and light
        and not light.low - DIFFERENCE <= clip.brightness <= light.high + DIFFERENCE
    ):
        found.append(
            f"Its brightness is {clip.brightness:.2f} (0 is black, 1 white); that of {whose} is "
            f"{_range(light)}."
        )
    return found


def _outside(value: float, spread: Spread) -> bool:
    return not spread.low / RATIO <= value <= spread.high * RATIO


def _range(spread: Spread) -> str:
    low, high = f"{spread.low:.4g}", f"{spread.high:.4g}"
    return low if low == high else f"{low}–{high}"
