"""A video file, or a part of a recording, as visual tokens: from the file, or from the feature cache."""

import warnings
from dataclasses import asdict
from functools import partial
from pathlib import Path

from torch import nn

from crashchat.video.decode import read_clip
from crashchat.video.feature_cache import FeatureCache
from crashchat.video.source import Source, VideoError, check_file
from crashchat.video.tokens import VideoSettings, VisualTokens, resize_frames, tokens_of_clip


def read_visual_tokens(path: str, settings: VideoSettings, cache: FeatureCache | None = None) -> VisualTokens:
    """A video file as visual tokens (docs/reference.md, Frames to Compression),
    all of them kept when compression is off.

    A path may name a part (parts.py). With its features instead of pixels, if `cache` has them; if not, with
    the key to store them under. Raises VideoError for a file that cannot be read.
    """
    check_file(path)
    key = None
    if cache is not None:
        try:
            key = cache.key(path)
        except OSError as error:
            raise VideoError(path, f"can't be read ({error.strerror})") from error
        visual = cache.load(key)
        if visual is not None:
            return visual

    resize = partial(resize_frames, settings=settings.vision)
    visual = tokens_of_clip(read_clip(path, settings.fps, settings.max_frames, resize=resize), settings)
    visual.cache_key = key
    return visual


def read_span(
    path: Path, settings: VideoSettings, span: tuple[float, float], source: Source | None = None
) -> VisualTokens:
    """A part of a recording, (start, end) in seconds, as visual tokens; source: as for read_clip.

    Raises VideoError.
    """
    resize = partial(resize_frames, settings=settings.vision)
    clip = read_clip(
        path, settings.fps, settings.max_frames, threads=0, resize=resize, source=source, span=span
    )
    return tokens_of_clip(clip, settings)


def open_feature_cache(
    folder: Path | None, limit_gb: float, encoder: nn.Module, settings: VideoSettings
) -> FeatureCache | None:
    """The feature cache in `folder` for this vision encoder and these settings;
    None where no folder is given.

    None also where the folder cannot be made: that is warned about, and no reason to stop.
    """
    if folder is None:
        return None
    try:
        return FeatureCache(folder, limit_gb, encoder, asdict(settings))
    except OSError as error:
        warnings.warn(
            f"{folder}: no feature cache can be made there, the run goes on without ({error.strerror})",
            stacklevel=2,
        )
        return None
