"""Real files of every odd kind, made on the spot with ffmpeg, and the recorded clips."""

import json
import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from crashchat.video.decode import make_plan, read_clip
from crashchat.video.decoders import _droppable, read_decord, read_skipping, read_through
from crashchat.video.source import probe
from tests.helpers.clips import H264, SCENE, TONE, difference, ffmpeg, ffmpeg_frames

# --- recorded clips


def recorded(shared: Path) -> list[tuple[Path, float, int, dict]]:
    cases = []
    for name, expected in json.loads((shared / "clips/expected.json").read_text()).items():
        cases.append((shared / "clips" / name, 10, 96, expected["fps10_max96"]))
        cases.append((shared / "clips" / name, 2, 16, expected["fps2_max16"]))
    sampling = json.loads((shared / "golden/reference/golden.json").read_text())["sampling"]
    for case in sampling.values():
        cases.append((shared / "golden/reference/video.mp4", case["fps"], case["max_frames"], case))
    return cases


def test_recorded_clips(shared):
    cases = recorded(shared)
    assert len(cases) == 8
    for path, fps, max_frames, expected in cases:
        clip = read_clip(path, fps, max_frames)
        assert clip.path == str(path)
        assert clip.frames.dtype == torch.uint8
        assert clip.frames.shape[:2] == (expected["num_frames"], 3)
        if "height" in expected:
            assert clip.frames.shape[2:] == (expected["height"], expected["width"])
        assert clip.seconds == pytest.approx(expected.get("seconds") or expected["timestamps"], abs=1e-6)
        mean = torch.stack([frame.float().mean(dim=(1, 2)) for frame in clip.frames]).numpy()
        assert np.abs(mean - np.array(expected["frame_mean_rgb"])).max() < 1.0, path


def test_golden_frames(shared):
    clip = read_clip(shared / "golden/reference/video.mp4", 2, 6)
    assert difference(clip.frames.numpy(), np.load(shared / "golden/reference/frames.npy")) < 0.1


# --- odd files

ODD = {
    "plain.mp4": (*H264,),
    "fragments.mp4": (*H264, "-movflags", "frag_keyframe+empty_moov"),
    "plain.mkv": (*H264,),
    "plain.ts": (*H264,),
    "plain.flv": (*H264,),
    "bare.h264": (*H264,),
    "plain.mpg": ("-c:v", "mpeg2video"),
    "vp9.webm": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-pix_fmt", "yuv420p"),
    "moving.gif": ("-vf", "fps=10"),
    "av1.mp4": ("-c:v", "libaom-av1", "-cpu-used", "8", "-usage", "realtime", "-pix_fmt", "yuv420p"),
    "hevc.mp4": (
        "-c:v",
        "libx265",
        "-preset",
        "ultrafast",
        "-x265-params",
        "log-level=error",
        "-pix_fmt",
        "yuv420p",
    ),
    "open_gop.mkv": (
        *(
            "-c:v",
            "libx265",
            "-x265-params",
            "log-level=error:open-gop=1:keyint=20:bframes=3",
            "-pix_fmt",
            "yuv420p",
        ),
    ),
    "b_frames.mp4": ("-c:v", "mpeg4", "-bf", "2", "-g", "20"),
    "hevc10.mp4": (
        *(
            "-c:v",
            "libx265",
            "-preset",
            "ultrafast",
            "-x265-params",
            "log-level=error",
            "-pix_fmt",
            "yuv420p10le",
        ),
    ),
    "variable.mp4": (*("-vf", "select='not(mod(floor(n*n/3),3))'", "-fps_mode", "vfr"), *H264),
}


@pytest.mark.parametrize("name", ODD)
def test_odd_files_give_what_ffmpeg_gives(name, tmp_path):
    path = tmp_path / name
    ffmpeg(*SCENE, *ODD[name], path)
    clip = read_clip(path, 10, 96)
    expected = ffmpeg_frames(path, 10, 96, 160)
    assert clip.seconds == [k / 10 for k in range(len(expected))]
    # 10-bit colours are blown up by another version's scaler, which differs at the test card's hard colour
    # edges.
    assert difference(clip.frames.numpy(), expected) < (6.0 if name == "hevc10.mp4" else 0.5)
    means = clip.frames.float().mean(dim=(2, 3)).numpy()
    assert np.abs(means - expected.mean(axis=(2, 3))).max() < 1.0


def test_the_ways_to_read_agree(plain):
    plan = make_plan(plain, probe(plain), 10, 96)
    quick, (whole, seconds), jumped = read_skipping(plan), read_through(plan), read_decord(plan)
    assert seconds == plan.seconds == read_clip(plain, 10, 96).seconds
    assert torch.equal(quick, whole) and torch.equal(quick, read_clip(plain, 10, 96).frames)
    assert difference(whole.numpy(), jumped.numpy()) < 0.5
    for frames in (quick, whole, jumped):
        assert frames.is_contiguous(memory_format=torch.channels_last)


