"""What browsers do not play is copied into what they do."""

import pytest

from crashchat.video.decode import read_clip
from crashchat.video.playable import is_playable, write_playable
from crashchat.video.source import VideoError, probe
from tests.helpers.clips import H264, SCENE, difference, ffmpeg

ODD = ("-f", "lavfi", "-i", "testsrc2=size=161x97:rate=25:duration=1,format=bgr0")


@pytest.mark.parametrize(
    "name, options", [("a.avi", ("-c:v", "mpeg4")), ("a b'%d.ts", H264), ("a.mkv", H264)]
)
def test_a_copy_is_playable_and_shows_the_same(tmp_path, name, options):
    ffmpeg(*SCENE, *options, tmp_path / name)
    assert not is_playable(probe(tmp_path / name))
    write_playable(tmp_path / name, tmp_path / "copy.mp4")
    assert is_playable(probe(tmp_path / "copy.mp4")) and len(list(tmp_path.iterdir())) == 2
    frames, copied = (read_clip(tmp_path / one, 10, 96).frames for one in (name, "copy.mp4"))
    assert difference(frames.numpy(), copied.numpy()) < 5.0


def test_odd_sizes_are_padded_and_h264_in_mp4_is_left_alone(tmp_path):
    ffmpeg(*ODD, "-c:v", "ffv1", "-pix_fmt", "bgr0", tmp_path / "odd.mkv")
    write_playable(tmp_path / "odd.mkv", tmp_path / "copy.mp4")
    copy = probe(tmp_path / "copy.mp4")
    assert (copy.height, copy.width) == (98, 162) and is_playable(copy)


def test_what_is_no_video_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile 'other.mp4'\n")
    with pytest.raises(VideoError, match=r"list\.mp4: cannot be made playable"):
        write_playable(tmp_path / "list.mp4", tmp_path / "copy.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["list.mp4"]
