"""Parts of a long recording, read by themselves."""

import pytest

from crashchat.video.decode import read_clip
from crashchat.video.source import VideoError, probe
from tests.helpers.clips import H264, SCENE, difference, ffmpeg


@pytest.mark.parametrize(
    "name, options",
    [
        ("gop.mp4", (*H264, "-g", "30", "-sc_threshold", "0")),
        ("open.mkv", ("-c:v", "libx265", "-x265-params", "log-level=error:open-gop=1:keyint=20:bframes=3")),
        (
            "open.mp4",
            ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-x264-params", "open-gop=1:keyint=20:bframes=3"),
        ),
        ("stream.ts", (*H264, "-g", "20", "-output_ts_offset", "5")),
        ("frames.avi", ("-c:v", "mjpeg", "-q:v", "2")),
        ("late.avi", ("-c:v", "mpeg4", "-bf", "2", "-g", "25")),
        ("turned.mp4", (*H264, "-g", "25")),
    ],
)
def test_a_span_is_the_same_frames_as_in_the_whole(tmp_path, name, options):
    path = tmp_path / name
    ffmpeg(*SCENE, *options, path)
    if name == "turned.mp4":
        ffmpeg("-display_rotation", "90", "-i", path, "-c", "copy", tmp_path / "upright.mp4")
        path = tmp_path / "upright.mp4"
    source = probe(path)
    whole = read_clip(path, 10, 96, source=source)
    for start, end in ((0.0, 1.0), (0.7, 1.9), (1.2, 1.3), (2.5, 9.0)):
        part = read_clip(path, 10, 96, source=source, span=(start, end))
        first, count = round(start * 10), round((min(end, 3.0) - start) * 10)
        assert part.seconds == [k / 10 for k in range(count)]
        assert difference(part.frames, whole.frames[first : first + count]) < 2
    assert len(read_clip(path, 10, 5, source=source, span=(0.5, 2.5)).frames) == 5


def test_a_span_shows_what_is_on_screen_when_it_begins(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=size=64x64:rate=1:duration=4", *H264, tmp_path / "slow.mp4")
    whole = read_clip(tmp_path / "slow.mp4", 4, 96)
    part = read_clip(tmp_path / "slow.mp4", 4, 96, span=(1.5, 2.5))
    assert difference(part.frames, whole.frames[6:10]) < 2


def test_spans_that_cannot_be_read_say_why(tmp_path):
    ffmpeg(*SCENE, *H264, tmp_path / "plain.mp4")
    with pytest.raises(VideoError, match="nothing between 3.5 and 9 s, the video lasts 3.00 s"):
        read_clip(tmp_path / "plain.mp4", 10, 96, span=(3.5, 9))
    ffmpeg(*SCENE, *H264, tmp_path / "raw.h264")
    with pytest.raises(VideoError, match="carry no times to jump to"):
        read_clip(tmp_path / "raw.h264", 10, 96, span=(0, 1))
