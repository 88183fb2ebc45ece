"""How much the picture changes from moment to moment, as a few numbers a video: differences, no model.

They see frames and know nothing in them. So they show how far a shake of the camera or a cut alone goes
towards an answer.
"""

import os
from pathlib import Path

import numpy as np
import torch

from crashchat.parts import file_of
from crashchat.video.decode import read_clip
from crashchat.video.pool import each_video
from crashchat.video.source import VideoError

FPS, MOST_FRAMES = 5.0, 512  # longer videos are sampled more sparsely
HEIGHT, WIDTH = 24, 36  # pixels of the grey picture that differences are taken of
GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601
QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# What `motion_of` gives, in order. The first is a time in seconds, which says when rather than what.
MOTION = ("moment", "place", "largest", "mean", *(f"quantile {share}" for share in QUANTILES))


def motion_of(path: Path) -> np.ndarray:
    """float64[len(MOTION)]: when the picture comes that differs most from the one before it, in seconds;
    that difference's place in the clip, 0 to 1; the largest, the mean and QUANTILES of all differences, in
    grey levels of 255.

    Raises VideoError.
    """
    clip = read_clip(path, FPS, MOST_FRAMES, resize=small_grey)
    pictures = clip.frames[:, 0].double().numpy()
    # A clip of one picture does not move.
    changes = np.abs(np.diff(pictures, axis=0)).mean(axis=(1, 2)) if len(pictures) > 1 else np.zeros(1)
    largest = int(changes.argmax())
    place = largest / max(len(changes) - 1, 1)
    figures = [place, changes[largest], changes.mean(), *np.quantile(changes, QUANTILES)]
    return np.array([clip.seconds[min(largest + 1, len(pictures) - 1)], *figures])


def small_grey(frames: torch.Tensor, _: int = 0) -> torch.Tensor:
    """uint8[n, 3, H, W] -> float32[n, 1, HEIGHT, WIDTH], the mean grey of each part of the picture."""
    small = torch.nn.functional.adaptive_avg_pool2d(frames.float(), (HEIGHT, WIDTH))
    return torch.einsum("nchw,c->nhw", small, torch.tensor(GREY))[:, None]


def read_motion(paths: list[Path]) -> list[np.ndarray] | None:
    """`motion_of` of each file, in a process a core; None where one cannot be read."""
    if not all(file_of(path).is_file() for path in paths):  # said before hours of decoding
        return None
    found = each_video(motion_of, paths, os.cpu_count() or 1, "motion")
    read = [motion for motion in found if not isinstance(motion, VideoError)]
    return read if len(read) == len(found) else None
