"""From a clip's frames to what the vision encoder takes in. docs/reference.md, Size to Compression."""

import math
from dataclasses import dataclass, field, replace
from typing import Annotated

import pydantic.dataclasses
import torch
from pydantic import ConfigDict, Field
from torch.nn.functional import interpolate

from crashchat.video.decode import Clip

MOST_TOKENS = 2**24  # of one video, a thousand times what any model takes in
Side = Annotated[int, Field(strict=True, ge=1, le=256)]
Tokens = Annotated[int, Field(strict=True, ge=1, le=MOST_TOKENS)]


@pydantic.dataclasses.dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class VisionSettings:
    """How frames become tokens; the defaults are the training recipe (evaluation takes max_tokens 16384).

    Raises ValueError (pydantic's) for values of another kind, or out of bounds.
    """

    patch_size: Side = 14  # pixels a side of what the encoder sees as one patch
    merge_size: Side = 2  # patches a side that make one visual token
    min_tokens: Tokens = 16  # a frame is never smaller than this many tokens
    max_tokens: Tokens = 10240  # a whole video is at most this many tokens, as long as min_tokens allows
    max_tokens_per_frame: Tokens | None = (
        None  # a frame is at most this many tokens; the released models set no such limit
    )
    # Up to this mean change (normalised pixels x 255) a token is unchanged.
    compression_threshold: Annotated[float, Field(strict=True, ge=0, le=510)] = 0.1

    @property
    def factor(self) -> int:
        """Pixels a side of one visual token."""
        return self.patch_size * self.merge_size


@dataclass
class VisualTokens:
    """One video, ready for the vision encoder. P patches, N = P / merge_size² visual tokens.

    pixel_values: uint8[P, 3·patch²], each patch flattened channel first (3, patch, patch). Patches lie by
        frame, token row, token column, then merge_size x merge_size within the token, row by row. The model
        normalises them, on its device: bytes take a quarter of the room on their way from the processes that
        read videos.
    grid_thw: int64[1, 3], frames, and patches down and across a frame.
    merge_sizes: int64[1].
    compression_mask: bool[N], True for the tokens the language model gets to see.
    seconds: float[T], each frame's time from the stream's start.
    features: float[K, vision hidden], the encoder's output for the kept tokens, of a video found in the
        feature cache; its pixel_values are then uint8[0, 3·patch²].
    cache_key: where the features are to be stored, of a video that was looked for there and not found.
    """

    pixel_values: torch.Tensor
    grid_thw: torch.Tensor
    merge_sizes: torch.Tensor
    compression_mask: torch.Tensor
    seconds: list[float]
    features: torch.Tensor | None = None
    cache_key: str | None = None

    @property
    def num_kept(self) -> int:
        """Visual tokens that reach the language model."""
        return int(self.compression_mask.sum())

    @property
    def kept_per_frame(self) -> list[int]:
        """int[T], visual tokens of each frame that reach the language model."""
        return self.compression_mask.view(int(self.grid_thw[0, 0]), -1).sum(dim=1).tolist()


def without_pixels(visual: VisualTokens) -> VisualTokens:
    """What a batch carries along of a video so that it can be stored once it is encoded."""
    return replace(visual, pixel_values=visual.pixel_values[:0].clone(), features=None)


def target_size(height: int, width: int, num_frames: int, settings: VisionSettings) -> tuple[int, int]:
    """The (height, width) in pixels that each of `num_frames` frames is resized to. docs/reference.md, Size.

    Both are multiples of settings.factor. Where a video has so many frames that both limits can't hold,
    min_tokens a frame wins over max_tokens a video. Raises ValueError for an empty picture or no frames.
    """
    if min(height, width, num_frames) < 1:
        raise ValueError(f"expected a picture and a frame, found {height}x{width} and {num_frames} frames")
    factor = settings.factor
    # A side is at least one factor, or a very long and thin picture would vanish.
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    limit = settings.max_tokens * factor**2 // num_frames
    if settings.max_tokens_per_frame is not None:
        limit = min(limit, settings.max_tokens_per_frame * factor**2)
    least = settings.min_tokens * factor**2
    if new_height * new_width > limit:
        shrink = math.sqrt(height * width / limit)
        new_height = max(factor, math.floor(height / shrink / factor) * factor)
        new_width = max(factor, math.floor(width / shrink / factor) * factor)
    if new_height * new_width < least:
        grow = math.sqrt(least / (height * width))
        new_height = math.ceil(height * grow / factor) * factor
        new_width = math.ceil(width * grow / factor) * factor
    return new_height, new_width


