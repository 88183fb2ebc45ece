"""Clips that browsers cannot play, copied into ones that they can."""

import os
from pathlib import Path

import ffmpeg
import imageio_ffmpeg

from crashchat.video.source import OPTIONS, Source, VideoError

# What Chrome, Firefox and Safari have in common: {codec: formats}.
PLAYED = {"h264": {"mov", "mp4"}, "vp8": {"webm"}, "vp9": {"webm", "mp4"}, "av1": {"webm", "mp4"}}
PIXELS = {"yuv420p", "yuvj420p"}


def is_playable(source: Source) -> bool:
    """Whether any browser plays the file as it is."""
    formats = PLAYED.get(source.codec, set())
    return source.pixels in PIXELS and not formats.isdisjoint(source.format.split(","))


def write_playable(path: Path, out: Path) -> None:
    """Write the video of `path` to `out`, an mp4 in H.264, without its sound. Whole or not at all.

    Raises VideoError where ffmpeg cannot read it.
    """
    temporary = out.with_name(f".{out.name}")
    video = ffmpeg.input(str(path.absolute()), **OPTIONS).video.filter("pad", "ceil(iw/2)*2", "ceil(ih/2)*2")
    coded = {"vcodec": "libx264", "preset": "veryfast", "pix_fmt": "yuv420p", "movflags": "+faststart"}
    command = ffmpeg.output(video, str(temporary), format="mp4", **coded).global_args("-nostdin")
    try:
        ffmpeg.run(command, cmd=imageio_ffmpeg.get_ffmpeg_exe(), quiet=True, overwrite_output=True)
    except ffmpeg.Error as error:
        temporary.unlink(missing_ok=True)
        last = error.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise VideoError(path, f"cannot be made playable ({last[0] if last else 'ffmpeg failed'})") from error
    os.replace(temporary, out)
