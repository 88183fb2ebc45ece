"""File systems of their own, as small as a test wants them."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk_at(folder: Path, kib: int) -> Iterator[Path]:
    """A disk of so many KiB; the test is skipped where none can be mounted."""
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", folder]
    mounted = subprocess.run(words, capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        for _ in range(50):  # a process that just ended may hold it for a moment
            if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
                break
            time.sleep(0.2)
        else:
            subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    """Leave no byte on a disk."""
    with (
        pytest.raises(OSError, match="No space left"),
        open(folder / "filling", "wb", buffering=0) as filling,
    ):
        while filling.write(bytes(4096)):
            pass
