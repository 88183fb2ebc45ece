"""From a video file to the frames the model sees: what to take (video_source.py), and the decoders that fetch it.

    file ── probe (PyAV: packet times, one frame) ── sample_indices ─┬─ PyAV     H.264: frames nobody needs stay undecoded
                                                                     ├─ decord   evenly timed VP8 and VP9
                                                                     └─ PyAV     all else, and what the others refuse

PyAV reads the packet times of every file first, without decoding. Decoding is nearly all of the work, so what no wanted frame
depends on is left out of it (see _droppable). decord jumps to the wanted frames, but its bundled decoder is old (no AV1, no
10-bit HEVC) and its idea of a file's frames is wrong for odd ones: it takes the n-th time in order for the n-th decoded frame.
So it is only asked where frames are evenly spaced and its own frame count and times are the same.

A frame is made smaller as soon as it is decoded, where the caller says how: a clip in full size may be gigabytes.
"""

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import av
import decord
import numpy as np
import torch
from av.error import FFmpegError
from decord._ffi.base import DECORDLimitReachedError
from decord.bridge.torchdl import to_torch

from crashchat.video_source import (
    WHOLE,
    Source,
    Timeline,
    VideoError,
    check_timeline,
    frames_of,
    open_container,
    packets_of,
    probe,
    sample_indices,
    timeline_of,
    video_stream,
)

decord.logging.set_level(decord.logging.QUIET)
logger = logging.getLogger(__name__)

# Formats whose key frames and presentation times are trusted.
INDEXED_FORMATS = {"mov", "mp4", "matroska", "webm"}
# What decord 0.6 is trusted with: codecs in which frames come in the order they are shown. Behind a jump it gives wrong frames,
# without a word, where H.264, HEVC or MPEG-4 have B frames and open groups of pictures.
DECORD_FORMATS = INDEXED_FORMATS | {"avi"}
DECORD_CODECS = {"vp8", "vp9"}
DECORD_PIXELS = {"yuv420p", "yuvj420p"}
REMEDY = "put it into another container: ffmpeg -i FILE -c copy OUT.mkv"
# Frames decord hands over at a time.
DECORD_CHUNK = 8
# (frames uint8[n, 3, H, W], T frames in the clip) -> uint8[n, 3, h, w]
Resize = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass
class Clip:
    """The sampled frames of one video.

    path: the file they come from.
    frames: uint8[T, 3, H, W], RGB, upright; a channels-last view (one image's pixels lie as H, W, 3 in memory).
    seconds: float[T], each frame's time from the stream's start.
    """

    path: str
    frames: torch.Tensor
    seconds: list[float]


def read_clip(
    path: str | Path,
    fps: float,
    max_frames: int,
    threads: int = 1,
    resize: Resize | None = None,
    source: Source | None = None,
    span: tuple[float, float] | None = None,
) -> Clip:
    """Read the frames of `path` that sample_indices picks at `fps` frames a second, at most `max_frames` of them.

    threads: decoding threads (1 where several worker processes read side by side; 0 lets the decoder choose).
    resize: applied to frames as they come (None: they keep the file's size). source: what probe said of the file, where that is
    known. span: (start, end) in seconds from the stream's start; then only that part is read, as if it were a clip of its own:
    its times count from the span's start. Reading starts at the key frame before it, so that its cost does not depend on the
    file's length.
    Raises VideoError as probe does, and for a span past the end or in a file whose frames carry no times, ValueError
    for a bad `fps` or `max_frames`. Keeps no state: threads and forked or spawned processes may call it.
    """
    file = Path(path)
    source = source or probe(path)
    resize = resize or (lambda frames, count: frames)
    try:
        if span is not None:
            return _read_span(file, source, span, fps, max_frames, threads, resize)
        if _skip_can(source):
            clip = _read_skipping(file, source, fps, max_frames, threads, resize)
            if clip is not None:
                return clip
        if _decord_can(source):
            clip = _read_decord(file, source, fps, max_frames, threads, resize)
            if clip is not None:
                return clip
        return _read_pyav(file, source, fps, max_frames, threads, resize)
    except FFmpegError as error:
        where = "midway" if span is None else f"in {span[0]:.1f} - {span[1]:.1f} s"
        raise VideoError(path, f"decoding failed {where}, the file is damaged or cut off ({error.strerror})") from error


def _skip_can(source: Source) -> bool:
    # Of H.264 alone a packet says for certain whether other frames depend on it.
    indexed = not INDEXED_FORMATS.isdisjoint(source.format.split(","))
    return source.timeline is not None and source.codec == "h264" and indexed


def _droppable(packets: list[tuple[int | None, bool]], needed: set[int]) -> set[int]:
    """Numbers of the packets behind the last needed one of their group of pictures: nothing needed depends on them.

    A group that begins with frames shown before its key frame leans on the group before it.
    """
    droppable, busy, earliest = set(), False, None
    for number in reversed(range(len(packets))):
        pts, is_key = packets[number]
        busy = busy or pts in needed
        earliest = pts if earliest is None else min(earliest, pts)
        if not busy:
            droppable.add(number)
        if is_key:
            busy = busy and earliest < pts
            earliest = None
    return droppable


