"""Broken clips: read in a process that may die, and a folder
of them beside good ones through `crashchat analyze`.
"""

import json
import os
import random
import struct
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import av
import numpy as np

from crashchat.checkpoints.folders import load_video_settings
from crashchat.video.reading import read_visual_tokens
from crashchat.video.source import VideoError
from tests.faults.bench import TINY_BASE, Bench, Row, drawing
from tests.faults.running import Running, Verdict
from tests.helpers.clips import H264, SCENE, ffmpeg
from tests.helpers.flashes import frames, write_video

SECONDS = 120.0
MPEG4 = ("-c:v", "mpeg4", "-bf", "2", "-g", "20")
GOOD = {
    "front.mp4": (*H264, "-movflags", "+faststart"),
    "behind.mp4": H264,
    "fragments.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "plain.mkv": H264,
    "plain.ts": H264,
    "plain.flv": H264,
    "mpeg4.avi": MPEG4,
    "mpeg2.mpg": ("-c:v", "mpeg2video"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p"),
    "pictures.mov": ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"),
    "moving.gif": ("-vf", "fps=10"),
}
HUGE = (8_000, 12_000, 16_000)  # pixels a side
NAMES = (
    "not \udcff utf-8.mp4", "n" * 245 + ".mp4", "a" * 84 + "é" * 80 + ".mp4", "two\nlines.mp4", "-rf.mp4",
    "quote\"'<b>&.mp4", "%s %n{}.mp4", "日本語 🚗.mp4", "concat:a|b.mp4", "http:__x.mp4", " .mp4",
    "\x1b[31mred.mp4",
    "x.mp4.mp4", "[0-9]*?.mp4",
)  # fmt: skip


def make_good(folder: Path) -> dict[str, Path]:
    """A small good clip of each container: {name: file}."""
    folder.mkdir()
    for name, options in GOOD.items():
        ffmpeg(*SCENE, *options, folder / name)
    return {name: folder / name for name in GOOD} | {
        "flash.mp4": write_video(folder / "flash.mp4", frames(90, 12, (5, 8)))
    }


# Each takes bytes and says what it did to them.
def _cut(data: bytearray, draw: random.Random) -> str:
    at = draw.choice(
        (draw.randrange(len(data)), draw.randrange(min(len(data), 4096)), len(data) - draw.randrange(1, 64))
    )
    del data[at:]
    return f"cut at {at}"


def _flip(data: bytearray, draw: random.Random) -> str:
    count = 2 ** draw.randrange(12)
    for _ in range(count):
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return f"{count} bits flipped"


def _header(data: bytearray, draw: random.Random) -> str:
    count = 2 ** draw.randrange(5)
    for _ in range(count):
        data[draw.randrange(min(len(data), 1500))] = draw.choice(
            (0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256))
        )
    return f"{count} bytes of the header changed"


