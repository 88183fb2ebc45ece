"""What a video file says of itself before it is decoded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.error import FFmpegError

from crashchat.errors import CrashChatError
from crashchat.parts import file_of
from crashchat.video.timeline import Timeline, time_base, timeline_of

# Of one picture: 8K video has 33 million, and a decoder takes memory for all of them. A file of 1 MB may
# promise 256 million.
MOST_PIXELS = 36_000_000
# The longer side by the shorter: a picture of one line may be as wide as a million pixels once it is as high
# as a film strip.
MOST_OBLONG = 32
# A clip is one file. Formats that are lists of other files or addresses would let a clip from somewhere have
# those read.
_LISTS = {"hls", "dash", "concat", "sdp", "rtsp", "rtp", "imf", "image2", "lavfi"}
_FORMATS = ",".join(sorted(av.formats_available - _LISTS))
# Opening may decode a picture already, so that the limit is needed there too.
_DECODER_OPTIONS = {"max_pixels": str(MOST_PIXELS)}
# How a file is opened, by PyAV and by the ffmpeg program alike.
OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS} | _DECODER_OPTIONS
# Seconds that one frame may stand. A time-lapse or a camera that records movement alone may wait for hours;
# what waits longer has a damaged time stamp. So a recording's length is bounded by its packets.
LONGEST_FRAME = 24 * 3600
# A file that yields less than this share of what its header promises is cut off, not merely rounded.
WHOLE = 0.9


class VideoError(CrashChatError):
    """A video that can't be read; the message holds the path and the cause."""

    def __init__(self, path: str | Path, cause: str):
        super().__init__(f"{path}: {cause}")
        self.path = str(path)
        self.cause = cause

    def __reduce__(
        self,
    ):  # A worker process sends this to its parent by pickle, which would lose the second argument.
        return type(self), (self.path, self.cause)


@dataclass
class Source:
    """What a file's headers and packets say. `timeline` is None where packets carry no usable times.

    packets: (ticks, whether it is a key frame) of each packet that is shown, in order of decoding; those
    without a time are left out.
    """

    format: str
    codec: str
    pixels: str
    rotation: int
    height: int
    width: int
    promised_seconds: float | None
    timeline: Timeline | None
    packets: list[tuple[int, bool]]


def check_file(path: str | Path) -> None:
    """Raises VideoError for a path that is no file with something in it: missing, empty, a folder,
    a device, too long a name.
    """
    file = file_of(path)
    try:
        if not file.exists():
            raise VideoError(path, "no such file")
        if not file.is_file():
            raise VideoError(path, "not a regular file (a directory or a device); expected a video file")
        if file.stat().st_size == 0:
            raise VideoError(path, "the file is empty (0 bytes)")
    except OSError as error:
        raise VideoError(path, f"can't be read ({error.strerror})") from error


def probe(path: str | Path) -> Source:
    """What a video file's headers and packets say; one frame is decoded. Of a part (parts.py): what the whole
    file's say.

    Raises VideoError for a file that is missing, empty, cut off, without a video stream or not decodable, and
    for one whose pictures (MOST_PIXELS, MOST_OBLONG) or time stamps (LONGEST_FRAME) are past all measure.
    """
    check_file(path)
    try:
        return _probe(file_of(path))
    except FFmpegError as error:
        raise VideoError(path, f"not readable as a video, damaged or cut off ({error.strerror})") from error
    except OSError as error:
        raise VideoError(path, f"can't be read ({error.strerror})") from error


def open_container(file: Path) -> av.container.InputContainer:
    """The file, opened. Raises FFmpegError and OSError."""
    # An absolute path: a relative one with a colon in it would be taken for a protocol. Metadata need not be
    # UTF-8.
    return av.open(str(file.absolute()), metadata_errors="replace", options=OPTIONS)


def best_video_stream(container: av.container.InputContainer) -> av.VideoStream | None:
    """The video stream that ffmpeg would choose, None where there is none."""
    # PyAV's type is that of any stream, as it does not tell from the word which kind is asked for.
    return cast(av.VideoStream | None, container.streams.best("video"))


def video_stream(file: Path, container: av.container.InputContainer) -> av.VideoStream:
    """The video stream to read. Cover art in a sound file and text rendered as a picture don't count.

    Its decoder refuses pictures over MOST_PIXELS, before it takes memory for them. Raises VideoError.
    """
    stream = best_video_stream(container)
    if container.format.name == "tty":
        raise VideoError(file, "a text file, not a video")
    if stream is None or stream.disposition & av.stream.Disposition.attached_pic:
        kinds = ", ".join(sorted({stream.type for stream in container.streams}))
        raise VideoError(file, f"no video stream in it (found: {kinds or 'nothing'})")
    if stream.codec_context is None:
        raise VideoError(file, "not readable as a video (Decoder not found)")
    _check_size(file, stream.codec_context.width, stream.codec_context.height)
    stream.codec_context.options = _DECODER_OPTIONS
    return stream