def resize_frames(frames: torch.Tensor, num_frames: int, settings: VisionSettings) -> torch.Tensor:
    """uint8[n, 3, H, W], some of a clip's `num_frames` frames -> uint8[n, 3, h, w] at target_size.

    docs/reference.md, Pixels.
    """
    size = target_size(frames.shape[2], frames.shape[3], num_frames, settings)
    # On uint8 in channels-last layout torch has a fast path that rounds and clamps as image libraries do.
    return interpolate(
        frames.contiguous(memory_format=torch.channels_last), size=size, mode="bicubic", antialias=True
    )


def visual_tokens(clip: Clip, settings: VisionSettings) -> VisualTokens:
    """Cut a clip's resized frames into patches, and mark the tokens
    that say something new. docs/reference.md, Patches.

    normalise() is left for the model to do. Raises ValueError where clip.frames isn't uint8[T, 3, h, w], h
    and w multiples of settings.factor (see resize_frames).
    """
    frames = clip.frames
    if (
        frames.dtype != torch.uint8
        or frames.ndim != 4
        or frames.shape[1] != 3
        or any(n % settings.factor for n in frames.shape[2:])
    ):
        raise ValueError(
            f"{clip.path}: expected frames uint8[T, 3, h, w], resized to multiples of {settings.factor}, "
            f"found {frames.dtype}{list(frames.shape)}"
        )
    pixels = _patches(frames, settings)
    rows, columns = frames.shape[2] // settings.patch_size, frames.shape[3] // settings.patch_size
    return VisualTokens(
        pixel_values=pixels,
        grid_thw=torch.tensor([[len(frames), rows, columns]]),
        merge_sizes=torch.tensor([settings.merge_size]),
        compression_mask=_compression_mask(pixels, len(frames), settings),
        seconds=list(clip.seconds),
    )


def normalise(pixel_values: torch.Tensor) -> torch.Tensor:
    """uint8 grey levels -> float32 in [-1, 1], with SigLIP's mean and deviation of 0.5
    (docs/reference.md, Pixels).
    """
    return pixel_values.float().div_(255).sub_(0.5).div_(0.5)


def _patches(frames: torch.Tensor, settings: VisionSettings) -> torch.Tensor:
    """uint8[T, 3, H, W] -> uint8[P, 3·patch²], the patches of one token next to each other.

    docs/reference.md, Patches.
    """
    count, channels, height, width = frames.shape
    merge, patch = settings.merge_size, settings.patch_size
    grid = frames.reshape(
        count, channels, height // settings.factor, merge, patch, width // settings.factor, merge, patch
    )
    return grid.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, channels * patch * patch)


def _compression_mask(pixels: torch.Tensor, num_frames: int, settings: VisionSettings) -> torch.Tensor:
    """uint8[P, ·] -> bool[N]: False for a token that looks as it did a frame before. docs/reference.md,
    Compression.

    The first frame stays whole, and a frame in which nothing changed keeps its first token, so that each has
    one.
    """
    tokens = pixels.view(num_frames, pixels.shape[0] // num_frames // settings.merge_size**2, -1)
    kept = torch.ones(tokens.shape[:2], dtype=torch.bool)
    # Normalised pixels differ by 2 / 255 a grey level, so that mean x 255 is twice the mean difference in
    # grey levels.
    limit = settings.compression_threshold * tokens.shape[2] / 2
    # One frame at a time: the difference of a whole video at once would take as much memory again as the
    # video.
    for frame in range(1, num_frames):
        now, before = tokens[frame], tokens[frame - 1]
        change = (torch.maximum(now, before) - torch.minimum(now, before)).sum(dim=-1, dtype=torch.int32)
        kept[frame] = change > limit
        kept[frame, 0] |= ~kept[frame].any()
    return kept.flatten()


@dataclass(frozen=True)
class VideoSettings:
    """How a video file becomes visual tokens: sampling (fps, max_frames), then size,
    pixels and compression.
    """

    fps: float = 10.0
    max_frames: int = 96
    vision: VisionSettings = field(default_factory=VisionSettings)
    token_compression: bool = True

    def end_of(self, visual: VisualTokens) -> float:
        """Seconds at which a video ends, as far as its frames tell: one frame's time after the last."""
        return visual.seconds[-1] + 1 / self.fps

    def frame_ends(self, visual: VisualTokens) -> list[float]:
        """Seconds at which a video's frames begin, and at which the last one ends."""
        return [*visual.seconds, self.end_of(visual)]


def tokens_of_clip(clip: Clip, settings: VideoSettings) -> VisualTokens:
    """The visual tokens of a clip whose frames are resized, all of them kept when compression is off."""
    visual = visual_tokens(clip, settings.vision)
    if not settings.token_compression:
        visual.compression_mask.fill_(True)
    return visual
