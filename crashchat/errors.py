"""What a user can mend, said in one line: the base of all such errors, and how a command ends with one."""

import errno
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

FULL = (errno.ENOSPC, errno.EDQUOT)
# How the two libraries that write weights say that a file could not be written: neither raises an OSError.
UNWRITTEN = (
    "No space left on device",
    "Disk quota exceeded",
    "inline_container.cc",
    "PytorchStreamWriter failed",
)
FIRST_SPEAKS = 60.0  # seconds that other processes leave the first one for saying what all of them found


class CrashChatError(Exception):
    """Something a user can mend; the message names the file or key, what was found,
    what was expected and what to do.
    """

    everywhere = False  # True: every process of a run finds it alike, so that the first one says it for all


def abbreviate(value: object, length: int = 120) -> str:
    """A value as Python writes it, for a message; of a long one the beginning and how long it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, lists within lists without end
        return f"a {type(value).__name__} too large to be shown"
    return text if len(text) <= length else f"{text[:length]}… ({len(text):,} characters)"


def opening(error: BaseException, length: int = 160) -> str:
    """The first line of what a library's error says, cut: of a damaged file it may repeat all."""
    text = str(error).partition("\n")[0]
    return text if len(text) <= length else f"{text[:length]}…"


def listed(problems: list[str], limit: int = 20) -> str:
    """Problems for the end of a message: one on its line, several below it, each on its own."""
    if len(problems) == 1:
        return f" {problems[0]}"
    more = [f"… and {len(problems) - limit} more"] if len(problems) > limit else []
    return "".join(f"\n  {problem}" for problem in problems[:limit] + more)


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Within it, a full disk is an OSError that names `path`,
    whoever found it and whatever it says itself.
    """
    try:
        yield
    except OSError as error:
        if error.errno in FULL and error.filename is None:
            error.filename = str(path)
        raise
    except Exception as error:
        if isinstance(error, CrashChatError) or not any(words in str(error) for words in UNWRITTEN):
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def error_line(error: BaseException) -> str | None:
    """What a user can mend of it, in words for them; None for an error that is ours to mend."""
    if not isinstance(error, CrashChatError | OSError):
        return None
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in FULL:
            where = f"{cause.filename}: " if cause.filename is not None else ""
            return f"{where}no space left on device; free some or name another folder, then run this again"
        cause = cause.__cause__
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def exit_code(work: Callable[[], int | None], failed: int = 1) -> int:
    """Do a command's work.

    What it returns or 0, or `failed` after a line on stderr where it met what a user can mend.
    """
    try:
        return work() or 0
    except Exception as error:
        line = error_line(error)
        if line is None:
            raise
        wait = getattr(error, "everywhere", False) and int(os.environ.get("RANK", "0")) > 0
    if wait:
        # The first process says it too and ends, and then the launcher ends this one: had this one ended
        # before, the launcher might have ended the first before it spoke. Who is still here afterwards is
        # alone with the error.
        time.sleep(FIRST_SPEAKS)
    # Out here the error's frames are gone, and with them the progress bars that were open in them: the line
    # comes last.
    gc.collect()
    tqdm.write(f"error: {line}", file=sys.stderr)
    return failed