def _read_skipping(file: Path, source: Source, fps: float, max_frames: int, threads: int, resize: Resize) -> Clip | None:
    """The clip, decoding no more than its frames depend on, or None where the file's frames aren't what its packets tell."""
    timeline = source.timeline
    indices, seconds = sample_indices(timeline.pts, timeline.end, fps, max_frames)
    places: dict[int, list[int]] = {}
    for place, index in enumerate(indices):
        places.setdefault(timeline.ticks[index], []).append(place)
    # The first and the last frame must be there too, or the times are others than the packets'.
    needed = {*places, timeline.ticks[0], timeline.ticks[-1]}
    droppable = _droppable(source.packets, needed)
    kept: list[torch.Tensor | None] = [None] * len(indices)
    number = -1
    with open_container(file) as container:
        stream = video_stream(file, container)
        stream.codec_context.thread_count = threads
        stream.thread_type = "AUTO"
        for packet in packets_of(file, container, stream):
            if packet.is_corrupt:
                return None
            if packet.size and not packet.is_discard:
                number += 1
                if number in droppable:
                    continue
                # The decoder passes over a frame that no other depends on.
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
            for frame in packet.decode():
                needed.discard(frame.pts)
                if frame.pts in places:
                    picture = resize(_picture(frame, source), len(indices))
                    for place in places.pop(frame.pts):
                        kept[place] = picture
    if needed:
        logger.info("%s: %d of the wanted frames did not come out, it is decoded from start to end", file, len(needed))
        return None
    return Clip(str(file), torch.cat(kept), seconds)


def _decord_can(source: Source) -> bool:
    return (
        source.timeline is not None
        and not DECORD_FORMATS.isdisjoint(source.format.split(","))
        and source.codec in DECORD_CODECS
        and source.pixels in DECORD_PIXELS
        and source.rotation == 0
        and source.timeline.even
    )


def _read_decord(file: Path, source: Source, fps: float, max_frames: int, threads: int, resize: Resize) -> Clip | None:
    """The clip, or None where decord sees another video than the packets tell of (PyAV then reads it)."""
    indices, seconds = sample_indices(source.timeline.pts, source.timeline.end, fps, max_frames)
    try:
        reader = decord.VideoReader(str(file.absolute()), ctx=decord.cpu(0), num_threads=threads)
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        pts = np.asarray(source.timeline.pts)
        if len(times) != len(pts) or np.abs(times - times[0] - pts).max() > 2e-3:
            logger.info("%s: decord and PyAV disagree on its frames, PyAV reads it", file)
            return None
        if reader[0].shape[:2] != (source.height, source.width):
            return None
        chunks = []
        for start in range(0, len(indices), DECORD_CHUNK):
            frames = to_torch(reader.get_batch(indices[start : start + DECORD_CHUNK])).permute(0, 3, 1, 2)
            chunks.append(resize(frames, len(indices)))
    except (decord.DECORDError, DECORDLimitReachedError, RuntimeError, AssertionError, UnicodeEncodeError) as error:
        logger.info("%s: decord can't read it, PyAV tries (%s)", file, str(error).strip().splitlines()[-1:])
        return None
    return Clip(str(file), torch.cat(chunks), seconds)


def _read_pyav(file: Path, source: Source, fps: float, max_frames: int, threads: int, resize: Resize) -> Clip:
    """Decode from start to end, holding one frame beside those that are kept.

    The packets' times tell which to keep. Where there are none, or the decoded frames' own times choose others, the file is
    read once more by those. Raises VideoError, and FFmpegError from the decoder.
    """
    timeline = source.timeline
    for _ in range(2):
        indices, seconds = sample_indices(timeline.pts, timeline.end, fps, max_frames) if timeline else ([], [])
        with open_container(file) as container:
            stream = video_stream(file, container)
            stream.codec_context.thread_count = threads
            stream.thread_type = "AUTO"
            frames, decoded = _decode(file, container, stream, indices, source, resize)
        if not decoded.pts:
            raise VideoError(file, "no frame of it can be decoded")
        if source.timeline is not None and len(decoded.pts) < WHOLE * len(source.timeline.pts):
            found, expected = len(decoded.pts), len(source.timeline.pts)
            raise VideoError(file, f"damaged: {found} frames can be decoded of the {expected} in the file")
        check_timeline(file, decoded, source.promised_seconds)
        if timeline is not None and sample_indices(decoded.pts, decoded.end, fps, max_frames) == (indices, seconds):
            return Clip(str(file), torch.cat(frames), seconds)
        timeline = decoded
    raise VideoError(file, "two readings of it gave different frames; is it still being written?")


# How far before a span reading starts, in seconds. A key frame's place in the file and its time can differ, and frames right
# behind one may need what lies before it; None: from the file's beginning.
_RUN_UPS = (0.0, 2.0, 30.0, None)


