"""Clips that ask for too much, and results that cannot be written: each fails alone, by name,
and the others go on.
"""

import json
import os
import shutil
from pathlib import Path

import av
import pytest

from crashchat.analysis.cards import ticks
from crashchat.analysis.options import find_clips
from crashchat.analysis.result_files import LONGEST_NAME, name_clips
from crashchat.analysis.windows import WindowSettings, plan
from crashchat.video.decode import read_clip
from crashchat.video.reading import read_visual_tokens
from crashchat.video.source import VideoError, probe
from crashchat.video.tokens import VideoSettings
from tests.helpers.clips import H264, SCENE, ffmpeg
from tests.helpers.flashes import frames, write_video
from tests.helpers.forks import completed

YEAR = 365 * 24 * 3600
ODD_NAME = os.fsdecode(b"odd \xff name.webm")
LONG_NAMES = ["l" * 240 + "one", "l" * 240 + "two", "ü" * 124 + "x"]


def stretch(source: Path, target: Path, jump: float, before: int = -1) -> Path:
    """A copy in which the frames from number `before` on come `jump` seconds later."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        (stream,) = old.streams.video
        copy = new.add_stream_from_template(stream)
        packets = [packet for packet in old.demux(stream) if packet.size]
        for number, packet in enumerate(packets):
            if number >= before % len(packets):
                packet.pts += round(jump / packet.time_base)
                packet.dts = packet.pts
            packet.stream = copy
            new.mux(packet)
    return target


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Ten frames, one a second, none of which is stored out of order."""
    path = tmp_path_factory.mktemp("clip") / "clip.mkv"
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "testsrc2=size=64x64:rate=1:duration=10",
        *H264[:-4],
        "-bf",
        "0",
        "-pix_fmt",
        "yuv420p",
        path,
    )
    return path


# --- time stamps


@pytest.mark.parametrize("years", [1, 100])
def test_a_frame_that_stands_for_years_is_refused(clip, tmp_path, years):
    path = stretch(clip, tmp_path / "far.mkv", years * YEAR)
    assert path.stat().st_size < 50_000
    for read in (lambda: probe(path), lambda: read_visual_tokens(str(path), VideoSettings())):
        with pytest.raises(
            VideoError,
            match=rf"damaged time stamps: nothing new for {years * YEAR + 1} s after 8.00 s, expected",
        ):
            read()


def test_a_last_frame_that_lasts_for_years_is_refused(clip, tmp_path):
    with av.open(str(clip)) as old, av.open(str(tmp_path / "slow.mkv"), "w") as new:
        packet = next(old.demux(video=0))
        packet.duration = round(YEAR / packet.time_base)
        packet.stream = new.add_stream_from_template(old.streams.video[0])
        new.mux(packet)
    with pytest.raises(VideoError, match=f"damaged time stamps: nothing new for {YEAR} s after 0.00 s"):
        read_clip(tmp_path / "slow.mkv", 10, 96)