def _span(data: bytearray, draw: random.Random) -> tuple[int, int]:
    start = draw.randrange(len(data))
    return start, min(len(data), start + draw.choice((16, 512, 4096, len(data) // 2)))


def _zero(data: bytearray, draw: random.Random) -> str:
    start, end = _span(data, draw)
    data[start:end] = bytes(end - start)
    return f"zeros from {start} to {end}"


def _noise(data: bytearray, draw: random.Random) -> str:
    start, end = _span(data, draw)
    data[start:end] = draw.randbytes(end - start)
    return f"noise from {start} to {end}"


def _remove(data: bytearray, draw: random.Random) -> str:
    start, end = _span(data, draw)
    del data[start:end]
    return f"{start} to {end} left out"


def _repeat(data: bytearray, draw: random.Random) -> str:
    start, end = _span(data, draw)
    data[end:end] = data[start:end] * draw.randrange(1, 4)
    return f"{start} to {end} repeated"


def _atoms(data: bytearray, draw: random.Random) -> str:
    """Top-level boxes of an mp4 in another order; blocks of any other file."""
    pieces, at = [], 0
    while at + 8 <= len(data) and (size := struct.unpack_from(">I", data, at)[0]) >= 8 and len(pieces) < 50:
        pieces.append(bytes(data[at : at + size]))
        at += size
    if at < len(data) or len(pieces) < 2:
        at = max(1, len(data) // 8)
        pieces = [bytes(data[start : start + at]) for start in range(0, len(data), at)]
    draw.shuffle(pieces)
    del pieces[draw.randrange(len(pieces) + 1) :]
    data[:] = b"".join(pieces)
    return f"{len(pieces)} blocks in another order"


BOXES = [
    name.encode() for name in "stts ctts stsz stco stsc stss elst mvhd mdhd tkhd avc1 avcC trun tfhd".split()
]


def _field(data: bytearray, draw: random.Random) -> str:
    """A 32-bit number in one of an mp4's tables; of any other file, in the first 4 kB."""
    boxes = [box for box in BOXES if box in data]
    box = draw.choice(boxes) if boxes else None
    at = (data.index(box) if box else 0) + 4 * draw.randrange(-1, 30 if box else 1000)
    value = draw.choice((0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 1, draw.randrange(2**32)))
    at = max(0, min(at, len(data) - 4))
    struct.pack_into(">I", data, at, value)
    return f"{value} at {at}, in {box}"


def _two(data: bytearray, draw: random.Random) -> str:
    return f"{_damage(data, draw)}, then {_damage(data, draw)}" if len(data) > 8 else "nothing"


DAMAGE = (_cut, _flip, _header, _zero, _noise, _remove, _repeat, _atoms, _field)


def _damage(data: bytearray, draw: random.Random) -> str:
    return draw.choice(DAMAGE)(data, draw) if len(data) > 8 else "too short to damage"


def _far(good: dict[str, Path], folder: Path, draw: random.Random) -> tuple[Path, str]:
    """The last packets of a Matroska file stand far behind the others."""
    path, seconds, last = (
        folder / draw.choice(("far.mkv", "far.webm")),
        10 ** draw.uniform(1, 9.6),
        draw.randrange(1, 20),
    )
    with av.open(str(good["vp9.webm"])) as source, av.open(str(path), "w") as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        packets = [packet for packet in source.demux(stream) if packet.pts is not None]
        for number, packet in enumerate(packets):
            if number >= len(packets) - last:
                packet.pts = packet.dts = packet.pts + int(seconds / packet.time_base)
            packet.stream = copy
            target.mux(packet)
    return path, f"the last {last} frames {seconds:.0f} s later"


def _huge(good: dict[str, Path], folder: Path, draw: random.Random) -> tuple[Path, str]:
    """Pictures of up to 256 million pixels in some kilobytes."""
    path, side, count = folder / "huge.mov", draw.choice(HUGE), draw.randrange(1, 3)
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        f"color=gray:size={side}x{side}:rate=1:duration={count}",
        "-c:v",
        "png",
        "-pix_fmt",
        "gray",
        path,
    )
    return path, f"{count} pictures of {side} x {side}"


def _named(good: dict[str, Path], folder: Path, draw: random.Random) -> tuple[Path, str]:
    """Another container's suffix, or a name that few expect."""
    source = good[draw.choice(sorted(good))]
    name = draw.choice(
        (
            *NAMES,
            *(f"renamed{Path(other).suffix}" for other in GOOD),
            "list.m3u8",
            "x.sdp",
            "x.txt",
            "x.jpg",
            "x",
        )
    )
    path = folder / name
    path.write_bytes(source.read_bytes())
    return path, f"{source.name} as {name!r}"


def make_broken(good: dict[str, Path], folder: Path, draw: random.Random) -> tuple[Path, str]:
    """A broken clip and how it was broken."""
    turn = draw.random()
    make: Callable | None = _far if turn < 0.05 else _huge if turn < 0.06 else _named if turn < 0.14 else None
    if make:
        return make(good, folder, draw)
    source = good[draw.choice(sorted(good))]
    data = bytearray(source.read_bytes())
    what = draw.choice((_damage, _damage, _two))(data, draw)
    path = folder / source.name
    path.write_bytes(data)
    return path, f"{source.name}: {what}"


@cache
def _settings():
    return load_video_settings(TINY_BASE)


def judge(good: dict[str, Path], seed: int, number: int, work: Path) -> Verdict:
    """Read one broken clip: visual tokens or a VideoError, of one line that names the file."""
    folder = work / str(number)
    folder.mkdir()
    path, what = make_broken(good, folder, drawing("clips", seed, number))
    wrong = ""
    try:
        visual = read_visual_tokens(str(path), _settings())
        kind = "read"
        if not np.isfinite(visual.seconds).all() or sorted(visual.seconds) != list(visual.seconds):
            wrong = f"times are {visual.seconds[:5]} …"
    except VideoError as error:
        kind = "refused by a VideoError"
        if "\n" in str(error).replace(str(path), "") or error.path != str(path):
            wrong = f"the message is {str(error)[:200]!r}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {error}"
    if wrong:
        return "", f"{what}: {wrong}"[:400]
    path.unlink()
    folder.rmdir()
    return kind, ""


def run(bench: Bench, seed: int, numbers: Iterable[int]) -> Row:
    """Each in a worker with an end to time and memory."""
    work = bench.folder / "clips"
    work.mkdir()
    good = make_good(work / "good")
    row = Row("broken clips, read")
    jobs = {number: (good, seed, number, work) for number in numbers}
    for number, kind, loss in bench.workers.map(judge, jobs, SECONDS):
        row.add(number, kind, loss)
    return row


def run_folders(bench: Bench, seed: int, numbers: Iterable[int], broken: int = 60) -> Row:
    """Folders of broken clips and all good ones through `crashchat analyze`:
    each clip has a result, and there is a report.
    """
    row = Row(f"a folder of {broken} broken and {len(GOOD)} good clips, analyzed")
    good = make_good(bench.folder / "folders_good")
    for number in numbers:
        folder = bench.folder / f"folders{number}"
        clips, out = folder / "clips", folder / "out"
        clips.mkdir(parents=True)
        names = []
        for name, path in good.items():
            if name != "moving.gif":  # no video by its suffix
                os.link(path, clips / name)
                names.append(name)
        draw = drawing("folders", seed, number)
        for index in range(broken):
            scratch = folder / f"{index}"
            scratch.mkdir()
            path, _ = (_named if index % 10 == 0 else _far if index % 15 == 1 else make_broken)(
                good, scratch, draw
            )
            if path.suffix not in (".gif", ".m3u8", ".sdp", ".txt", ".jpg", ""):
                name = (
                    path.name
                    if len(path.name.encode(errors="surrogateescape")) > 200
                    else f"{index} {path.name}"
                )
                path.rename(clips / name)
                names.append(name)
        options = [
            "--model",
            TINY_BASE,
            "--max-new-tokens",
            "4",
            "--fps",
            "1",
            "--max-frames",
            "8",
            "--window",
            "8",
        ]
        words = [sys.executable, "-m", "crashchat", "analyze", clips, "--out", out, *options]
        running = Running(words, folder / "log")
        loss = running.wait()
        code, said = running.code, running.output()
        results = list(out.glob("*.json"))
        if not loss and "Traceback" in said:
            loss = f"a traceback: {said.strip().splitlines()[-1][:200]}"
        if not loss and code != 1:
            loss = f"exit code {code}, expected 1: {said.strip().splitlines()[-1:]}"
        if not loss and not (out / "report.html").is_file():
            loss = "no report"
        if not loss and len(results) != len(set(names)):
            loss = f"{len(results)} results of {len(set(names))} clips"
        done = {
            Path(r["path"]).name
            for r in map(json.loads, (p.read_text() for p in results))
            if r["status"] != "failed"
        }
        lost = [name for name in good if name != "moving.gif" and name not in done]
        if not loss and lost:
            loss = f"good clips failed: {lost}"
        row.add(
            number,
            "with a report and a result for each clip",
            loss and f"{loss} (of {len(names)} clips; {clips})",
        )
    return row
