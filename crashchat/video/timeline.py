"""When each frame of a video stands, and which frames are taken: one sampling rule."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np

# Frame steps within this share of the usual one count as even. Clocks round: 120 fps in milliseconds is 8, 8,
# 9.
EVEN = 0.2


@dataclass
class Timeline:
    """Seconds from the stream's start: `pts` of each source frame, in order of display;
    `end` of the last one.

    ticks: the same times as `pts`, as they stand in the file, in units of the stream's time base.
    """

    pts: list[float]
    end: float
    ticks: list[int]

    @property
    def even(self) -> bool:
        """Whether the frame rate is constant."""
        steps = np.diff(self.pts)
        return (
            bool(np.all(np.abs(steps - np.median(steps)) <= EVEN * np.median(steps))) if len(steps) else True
        )


def sample_indices(
    pts_seconds: Sequence[float], end_seconds: float, fps: float, max_frames: int
) -> tuple[list[int], list[float]]:
    """Which source frames to show, and when: (source indices int[T],
    seconds float[T]). docs/reference.md, Frames.

    pts_seconds: float[n], presentation times from the stream's start; end_seconds: where the last frame's
    display ends. Output frame k is the last source frame with time < (k+1)/fps and stands at k/fps. floor(end
    * fps) of them come out, as from ffmpeg's `fps=…:round=down`, but never fewer than one, so that a clip
    shorter than 1/fps is still seen. Of more than `max_frames`, the evenly spaced linspace(0, n-1,
    max_frames, dtype=int) stay. Raises ValueError on no frames, or on a rate or limit that isn't positive.
    """
    if not len(pts_seconds):
        raise ValueError("no frames to sample from")
    if not fps > 0 or max_frames < 1:
        raise ValueError(f"fps and max_frames must be positive, found {fps} and {max_frames}")
    # Times are ticks of a time base, so one on a boundary may come out a rounding error below it.
    slack = 1e-6
    # A step back in time shows nothing earlier than what was already on screen.
    slots = np.floor(np.maximum.accumulate(np.asarray(pts_seconds, dtype=np.float64)) * fps + slack)
    count = max(1, int(np.floor(end_seconds * fps + slack)))
    # Never all `count` of them: times far apart would make that many gigabytes.
    outputs = np.linspace(0, count - 1, max_frames, dtype=int) if count > max_frames else np.arange(count)
    # First source frame that belongs to a later slot, less one; nothing precedes the first frame.
    indices = np.maximum(np.searchsorted(slots, outputs, side="right") - 1, 0)
    return indices.tolist(), (outputs / fps).tolist()


def time_base(stream: av.VideoStream) -> Fraction:
    """Seconds of a tick of the stream's times."""
    assert stream.time_base is not None, "ffmpeg gives every stream that it reads a time base"
    return stream.time_base


def timeline_of(times: Sequence[tuple[int, int | None]], stream: av.VideoStream) -> Timeline:
    """(pts, duration) of each frame in ticks, in order of display -> seconds from the first frame."""
    start, tick = times[0][0], float(time_base(stream))
    last_pts, last_duration = times[-1]
    if last_duration:
        last_seconds = last_duration * tick
    elif stream.average_rate:
        last_seconds = float(1 / stream.average_rate)
    else:  # The usual step between frames; of a single frame nothing is known.
        last_seconds = (last_pts - start) * tick / max(len(times) - 1, 1)
    ticks = [pts for pts, _ in times]
    return Timeline([(pts - start) * tick for pts in ticks], (last_pts - start) * tick + last_seconds, ticks)
