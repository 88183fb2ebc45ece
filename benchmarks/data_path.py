"""From a video file to the model's input: frames a second, against the plain way.

    plain    an ffmpeg pipe of all full frames at 10 a second, those beyond max_frames thinned out, then PIL's
    bicubic resize,
             numpy normalisation, patches and compression mask, one pass a question
    shared   crashchat.training.batches.read_visual_tokens, one pass a video

Both give the same tensors, up to a grey level of rounding, which is checked first; both run on `--threads`
threads, one by default, as in one of several processes that read ahead. A pass is measured as a whole and in
parts.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import torch
from common import machine, median, turns
from PIL import Image

from crashchat.files import write_json_atomic
from crashchat.video.decode import read_clip
from crashchat.video.reading import read_visual_tokens
from crashchat.video.tokens import (
    VideoSettings,
    VisionSettings,
    VisualTokens,
    normalise,
    resize_frames,
    target_size,
    visual_tokens,
)

SIZES = {"360p": (640, 360), "720p": (1280, 720), "1080p": (1920, 1080)}
QUESTIONS = 6
EXAMPLE = "python benchmarks/data_path.py --sizes 720p 1080p --clips data/videos/cap_21_008073.mp4"


def make_clip(size: str, seconds: int, folder: Path) -> Path:
    """An H.264 file with x264's own settings at 30 frames a second: moving shapes with some noise,
    like a camera's.
    """
    width, height = SIZES[size]
    path = folder / f"made_{size}_{seconds}s.mp4"
    source = f"testsrc2=size={width}x{height}:rate=30:duration={seconds},noise=alls=6:allf=t"
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        source,
        "-c:v",
        "libx264",
    ]
    subprocess.run([*command, "-pix_fmt", "yuv420p", str(path)], check=True)
    return path


def piped_frames(path: Path, fps: float, threads: int) -> np.ndarray:
    """uint8[T, H, W, 3], all frames at `fps` in full size."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(),
        "-v",
        "error",
        "-threads",
        str(threads),
        "-filter_threads",
        str(threads),
    ]
    command += ["-i", str(path), "-vf", f"fps={fps:g}:round=down", "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    raw = subprocess.run(command, check=True, capture_output=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, *picture_size(path), 3)


def picture_size(path: Path) -> tuple[int, int]:
    """(height, width) of an upright video."""
    metadata = next(imageio_ffmpeg.read_frames(str(path)))
    return metadata["size"][1], metadata["size"][0]


class Plain:
    """The plain way; `parts` holds each part's seconds, a list of all passes."""

    def __init__(self, path: Path, settings: VideoSettings, threads: int):
        self.path, self.settings, self.threads = path, settings, threads
        self.parts: dict[str, list[float]] = {"ffmpeg pipe": [], "PIL resize": [], "numpy": []}

    def __call__(self) -> tuple[np.ndarray, np.ndarray]:
        """float32[P, 588] and bool[N], docs/reference.md, Patches and Compression."""
        vision, clock = self.settings.vision, [time.perf_counter()]
        frames = piped_frames(self.path, self.settings.fps, self.threads)
        if len(frames) > self.settings.max_frames:
            frames = frames[np.linspace(0, len(frames) - 1, self.settings.max_frames, dtype=int)]
        clock.append(time.perf_counter())
        height, width = target_size(*frames.shape[1:3], len(frames), vision)
        frames = np.stack(
            [np.asarray(Image.fromarray(frame).resize((width, height), Image.BICUBIC)) for frame in frames]
        )
        clock.append(time.perf_counter())
        pixels = ((frames.astype(np.float32) / 255 - 0.5) / 0.5).transpose(0, 3, 1, 2)
        patch, merge = vision.patch_size, vision.merge_size
        grid = pixels.reshape(len(frames), 3, height // 28, merge, patch, width // 28, merge, patch)
        pixels = grid.transpose(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, 3 * patch * patch)
        tokens = pixels.reshape(len(frames), -1, merge * merge * 3 * patch * patch)
        kept = np.ones(tokens.shape[:2], bool)
        kept[1:] = np.abs(tokens[1:] - tokens[:-1]).mean(-1) * 255 > vision.compression_threshold
        kept[:, 0] |= ~kept.any(1)
        clock.append(time.perf_counter())
        for name, seconds in zip(self.parts, np.diff(clock), strict=True):
            self.parts[name].append(float(seconds))
        return pixels, kept.reshape(-1)


class Shared:
    """Ours, by the same steps as read_visual_tokens, timed in parts."""

    def __init__(self, path: Path, settings: VideoSettings, threads: int):
        self.path, self.settings, self.threads = path, settings, threads
        self.parts: dict[str, list[float]] = {"probe and decode": [], "resize": [], "patches and mask": []}

    def __call__(self) -> VisualTokens:
        resizing, start = 0.0, time.perf_counter()

        def resize(frames: torch.Tensor, num_frames: int) -> torch.Tensor:
            nonlocal resizing
            began = time.perf_counter()
            frames = resize_frames(frames, num_frames, self.settings.vision)
            resizing += time.perf_counter() - began
            return frames

        clip = read_clip(
            self.path, self.settings.fps, self.settings.max_frames, threads=self.threads, resize=resize
        )
        read = time.perf_counter()
        visual = visual_tokens(clip, self.settings.vision)
        for name, seconds in zip(
            self.parts, (read - start - resizing, resizing, time.perf_counter() - read), strict=True
        ):
            self.parts[name].append(seconds)
        return visual


def compare(path: Path, settings: VideoSettings, threads: int, repeats: int) -> dict:
    """Both ways on one file. Raises ValueError where they do not give the same."""
    plain, shared = Plain(path, settings, threads), Shared(path, settings, threads)
    pixels, kept = plain()
    visual = shared()
    if not torch.equal(visual.pixel_values, read_visual_tokens(str(path), settings).pixel_values):
        raise ValueError(f"{path}: what is measured is not what read_visual_tokens gives")
    if pixels.shape != tuple(visual.pixel_values.shape):
        raise ValueError(
            f"{path}: {pixels.shape} values one way, {tuple(visual.pixel_values.shape)} the other"
        )
    levels = np.abs(normalise(visual.pixel_values).numpy() - pixels) * 127.5
    if (
        np.percentile(levels, 99.9) > 2.5
    ):  # a grey level of resizing, and another ffmpeg's rounding of colours below it
        raise ValueError(f"{path}: the ways differ by {np.percentile(levels, 99.9):.1f} grey levels")
    seconds = turns({"plain": plain, "shared": shared}, repeats)
    frames = int(visual.grid_thw[0, 0])
    ratio = median(seconds["plain"]) / median(seconds["shared"])
    return {
        "clip": path.name,
        "frames": frames,
        "grey levels apart, mean": float(levels.mean()),
        "tokens kept by one way alone": float((kept != visual.compression_mask.numpy()).mean()),
        "MB to the main process": {"plain": pixels.nbytes / 1e6, "shared": visual.pixel_values.nbytes / 1e6},
        "seconds": {way: median(values) for way, values in seconds.items()},
        "frames/s": {way: frames / median(values) for way, values in seconds.items()},
        "parts, seconds": {
            way: {name: median(values[-repeats:]) for name, values in maker.parts.items()}
            for way, maker in (("plain", plain), ("shared", shared))
        },
        "ratio, one pass": ratio,
        f"ratio, {QUESTIONS} questions": QUESTIONS * ratio,
    }


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"example: {EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--sizes",
        nargs="*",
        choices=SIZES,
        default=["720p", "1080p"],
        help="clips to make (default %(default)s)",
    )
    parser.add_argument("--seconds", type=int, default=10, help="length of the made clips (default 10)")
    parser.add_argument(
        "--clips", nargs="*", type=Path, default=[], help="real video files to measure as well"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of decoder and resizing, both ways (default 1)"
    )
    parser.add_argument("--fps", type=float, default=10, help="frames a second (default 10)")
    parser.add_argument("--max-frames", type=int, default=96, help="frames of a clip at most (default 96)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="turns of each way, after one that warms up (default 5)"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data_path_cpu.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = VideoSettings(arguments.fps, arguments.max_frames, VisionSettings())
    results = []
    with tempfile.TemporaryDirectory() as folder:
        made = [make_clip(size, arguments.seconds, Path(folder)) for size in arguments.sizes]
        for path in [*made, *arguments.clips]:
            results.append(compare(path, settings, arguments.threads, arguments.repeats))
    print(f"{machine()['device']}; {arguments.threads} thread(s) each way")
    print(f"{'clip':32}{'frames':>7}{'plain f/s':>11}{'shared f/s':>11}{'one pass':>10}{'6 questions':>12}")
    for result in results:
        rates = result["frames/s"]
        print(
            f"{result['clip']:32}{result['frames']:>7}{rates['plain']:>11.1f}{rates['shared']:>11.1f}"
            f"{result['ratio, one pass']:>9.2f}x{result[f'ratio, {QUESTIONS} questions']:>11.1f}x"
        )
        for way, parts in result["parts, seconds"].items():
            print(f"    {way:8}" + ", ".join(f"{name} {seconds:.3f} s" for name, seconds in parts.items()))
    print(
        f"{QUESTIONS} questions: {QUESTIONS} plain passes (one measured, times {QUESTIONS}) against one of "
        "ours."
    )
    write_json_atomic(
        arguments.out,
        {"benchmark": "data_path", "machine": machine(), "threads": arguments.threads, "clips": results},
    )
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