def test_sparse_recordings_are_read(clip, tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=1/10:duration=300", *H264, tmp_path / "sparse.mkv")
    source = probe(tmp_path / "sparse.mkv")
    assert len(source.timeline.pts) == 30 and source.timeline.end == 300
    assert read_clip(tmp_path / "sparse.mkv", 10, 96).seconds == [int(k * 2999 / 95) / 10 for k in range(96)]
    # Twenty hours of nothing in the middle.
    source = probe(stretch(clip, tmp_path / "waits.mkv", 20 * 3600, before=5))
    spans = plan(source.timeline.end, WindowSettings(8, 4), source.timeline.pts)
    assert spans == [(0, 8), (4, 12), (72000, 72008), (72002, 72010)]
    last = read_clip(tmp_path / "waits.mkv", 1, 96, span=spans[-1])
    assert last.seconds == [0, 1, 2, 3, 4, 5, 6, 7] and len(last.frames) == 8


def test_windows_are_planned_where_frames_begin():
    settings = WindowSettings(length=20, stride=7.5)
    dense = [number / 2 for number in range(1000)]
    every = [(start, start + 20.0) for number in range(64) if (start := number * 7.5) + 20 < 499.5]
    assert plan(499.5, settings, dense) == [*every, (479.5, 499.5)]
    assert plan(499.5, settings, dense[::20]) == plan(499.5, settings, dense)
    far = 7.5e9
    around = [(far - 15, far + 5), (far - 7.5, far + 12.5), (far, far + 20)]
    assert plan(far + 50, settings, [0.0, 1.0, far]) == [(0.0, 20.0), *around, (far + 30, far + 50)]
    assert len(ticks(0, far)) <= 10


# --- pictures


@pytest.mark.parametrize(
    "name, options, message",
    [
        (
            "wide.mp4",
            ("color=red:size=6200x6200:rate=1:duration=1", *H264),
            "its pictures are 6200 x 6200, expected 36,000,000",
        ),
        (
            "wide.mov",
            ("color=red:size=6200x6200:rate=1:duration=1", "-c:v", "png", "-pix_fmt", "gray"),
            "more than 36,000,000 pix",
        ),
        (
            "thin.avi",
            ("color=red:size=2000x32:rate=1:duration=1", "-c:v", "mjpeg"),
            "2000 x 32, .* sides of 32 to 1 at most",
        ),
    ],
)
def test_pictures_past_all_measure_are_refused(tmp_path, name, options, message):
    ffmpeg("-f", "lavfi", "-i", *options, tmp_path / name)
    with pytest.raises(VideoError, match=message) as caught:
        probe(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_8k_is_read(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=red:size=7680x4320:rate=1:duration=1", *H264, tmp_path / "8k.mp4")
    assert read_clip(tmp_path / "8k.mp4", 10, 1).frames.shape == (1, 3, 4320, 7680)


# --- names


def test_names_of_results_are_safe_short_and_unique():
    paths = [
        Path("a", f"{name}.mp4")
        for name in (*LONG_NAMES, *(f"{name}\udcff" for name in "ab"), "x.event1", "x", "plain")
    ]
    paths += [Path("b", "c" * 250, f"{LONG_NAMES[0]}.mp4"), Path(ODD_NAME)]
    names = list(name_clips(paths).values())
    assert len(set(names)) == len(paths) == len({name.encode() for name in names})
    assert all(len(f".{name}.windows.part.jsonl.12345678".encode()) < 255 for name in names)
    assert names[5:8] == ["x.event1_", "x", "plain"] and names[-1].startswith("odd \ufffd name~")
    # A name does not depend on which other clips there are.
    assert name_clips(paths[4:5])[paths[4]] == names[4]
    assert len(names[1].encode()) == LONGEST_NAME + 13


def test_what_cannot_be_listed_is_a_clip_that_fails(tmp_path):
    deep = tmp_path / "deep"
    write_video(tmp_path / "good.mp4", frames(90, 3))
    inside = deep
    inside.mkdir()
    handle = os.open(inside, os.O_RDONLY)
    for _ in range(25):  # by steps: the whole path is longer than a path may be
        os.mkdir("d" * 200, dir_fd=handle)
        handle, last = os.open("d" * 200, os.O_RDONLY, dir_fd=handle), handle
        os.close(last)
        inside /= "d" * 200
    os.close(handle)
    found, _ = find_clips([str(tmp_path), str(inside / "clip.mp4")])
    assert tmp_path / "good.mp4" in found and len(found) == 3
    for path in found[:2]:
        if path != tmp_path / "good.mp4":
            with pytest.raises(VideoError, match="File name too long"):
                probe(path)
    shutil.rmtree(deep)


# --- the command


def analyze(*words: str | Path, base: Path) -> tuple[int, str]:
    """Exit code and stderr of a real process."""
    how = ["--model", base, "--max-new-tokens", "4", "--fps", "1", "--max-frames", "20"]
    done = completed("analyze", *words, *how)
    return done.returncode, done.stderr


def test_no_clip_ends_the_run(clip, tiny_base, tmp_path):
    clips, out = tmp_path / "clips", tmp_path / "out"
    clips.mkdir()
    for name in ("good", *LONG_NAMES, "no_result", "no_strip", "no_journal"):
        shutil.copy(clip, clips / f"{name}.mkv")
    ffmpeg(*SCENE, "-c:v", "libvpx", tmp_path / "odd.webm")
    shutil.move(tmp_path / "odd.webm", clips / ODD_NAME)
    stretch(clip, clips / "far.mkv", 100 * YEAR)
    ffmpeg(
        "-f",
        "lavfi",
        "-i",
        "color=red:size=6200x6200:rate=1:duration=1",
        "-c:v",
        "png",
        "-pix_fmt",
        "gray",
        clips / "wide.mov",
    )
    for name in ("no_result.json", "no_strip.jpg", "no_journal.windows.part.jsonl"):
        (out / name).mkdir(parents=True)
    too_long = "/" + "/".join(["d" * 200] * 25) + "/clip.mp4"
    code, said = analyze(too_long, clips, "--out", out, base=tiny_base)
    assert code == 1, said
    assert "Traceback" not in said and "6 failed" in said and "report: " in said
    for path, cause in {
        too_long: "can't be read (File name too long)",
        clips / "far.mkv": "damaged time stamps",
        clips / "wide.mov": "more than 36,000,000 pixels",
        clips / "no_result.mkv": f"its results can't be written: {out / 'no_result.json'}: Is a directory",
        clips / "no_strip.mkv": f"its results can't be written: {out / 'no_strip.jpg'}: Is a directory",
        clips / "no_journal.mkv": f"{out / 'no_journal.windows.part.jsonl'}: Is a directory",
    }.items():
        assert any(line.startswith(f"failed: {path}: ") and cause in line for line in said.splitlines()), (
            path,
            said,
        )
    page = (out / "report.html").read_text()
    assert page.count("<article") == 11 and "odd%20%FF%20name.webm" in page
    results = [json.loads(path.read_text()) for path in out.glob("*.json") if path.is_file()]
    assert sum(result["status"] != "failed" for result in results) == 5
    assert {result["path"] for result in results} >= {str(clips / f"{name}.mkv") for name in LONG_NAMES}
    assert str(clips / "odd \ufffd name.webm") in {result["path"] for result in results}


def test_a_full_disk_fails_each_clip_by_name(clip, full_disk, tiny_base, tmp_path):
    for name in ("one", "two"):
        shutil.copy(clip, tmp_path / f"{name}.mkv")
    code, said = analyze(
        tmp_path / "one.mkv", tmp_path / "two.mkv", "--out", full_disk / "out", base=tiny_base
    )
    assert code == 1 and "Traceback" not in said, said
    assert (
        "2 failed" in said
        and said.lower().count("no space left on device") == 3
        and "error: no report: " in said
    )
