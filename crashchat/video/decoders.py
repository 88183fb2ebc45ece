"""The decoders: each takes a ReadPlan and gives its frames, or None where it does not trust the file.

Decoding is nearly all of the work, so what no wanted frame depends on is left out of it (see _droppable).
decord jumps to the wanted frames, but its bundled decoder is old (no AV1, no 10-bit HEVC) and its idea of a
file's frames is wrong for odd ones: it takes the n-th time in order for the n-th decoded frame.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import VideoReformatter

from crashchat.video.source import (
    WHOLE,
    Source,
    VideoError,
    check_timeline,
    frames_of,
    open_container,
    packets_of,
    video_stream,
)
from crashchat.video.timeline import Timeline, sample_indices, time_base, timeline_of

try:
    import decord
    from decord._ffi.base import DECORDLimitReachedError
    from decord.bridge.torchdl import to_torch
except ImportError:  # there is none for macOS and arm64: PyAV then reads VP8 and VP9 too, from start to end
    decord = None
else:
    decord.logging.set_level(decord.logging.QUIET)
logger = logging.getLogger(__name__)

# Frames decord hands over at a time.
DECORD_CHUNK = 8
# How far before a span reading starts, in seconds. A key frame's place in the file and its time can differ,
# and frames right behind one may need what lies before it; None: from the file's beginning.
RUN_UPS = (0.0, 2.0, 30.0, None)
# (frames uint8[n, 3, H, W], T frames in the clip) -> uint8[n, 3, h, w]
Resize = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class ReadPlan:
    """Which frames of a file are read, and how; made once, before anything is decoded.

    fps, max_frames: what was asked for. indices: int[T], numbers of the source frames in order of display;
    sorted, repeats allowed; empty where the packets tell no times. seconds: float[T], when each is shown.
    threads, resize: as for read_clip.
    """

    file: Path
    source: Source
    fps: float
    max_frames: int
    indices: list[int]
    seconds: list[float]
    threads: int
    resize: Resize
    # One for all frames: a frame alone makes its own each time, with a thread a core.
    reformatter: VideoReformatter = field(default_factory=VideoReformatter, repr=False, compare=False)

    @property
    def timeline(self) -> Timeline:
        """The times that the packets tell, for the decoders that are only given files whose packets do."""
        assert self.source.timeline is not None, "decode.py asks only read_through without a timeline"
        return self.source.timeline

    def by(self, timeline: Timeline) -> "ReadPlan":
        """The same plan for other times of the file's frames."""
        indices, seconds = sample_indices(timeline.pts, timeline.end, self.fps, self.max_frames)
        return replace(self, indices=indices, seconds=seconds)

    def picture(self, frame: av.VideoFrame) -> torch.Tensor:
        """uint8[1, 3, h, w] of a decoded frame, upright and resized."""
        return self.resize(self._upright(frame), len(self.indices))

    def _upright(self, frame: av.VideoFrame) -> torch.Tensor:
        """uint8[1, 3, H, W], channels last."""
        source = self.source
        # A size given here also holds where the picture size changes midway.
        image = self.reformatter.reformat(
            frame,
            width=source.width,
            height=source.height,
            format="rgb24",
            interpolation="BICUBIC",
            threads=self.threads,
        ).to_ndarray()
        turns = round(source.rotation / 90) % 4
        if turns:
            image = np.rot90(image, turns).copy()
        return torch.from_numpy(image)[None].permute(0, 3, 1, 2)

    @contextmanager
    def opened(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        """The file and its video stream, ready to decode."""
        with open_container(self.file) as container:
            stream = video_stream(self.file, container)
            stream.codec_context.thread_count = self.threads
            stream.thread_type = "AUTO"
            yield container, stream


def _droppable(packets: list[tuple[int, bool]], needed: set[int]) -> set[int]:
    """Numbers of the packets behind the last needed one of their group of pictures:
    nothing needed depends on them.

    A group that begins with frames shown before its key frame leans on the group before it.
    """
    droppable: set[int] = set()
    busy, earliest = False, None
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


def read_skipping(plan: ReadPlan) -> torch.Tensor | None:
    """Frames uint8[T, 3, h, w], decoding no more than they depend on;
    None where the file's are not what its packets tell.
    """
    ticks = plan.timeline.ticks
    places: dict[int, list[int]] = {}
    for place, index in enumerate(plan.indices):
        places.setdefault(ticks[index], []).append(place)
    # The first and the last frame must be there too, or the times are others than the packets'.
    needed = {*places, ticks[0], ticks[-1]}
    droppable = _droppable(plan.source.packets, needed)
    kept: dict[int, torch.Tensor] = {}
    number = -1
    with plan.opened() as (container, stream):
        for packet in packets_of(plan.file, container, stream):
            if packet.is_corrupt:
                return None
            if packet.size and not packet.is_discard:
                number += 1
                if number in droppable:
                    continue
                # The decoder passes over a frame that no other depends on.
                stream.codec_context.skip_frame = "DEFAULT" if packet.pts in needed else "NONREF"
            for frame in packet.decode():
                if frame.pts is None:
                    continue
                needed.discard(frame.pts)
                if frame.pts in places:
                    picture = plan.picture(frame)
                    for place in places.pop(frame.pts):
                        kept[place] = picture
    if needed:
        logger.info(
            "%s: %d of the wanted frames did not come out, it is decoded from start to end",
            plan.file,
            len(needed),
        )
        return None
    return torch.cat([kept[place] for place in range(len(plan.indices))])


def read_decord(plan: ReadPlan) -> torch.Tensor | None:
    """Frames uint8[T, 3, h, w], or None where decord sees another video than the packets tell of."""
    if decord is None:
        return None
    try:
        reader = decord.VideoReader(str(plan.file.absolute()), ctx=decord.cpu(0), num_threads=plan.threads)
        times = reader.get_frame_timestamp(range(len(reader)))[:, 0]
        pts = np.asarray(plan.timeline.pts)
        if len(times) != len(pts) or np.abs(times - times[0] - pts).max() > 2e-3:
            logger.info("%s: decord and PyAV disagree on its frames, PyAV reads it", plan.file)
            return None
        if reader[0].shape[:2] != (plan.source.height, plan.source.width):
            return None
        chunks = []
        for start in range(0, len(plan.indices), DECORD_CHUNK):
            frames = to_torch(reader.get_batch(plan.indices[start : start + DECORD_CHUNK])).permute(
                0, 3, 1, 2
            )
            chunks.append(plan.resize(frames, len(plan.indices)))
    except (
        decord.DECORDError,
        DECORDLimitReachedError,
        RuntimeError,
        AssertionError,
        UnicodeEncodeError,
    ) as error:
        logger.info(
            "%s: decord can't read it, PyAV tries (%s)", plan.file, str(error).strip().splitlines()[-1:]
        )
        return None
    return torch.cat(chunks)


def read_through(plan: ReadPlan) -> tuple[torch.Tensor, list[float]]:
    """(frames uint8[T, 3, h, w], seconds float[T]): decoded from start to end,
    holding one frame beside those that are kept.

    The plan tells which to keep. Where it has none, or chooses others by the decoded frames' own times, the
    file is read once more by those. Raises VideoError, and FFmpegError from the decoder.
    """
    file, source, planned = plan.file, plan.source, plan.source.timeline is not None
    for _ in range(2):
        with plan.opened() as (container, stream):
            frames, decoded = _decode(plan, container, stream)
        if not decoded.pts:
            raise VideoError(file, "no frame of it can be decoded")
        if source.timeline is not None and len(decoded.pts) < WHOLE * len(source.timeline.pts):
            found, expected = len(decoded.pts), len(source.timeline.pts)
            raise VideoError(file, f"damaged: {found} frames can be decoded of the {expected} in the file")
        check_timeline(file, decoded, source.promised_seconds)
        better = plan.by(decoded)
        if planned and (better.indices, better.seconds) == (plan.indices, plan.seconds):
            return torch.cat(frames), plan.seconds
        plan, planned = better, True
    raise VideoError(file, "two readings of it gave different frames; is it still being written?")


def read_around(plan: ReadPlan, span: tuple[float, float]) -> torch.Tensor:
    """Frames uint8[T, 3, h, w] of a span (start, end) in seconds,
    decoded from the key frame before it to its end.

    Raises VideoError, and FFmpegError from the decoder.
    """
    ticks = [plan.timeline.ticks[index] for index in plan.indices]
    wanted = sorted(set(ticks))
    pictures: dict[int, torch.Tensor] = {}
    for run_up in RUN_UPS:
        pictures = _decode_some(plan, wanted, run_up)
        if len(pictures) == len(wanted):
            return torch.cat([pictures[tick] for tick in ticks])
    lost = len(wanted) - len(pictures)
    frames = f"{lost} frame{'s' if lost > 1 else ''}"
    raise VideoError(plan.file, f"damaged: {frames} of {span[0]:.1f} - {span[1]:.1f} s can't be decoded")


def _decode_some(plan: ReadPlan, wanted: list[int], run_up: float | None) -> dict[int, torch.Tensor]:
    """{ticks: uint8[1, 3, h, w]} of those wanted frames (ticks, sorted) that decoding comes by."""
    pictures = {}
    with plan.opened() as (container, stream):
        if run_up is not None:
            before = max(wanted[0] - int(run_up / time_base(stream)), plan.timeline.ticks[0])
            container.seek(before, stream=stream, backward=True)
        clock = _Clock(container, stream)
        for frame in frames_of(plan.file, container, stream):
            ticks = clock.time(frame)
            if ticks in wanted and not frame.is_corrupt:
                pictures[ticks] = plan.picture(frame)
            if ticks >= wanted[-1]:
                break
    return pictures


def _decode(
    plan: ReadPlan, container: av.container.InputContainer, stream: av.VideoStream
) -> tuple[list[torch.Tensor], Timeline]:
    """One pass: the planned frames, T x uint8[1, 3, h, w], and every frame's time."""
    kept: list[torch.Tensor] = []
    times, clock = [], _Clock(container, stream)
    for number, frame in enumerate(frames_of(plan.file, container, stream)):
        times.append((clock.time(frame), frame.duration))
        if len(kept) < len(plan.indices) and plan.indices[len(kept)] == number:
            picture = plan.picture(frame)
            while len(kept) < len(plan.indices) and plan.indices[len(kept)] == number:
                kept.append(picture)
    return kept, timeline_of(times, stream) if times else Timeline([], 0.0, [])


class _Clock:
    """Decoded frames' times as ffmpeg takes them (libavcodec's best-effort timestamp,
    which PyAV doesn't show).

    The presentation time, until those have gone back more often than the decoding times have; from then on
    the latter. AVI stores none of the former (those seen are guesses). A frame without any comes one frame
    after the last.
    """

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream):
        self.stores_pts = container.format.name != "avi"
        rate = stream.average_rate or stream.guessed_rate or 25
        self.step = max(1, round(1 / (rate * time_base(stream))))
        self.last: dict[str, int] = {}
        self.faults = {"pts": 0, "dts": 0}
        self.next = 0

    def time(self, frame: av.VideoFrame) -> int:
        """In ticks of the stream's time base."""
        pts, dts = frame.pts if self.stores_pts else None, frame.dts
        for kind, value in (("pts", pts), ("dts", dts)):
            if value is not None:
                self.faults[kind] += kind in self.last and value <= self.last[kind]
                self.last[kind] = value
        now = pts if pts is not None and (dts is None or self.faults["pts"] <= self.faults["dts"]) else dts
        now = self.next if now is None else now
        self.next = now + (frame.duration or self.step)
        return now
