"""A part of a video, named as web addresses name one (W3C Media Fragments): `videos/a.mp4#t=1.5,4`.

Such a name stands wherever a video's does: in annotation files, tables and prediction files. Whoever reads it
sees what lies between the two times, in seconds from the file's beginning, as a clip of its own: times count
from the part's start, and nothing behind its end is looked at.
"""

import re
from pathlib import Path

_SECONDS = r"\d{1,9}(?:\.\d{1,9})?"
_PART = re.compile(rf"(.+)#t=({_SECONDS}),({_SECONDS})", re.ASCII | re.DOTALL)


def part_name(name: str, start: float, end: float) -> str:
    """The name of a part of the video `name`; start and end in seconds, kept to the millisecond."""
    return f"{name}#t={round(start, 3):g},{round(end, 3):g}"


def whole_name(name: str) -> str:
    """The name of the video that a part is of; any other name is itself."""
    found = _PART.fullmatch(name)
    return found[1] if found else name


def file_of(path: str | Path) -> Path:
    """The file that holds a video or a part of one."""
    return Path(whole_name(str(path)))


def span_of(name: str | Path) -> tuple[float, float] | None:
    """(start, end) of a part in seconds, None where a name is that of a whole video.

    Raises ValueError where the part does not end behind its start.
    """
    found = _PART.fullmatch(str(name))
    if found is None:
        return None
    start, end = float(found[2]), float(found[3])
    if not start < end:
        raise ValueError(f"the part {found[2]} - {found[3]} s of {found[1]} does not end behind its start")
    return start, end