def _check_size(file: Path, width: int, height: int) -> None:
    most = f"expected {MOST_PIXELS:,} pixels (8K is 7680 x 4320) and sides of {MOST_OBLONG} to 1 at most"
    if width * height > MOST_PIXELS or max(width, height) > MOST_OBLONG * min(width, height) > 0:
        raise VideoError(
            file,
            f"its pictures are {width} x {height}, {most}; scale it: ffmpeg -i FILE -vf scale=1920:1080 OUT",
        )


def _first_frame(file: Path, packet: av.Packet, stream: av.VideoStream) -> av.VideoFrame | None:
    """What a packet's decoding gives, where it gives a picture.

    Raises VideoError, and FFmpegError from the decoder.
    """
    try:
        frame = next(iter(packet.decode()), None)
    except FFmpegError as error:
        if stream.codec_context.width:
            raise
        # A size over the limit is not kept by the decoder that refused it.
        cause = f"damaged, or its pictures have more than {MOST_PIXELS:,} pixels, which is the limit"
        raise VideoError(file, f"not readable as a video: {cause} ({error.strerror})") from error
    if frame is not None:
        _check_size(file, frame.width, frame.height)
    return frame


def packets_of(
    file: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.Packet]:
    """The stream's packets.

    Raises VideoError where one is of a stream that appears midway, and FFmpegError.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except IndexError as error:  # PyAV looks the stream up among those of the header
            raise VideoError(file, "damaged: a stream appears in it that its header does not name") from error
        yield packet


def frames_of(
    file: Path, container: av.container.InputContainer, stream: av.VideoStream
) -> Iterator[av.VideoFrame]:
    """The stream's decoded frames, in order of display. Raises as packets_of does."""
    for packet in packets_of(file, container, stream):
        yield from packet.decode()


def _probe(file: Path) -> Source:
    """Read headers, every packet's time and one frame.

    Raises VideoError, and FFmpegError where the file breaks off.
    """
    with open_container(file) as container:
        stream = video_stream(file, container)
        promised = _promised_seconds(container, stream)
        frame = None
        shown = 0
        times: list[tuple[int, int | None]] = []
        order: list[tuple[int, bool]] = []
        for packet in packets_of(file, container, stream):
            if packet.size and not packet.is_discard:
                shown += 1
                if packet.pts is not None:
                    times.append((packet.pts, packet.duration))
                    order.append((packet.pts, packet.is_keyframe))
            if frame is None:  # Decoding goes on only until the first picture.
                frame = _first_frame(file, packet, stream)
        if frame is None:
            raise VideoError(file, f"no frame of its {stream.codec_context.name} video can be decoded")
        timeline = None
        if len(times) == shown:
            times.sort()
            if all(before[0] < after[0] for before, after in pairwise(times)):
                timeline = timeline_of(times, stream)
                check_timeline(file, timeline, promised)
        return Source(
            format=container.format.name,
            codec=stream.codec_context.name,
            pixels=frame.format.name,
            rotation=frame.rotation,
            height=frame.height,
            width=frame.width,
            promised_seconds=promised,
            timeline=timeline,
            packets=order,
        )


def _promised_seconds(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """How long the header says the video lasts, in seconds; None where it doesn't say."""
    if stream.duration:
        return float(stream.duration * time_base(stream))
    # Matroska, by stream.
    tag = re.fullmatch(r"(\d{1,9}):(\d{1,9}):(\d{1,9}(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        hours, minutes, seconds = tag.groups()
        return int(hours) * 3600 + int(minutes) * 60 + float(seconds)
    # The container's own duration may be that of a longer sound track.
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else None


def check_timeline(file: Path, timeline: Timeline, promised: float | None) -> None:
    """Raises VideoError where less video was found than its header promises,
    or a frame stands for more than LONGEST_FRAME.
    """
    starts = np.asarray([*timeline.pts, timeline.end])
    longest = int(np.argmax(np.diff(starts)))
    still = starts[longest + 1] - starts[longest]
    if still > LONGEST_FRAME:
        after = f"{starts[longest]:.2f} s"
        raise VideoError(
            file,
            f"damaged time stamps: nothing new for {still:.0f} s after {after}, expected {LONGEST_FRAME} s "
            "at most",
        )
    if promised is not None and timeline.end < WHOLE * promised:
        raise VideoError(
            file, f"cut off: {timeline.end:.2f} s of video found, {promised:.2f} s promised by its header"
        )
