"""A bad video file is one clear error, wherever it is read."""

import pickle
from pathlib import Path

import pytest

from crashchat.video.decode import read_clip
from crashchat.video.source import VideoError
from tests.helpers.clips import TONE, ffmpeg


def damage(kind: str, plain: Path, folder: Path) -> Path:
    path = folder / "bad.mp4"
    whole = plain.read_bytes()
    half = len(whole) // 2
    if kind == "directory":
        path.mkdir()
    elif kind == "unknown codec":
        path.write_bytes(whole.replace(b"avc1", b"q?q1"))
    elif kind == "audio only":
        ffmpeg(*TONE, path)
    elif kind == "cover art":
        path = folder / "song.m4a"
        picture = ("-f", "lavfi", "-i", "color=red:size=64x64:duration=1:rate=1")
        ffmpeg(
            *TONE,
            *picture,
            "-map",
            "0",
            "-map",
            "1",
            "-c:v",
            "mjpeg",
            "-disposition:v:0",
            "attached_pic",
            path,
        )
    elif kind == "text":
        path = folder / "bad.txt"
        path.write_text("not a video\n" * 100)
    elif kind == "cut mkv":
        path = folder / "bad.mkv"
        ffmpeg("-i", plain, "-c", "copy", path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "cut without index":
        ffmpeg("-i", plain, "-c", "copy", path)  # the index goes to the end
        path.write_bytes(path.read_bytes()[:half])
    elif kind != "missing":
        contents = {"empty": b"", "text as mp4": b"not a video\n" * 100, "cut": whole[:half],
                    "cut near the end": whole[: len(whole) * 95 // 100],
                    "zeros from the middle": whole[:half] + bytes(len(whole) - half)}  # fmt: skip
        path.write_bytes(contents[kind])
    return path


BAD = {
    "missing": "no such file",
    "empty": "0 bytes",
    "directory": "directory",
    "text": "text file",
    "text as mp4": "not readable as a video",
    "audio only": r"no video stream in it \(found: audio\)",
    "cover art": "no video stream",
    "cut": "cut off",
    "cut near the end": "cut off",
    "cut without index": "cut off",
    "cut mkv": "cut off: .* promised",
    "zeros from the middle": "damaged",
    "unknown codec": "Decoder not found",
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file_is_one_clear_error(kind, plain, tmp_path):
    path = damage(kind, plain, tmp_path)
    with pytest.raises(VideoError, match=BAD[kind]) as caught:
        read_clip(path, 10, 96)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_error_survives_the_way_out_of_a_worker():
    error = pickle.loads(pickle.dumps(VideoError("a.mp4", "cut off")))
    assert (str(error), error.path, error.cause) == ("a.mp4: cut off", "a.mp4", "cut off")


@pytest.mark.parametrize(
    "name, text",
    [
        ("list.m3u8", "#EXTM3U\n#EXTINF:3,\nplain.mp4\n"),
        ("list.mp4", "ffconcat version 1.0\nfile plain.mp4\n"),
    ],
)
def test_a_list_of_other_files_is_no_video(plain, tmp_path, name, text):
    (tmp_path / "plain.mp4").write_bytes(plain.read_bytes())
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError, match="not readable as a video"):
        read_clip(tmp_path / name, 10, 96)