def _read_span(
    file: Path, source: Source, span: tuple[float, float], fps: float, max_frames: int, threads: int, resize: Resize
) -> Clip:
    """Decode from the key frame before a span to its end. Raises VideoError, and FFmpegError from the decoder."""
    start, end = span
    timeline = source.timeline
    if timeline is None:
        raise VideoError(file, f"its frames carry no times to jump to; {REMEDY}")
    if not 0 <= start < min(end, timeline.end):
        raise VideoError(file, f"there is nothing between {start} and {end} s, the video lasts {timeline.end:.2f} s")
    # What is on screen when the span begins belongs to it.
    first = max(bisect_right(timeline.pts, start + 1e-6) - 1, 0)
    times = [second - start for second in timeline.pts[first : bisect_left(timeline.pts, end)]]
    indices, seconds = sample_indices(times, min(end, timeline.end) - start, fps, max_frames)
    wanted = sorted({timeline.ticks[first + index] for index in indices})
    for run_up in _RUN_UPS:
        pictures = _decode_some(file, source, wanted, run_up, threads, lambda frames: resize(frames, len(indices)))
        if len(pictures) == len(wanted):
            return Clip(str(file), torch.cat([pictures[timeline.ticks[first + index]] for index in indices]), seconds)
    raise VideoError(file, f"damaged: {len(wanted) - len(pictures)} frames of {start:.1f} - {end:.1f} s can't be decoded")


def _decode_some(
    file: Path,
    source: Source,
    wanted: list[int],
    run_up: float | None,
    threads: int,
    resize: Callable[[torch.Tensor], torch.Tensor],
) -> dict[int, torch.Tensor]:
    """{ticks: uint8[1, 3, h, w]} of those wanted frames (ticks, sorted) that decoding comes by."""
    pictures = {}
    with open_container(file) as container:
        stream = video_stream(file, container)
        stream.codec_context.thread_count = threads
        stream.thread_type = "AUTO"
        if run_up is not None:
            before = max(wanted[0] - int(run_up / stream.time_base), source.timeline.ticks[0])
            container.seek(before, stream=stream, backward=True)
        clock = _Clock(container, stream)
        for frame in frames_of(file, container, stream):
            ticks = clock.time(frame)
            if ticks in wanted and not frame.is_corrupt:
                pictures[ticks] = resize(_picture(frame, source))
            if ticks >= wanted[-1]:
                break
    return pictures


class _Clock:
    """Decoded frames' times as ffmpeg takes them (libavcodec's best-effort timestamp, which PyAV doesn't show).

    The presentation time, until those have gone back more often than the decoding times have; from then on the latter.
    AVI stores none of the former (those seen are guesses). A frame without any comes one frame after the last.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self.stores_pts = container.format.name != "avi"
        rate = stream.average_rate or stream.guessed_rate or 25
        self.step = max(1, round(1 / (rate * stream.time_base)))
        self.last = {"pts": None, "dts": None}
        self.faults = {"pts": 0, "dts": 0}
        self.next = 0

    def time(self, frame: av.VideoFrame) -> int:
        """In ticks of the stream's time base."""
        pts, dts = frame.pts if self.stores_pts else None, frame.dts
        for kind, value in (("pts", pts), ("dts", dts)):
            if value is not None:
                self.faults[kind] += self.last[kind] is not None and value <= self.last[kind]
                self.last[kind] = value
        now = pts if pts is not None and (dts is None or self.faults["pts"] <= self.faults["dts"]) else dts
        now = self.next if now is None else now
        self.next = now + (frame.duration or self.step)
        return now


def _picture(frame: av.VideoFrame, source: Source) -> torch.Tensor:
    """uint8[1, 3, H, W], upright, channels last."""
    # A size given here also holds where the picture size changes midway.
    image = frame.to_ndarray(format="rgb24", width=source.width, height=source.height, interpolation="BICUBIC")
    turns = round(source.rotation / 90) % 4
    if turns:
        image = np.rot90(image, turns).copy()
    return torch.from_numpy(image)[None].permute(0, 3, 1, 2)


def _decode(
    file: Path, container: av.container.InputContainer, stream: av.VideoStream, indices: list[int], source: Source, resize: Resize
) -> tuple[list[torch.Tensor], Timeline]:
    """One pass: the frames at `indices` (sorted, repeats allowed), T x uint8[1, 3, h, w], and every frame's time."""
    kept: list[torch.Tensor] = []
    times, clock = [], _Clock(container, stream)
    for number, frame in enumerate(frames_of(file, container, stream)):
        times.append((clock.time(frame), frame.duration))
        if len(kept) < len(indices) and indices[len(kept)] == number:
            picture = resize(_picture(frame, source), len(indices))
            while len(kept) < len(indices) and indices[len(kept)] == number:
                kept.append(picture)
    return kept, timeline_of(times, stream) if times else Timeline([], 0.0, [])