# Frames that others depend on are spread differently in each.
GROUPS = {
    "pyramid": ("-bf", "8", "-x264-params", "b-pyramid=normal:keyint=20:scenecut=0"),
    "open groups": ("-bf", "3", "-x264-params", "open-gop=1:keyint=10:scenecut=0"),
    "no B frames": ("-bf", "0", "-g", "7"),
    "interlaced": ("-bf", "3", "-flags", "+ildct+ilme", "-g", "12"),
    "one group": ("-bf", "3", "-g", "1000", "-sc_threshold", "0"),
}


@pytest.mark.parametrize("groups", GROUPS)
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_leaving_out_what_nobody_needs_changes_no_pixel(groups, suffix, tmp_path):
    path = tmp_path / f"clip.{suffix}"
    ffmpeg(*SCENE, "-c:v", "libx264", "-preset", "medium", "-pix_fmt", "yuv420p", *GROUPS[groups], path)
    for fps, most in [(10, 96), (2, 16), (25, 96), (10, 4), (1, 96)]:
        plan = make_plan(path, probe(path), fps, most)
        whole, seconds = read_through(plan)
        assert seconds == plan.seconds and torch.equal(read_skipping(plan), whole)


def test_what_can_be_dropped():
    packets = [
        (0, True),
        (3, False),
        (1, False),
        (2, False),
        (4, True),
        (7, False),
        (5, False),
        (8, True),
        (9, False),
    ]
    assert _droppable(packets, {1, 9}) == {3, 4, 5, 6}
    # With a frame shown before its key frame, the second group leans on the first.
    assert _droppable([(0, True), (2, False), (1, False), (4, True), (3, False)], {3}) == set()
    assert _droppable([(0, True), (2, False), (1, False), (4, True), (3, False)], {0}) == {1, 2, 3, 4}


def test_resizing_on_the_way_is_resizing_afterwards(plain, tmp_path):
    def halve(frames, count):
        assert count == 30
        return frames[:, :, ::2, ::2].contiguous(memory_format=torch.channels_last)

    hevc, other = tmp_path / "hevc.mp4", tmp_path / "moving.gif"
    ffmpeg(*SCENE, *ODD["hevc.mp4"], hevc)
    ffmpeg(*SCENE, "-vf", "fps=10", other)
    for path in (plain, hevc, other):
        assert torch.equal(
            read_clip(path, 10, 96, resize=halve).frames, read_clip(path, 10, 96).frames[:, :, ::2, ::2]
        )


def test_avi_which_stores_no_presentation_times(plain, tmp_path):
    path = tmp_path / "reordered.avi"
    ffmpeg(*SCENE, *H264, path)
    clip = read_clip(path, 10, 96)
    assert difference(clip.frames.numpy(), read_clip(plain, 10, 96).frames.numpy()) < 0.5


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_rotation_in_the_metadata(plain, tmp_path, angle):
    path = tmp_path / "turned.mp4"
    ffmpeg("-display_rotation", angle, "-i", plain, "-c", "copy", path)
    height, width = (96, 160) if angle == 180 else (160, 96)
    clip = read_clip(path, 5, 96)
    assert difference(clip.frames.numpy(), ffmpeg_frames(path, 5, height, width)) < 0.5


def test_cut_in_the_edit_list(plain, tmp_path):
    path = tmp_path / "edited.mp4"
    ffmpeg("-ss", "1.3", "-i", plain, "-c", "copy", path)
    assert difference(read_clip(path, 10, 96).frames.numpy(), ffmpeg_frames(path, 10, 96, 160)) < 0.5


def test_late_start_counts_from_the_stream_start(plain, tmp_path):
    path = tmp_path / "late.mp4"
    ffmpeg("-itsoffset", "0.7", "-i", plain, *TONE, "-map", "0", "-map", "1", "-c:v", "copy", path)
    clip = read_clip(path, 10, 96)
    assert clip.seconds == [k / 10 for k in range(30)]
    assert torch.equal(clip.frames, read_clip(plain, 10, 96).frames)


def test_longer_sound_is_not_a_cut_off_video(plain, tmp_path):
    path = tmp_path / "sound.mkv"
    ffmpeg("-i", plain, *TONE, "-map", "0", "-map", "1", "-c:v", "copy", path)
    assert len(read_clip(path, 10, 96).seconds) == 30


def test_one_frame_and_odd_names(tmp_path, monkeypatch):
    ffmpeg(*SCENE, "-frames:v", "1", *H264, tmp_path / "one.mp4")
    (tmp_path / "one.mp4").rename(tmp_path / "a:b %d é.mp4")
    monkeypatch.chdir(tmp_path)
    assert read_clip("a:b %d é.mp4", 10, 96).seconds == [0.0]


# --- bad files


def frame_sum(path: Path) -> int:
    return int(read_clip(path, 10, 96).frames.sum())


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_worker_threads_and_forked_processes(plain, tmp_path):
    other = tmp_path / "moving.gif"
    ffmpeg(*SCENE, "-vf", "fps=10", other)
    paths = [plain, other] * 4
    expected = [frame_sum(path) for path in paths]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(frame_sum, paths)) == expected
    with multiprocessing.get_context("fork").Pool(2) as workers:
        assert workers.map_async(frame_sum, paths).get(timeout=300) == expected
