"""From a video file to the frames the model sees: which to take, decided once, and who fetches them.

    file ── probe (packet times) ── ReadPlan ─┬─ read_skipping   H.264: what nobody needs stays undecoded
                                              ├─ read_decord     evenly timed VP8 and VP9
                                              ├─ read_through    all else, and what the others refuse
                                              └─ read_around     a part of a recording

PyAV reads the packet times of every file first, without decoding. decord is only asked where frames are
evenly spaced and its own frame count and times are the same. A frame is made smaller as soon as it is
decoded, where the caller says how: a clip in full size may be gigabytes.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path

import torch
from av.error import FFmpegError

from crashchat.parts import file_of, span_of
from crashchat.video.decoders import ReadPlan, Resize, read_around, read_decord, read_skipping, read_through
from crashchat.video.source import Source, VideoError, probe
from crashchat.video.timeline import Timeline, sample_indices

# Formats whose key frames and presentation times are trusted.
INDEXED_FORMATS = {"mov", "mp4", "matroska", "webm"}
# What decord 0.6 is trusted with: codecs in which frames come in the order they are shown. Behind a jump it
# gives wrong frames, without a word, where H.264, HEVC or MPEG-4 have B frames and open groups of pictures.
DECORD_FORMATS = INDEXED_FORMATS | {"avi"}
DECORD_CODECS = {"vp8", "vp9"}
DECORD_PIXELS = {"yuv420p", "yuvj420p"}
REMEDY = "put it into another container: ffmpeg -i FILE -c copy OUT.mkv"


@dataclass
class Clip:
    """The sampled frames of one video.

    path: the file they come from.
    frames: uint8[T, 3, H, W], RGB, upright; a channels-last view (one image's pixels lie as H, W, 3 in
    memory).
    seconds: float[T], each frame's time from the stream's start.
    """

    path: str
    frames: torch.Tensor
    seconds: list[float]


def read_clip(
    path: str | Path,
    fps: float,
    max_frames: int,
    *,
    threads: int = 1,
    resize: Resize | None = None,
    source: Source | None = None,
    span: tuple[float, float] | None = None,
) -> Clip:
    """Read the frames of `path` that sample_indices picks at `fps` frames a second,
    at most `max_frames` of them.

    threads: decoding threads (1 where several worker processes read side by side; 0 lets the decoder choose).
    resize: applied to frames as they come (None: they keep the file's size). source: what probe said of the
    file, where that is known. span: (start, end) in seconds from the stream's start; then only that part is
    read, as if it were a clip of its own: its times count from the span's start. Reading starts at the key
    frame before it, so that its cost does not depend on the file's length. A path may name its part itself
    (parts.py).
    Raises VideoError as probe does, and for a span past the end or in a file whose frames carry no times,
    ValueError for a bad `fps` or `max_frames`. Keeps no state: threads and forked or spawned processes may
    call it.
    """
    file, span = file_of(path), span or span_of(path)
    plan = make_plan(file, source or probe(path), fps, max_frames, threads=threads, resize=resize, span=span)
    try:
        if span is not None:
            return Clip(str(file), read_around(plan, span), plan.seconds)
        frames = read_skipping(plan) if _skip_can(plan.source) else None
        if frames is None and _decord_can(plan.source):
            frames = read_decord(plan)
        if frames is not None:
            return Clip(str(file), frames, plan.seconds)
        return Clip(str(file), *read_through(plan))
    except FFmpegError as error:
        where = "midway" if span is None else f"in {span[0]:.1f} - {span[1]:.1f} s"
        raise VideoError(
            path, f"decoding failed {where}, the file is damaged or cut off ({error.strerror})"
        ) from error


def make_plan(
    file: Path,
    source: Source,
    fps: float,
    max_frames: int,
    *,
    threads: int = 1,
    resize: Resize | None = None,
    span: tuple[float, float] | None = None,
) -> ReadPlan:
    """What read_clip will read; see there.

    Raises VideoError for a span that the file does not have, ValueError.
    """
    indices: list[int] = []
    seconds: list[float] = []
    if span is not None:
        indices, seconds = _sample_span(file, source.timeline, span=span, fps=fps, max_frames=max_frames)
    elif source.timeline is not None:
        indices, seconds = sample_indices(source.timeline.pts, source.timeline.end, fps, max_frames)
    return ReadPlan(
        file=file,
        source=source,
        fps=fps,
        max_frames=max_frames,
        indices=indices,
        seconds=seconds,
        threads=threads,
        resize=resize or (lambda frames, count: frames),
    )


def _sample_span(
    file: Path, timeline: Timeline | None, span: tuple[float, float], fps: float, max_frames: int
) -> tuple[list[int], list[float]]:
    """sample_indices of a part of a timeline: indices in the whole file, seconds from the span's start.

    Raises VideoError.
    """
    start, end = span
    if timeline is None:
        raise VideoError(file, f"its frames carry no times to jump to; {REMEDY}")
    if not 0 <= start < min(end, timeline.end):
        raise VideoError(
            file, f"there is nothing between {start} and {end} s, the video lasts {timeline.end:.2f} s"
        )
    # What is on screen when the span begins belongs to it.
    first = max(bisect_right(timeline.pts, start + 1e-6) - 1, 0)
    times = [second - start for second in timeline.pts[first : bisect_left(timeline.pts, end)]]
    indices, seconds = sample_indices(times, min(end, timeline.end) - start, fps, max_frames)
    return [first + index for index in indices], seconds


def _skip_can(source: Source) -> bool:
    # Of H.264 alone a packet says for certain whether other frames depend on it.
    indexed = not INDEXED_FORMATS.isdisjoint(source.format.split(","))
    return source.timeline is not None and source.codec == "h264" and indexed


def _decord_can(source: Source) -> bool:
    return (
        source.timeline is not None
        and not DECORD_FORMATS.isdisjoint(source.format.split(","))
        and source.codec in DECORD_CODECS
        and source.pixels in DECORD_PIXELS
        and source.rotation == 0
        and source.timeline.even
    )
