"""A machine where gloo's threads get next to no time:
what shows whether a process ends safely while they still hold tensors.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

GLOO_THREADS = "pt_gloo"  # how torch names the threads that run gloo's collectives
LOWEST = 19


def descendants(pid: int) -> set[int]:
    """The processes that `pid` started, and those that these started."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(OSError):  # it has just ended
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(folder.name))
    found, new = set(), [pid]
    while new:
        new = [child for parent in new for child in children.get(parent, [])]
        found.update(new)
    return found


def _hold_back(pid: int, core: int) -> None:
    """Put all threads of the processes below `pid` on one core, and give gloo's the lowest priority."""
    for process in descendants(pid):
        with suppress(OSError):  # it has just ended
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {core})
                if (thread / "comm").read_text().startswith(GLOO_THREADS):
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), LOWEST)


def run_starved(
    command: list[str], begin: Callable[[], bool], timeout: float, **how
) -> subprocess.CompletedProcess:
    """Run a command; once `begin` says so, all that it started shares one core with a busy loop,
    gloo's threads going last.

    how: for subprocess.Popen. Returns exit code, and both streams as its stdout. Raises TimeoutExpired after
    `timeout` seconds.
    """
    core = min(os.sched_getaffinity(0))
    busy: list[subprocess.Popen] = []
    deadline = time.monotonic() + timeout
    with (
        tempfile.TemporaryFile("w+") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, **how) as process,
    ):
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(command, timeout)
                if not busy and begin():
                    busy.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
                    os.sched_setaffinity(busy[0].pid, {core})
                if busy:
                    _hold_back(process.pid, core)
                time.sleep(0.02)
        finally:
            process.kill()
            for loop in busy:
                loop.kill()
                loop.wait()
        out.seek(0)
        return subprocess.CompletedProcess(command, process.returncode, out.read())
