"""Clips made by ffmpeg, and how far two readings of one are apart."""

import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np

SCENE = ("-f", "lavfi", "-i", "testsrc2=size=160x96:rate=25:duration=3")
H264 = ("-c:v", "libx264", "-preset", "ultrafast", "-bf", "2", "-pix_fmt", "yuv420p")
TONE = ("-f", "lavfi", "-i", "sine=duration=4")


def ffmpeg(*arguments) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True).stdout


def ffmpeg_frames(path: Path, fps: float, height: int, width: int) -> np.ndarray:
    """uint8[T, 3, H, W], what ffmpeg's own filter makes of the file: the reference's way."""
    raw = ffmpeg("-i", path, "-vf", f"fps={fps}:round=down", "-f", "rawvideo", "-pix_fmt", "rgb24", "-")
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3).transpose(0, 3, 1, 2)


def difference(one, other) -> float:
    """Largest mean absolute difference of a frame, in grey levels."""
    assert one.shape == other.shape
    return float(
        np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32)).mean(axis=(1, 2, 3)).max()
    )
