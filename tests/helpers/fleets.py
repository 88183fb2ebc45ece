"""Processes of a Ray cluster for tests: small ones that die where told to, and how others are killed."""

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

FATAL = "kills who "


class Reader:
    """Reads numbers: the size of n is n % 5 + 1."""

    def read(self, item: int | str) -> tuple[int, str]:
        if item == f"{FATAL}reads":
            os.kill(os.getpid(), signal.SIGKILL)
        return len(str(item)) % 5 + 1, f"read {item}"


class Answerer:
    """Answers with what was read, beside how many were asked together. deaths: a folder in which the item
    "once" leaves that it has killed already.
    """

    def __init__(self, deaths: Path):
        self.deaths = deaths

    def word(self) -> str:
        return "ready"

    def answer(self, items: list, *found: str) -> list[tuple[str, int]]:
        if f"{FATAL}answers" in items:
            os.kill(os.getpid(), signal.SIGKILL)
        if "once" in items and not (self.deaths / "once").exists():
            (self.deaths / "once").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [(one, len(items)) for one in found]


class Broken:
    """Cannot answer."""

    def answer(self, items: list, *found: str) -> list:
        raise ValueError(f"cannot answer {items}")


def descendants(pid: int) -> dict[int, str]:
    """{process id: its command line} of all that a process started, and that they started."""
    parents, words = {}, {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                words[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ").strip()
            except (OSError, IndexError):  # it has ended just now
                continue
    below, found = {pid}, {}
    while new := {child for child, parent in parents.items() if parent in below and child not in below}:
        below |= new
        found |= {child: words.get(child, "") for child in new}
    return found


def kill_at_random(process, names: tuple[str, ...], seed: int, most: int, done: Callable[[], int]) -> int:
    """While a process runs, kill one of its descendants whose command line has one of these names now and
    then, `most` times at most, each after some more was done; returns how many were killed.
    """
    draw, killed, enough = random.Random(seed), 0, 2
    while process.poll() is None:
        time.sleep(0.2)
        if done() < enough:
            continue
        below = sorted(descendants(process.pid).items())
        there = [pid for pid, line in below if any(name in line for name in names)]
        if there and killed < most:
            os.kill(draw.choice(there), signal.SIGKILL)
            killed += 1
            enough = done() + draw.randrange(1, 6)
    return killed
