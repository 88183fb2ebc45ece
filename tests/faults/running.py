"""Processes with an end, and workers that may die."""

import contextlib
import io
import multiprocessing
import os
import queue
import signal
import subprocess
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from crashchat.config import ROOT

Verdict = tuple[str, str]  # how a case ended, and what is wrong with that
MOST_MEMORY = 4 * 1024**3  # bytes; a process that takes more counts as lost
SLOWEST = 600.0  # seconds until a process counts as hanging, far more than any needs on a busy machine
ENVIRONMENT = {
    "PYTHON": sys.executable,
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "DS_ACCELERATOR": "cpu",
}
MARK = "CRASHCHAT_FAULTS_RUN"  # environment variable by which all processes of one run are found, orphans too


def peak(pid: int) -> int:
    """Most bytes that a process ever held; 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class Running:
    """A real process at the project's root, its output in `log`.

    Whatever it starts is found by a mark, orphans too.
    """

    def __init__(self, words: Iterable[object], log: Path, **environment: str):
        self.log, self.mark = log, uuid.uuid4().hex
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "wb") as output:
            self.process = subprocess.Popen(
                [os.fspath(word) if isinstance(word, Path) else str(word) for word in words],
                cwd=ROOT,
                env=os.environ | ENVIRONMENT | environment | {MARK: self.mark},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _holds(self, pid: int) -> bool:
        """Whether a process is of this run and has not ended."""
        try:
            return f"{MARK}={self.mark}".encode() in Path(f"/proc/{pid}/environ").read_bytes()
        except OSError:  # it has just ended, or is another user's
            return False

    def alive(self) -> list[int]:
        """The processes of this run that have not ended."""
        return [
            int(folder.name)
            for folder in Path("/proc").iterdir()
            if folder.name.isdigit() and self._holds(int(folder.name))
        ]

    def strike(self, pid: int) -> None:
        """Kill one of its processes; nobody else who has got its number meanwhile."""
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            try:
                if self._holds(pid):
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
            finally:
                os.close(handle)

    def kill(self) -> None:
        """Kill all of them, those that are started meanwhile too."""
        while pids := self.alive():
            for pid in pids:
                self.strike(pid)
            self.process.poll()
            time.sleep(0.05)
        self.process.wait()

    def wait(self, seconds: float = SLOWEST) -> str:
        """Wait for the end; returns what is wrong: that it hangs or takes too much memory.

        It is then killed.
        """
        end = time.monotonic() + seconds
        while self.process.poll() is None:
            if peak(self.process.pid) > MOST_MEMORY:
                self.kill()
                return "takes more than 4 GiB of memory"
            if time.monotonic() > end:
                self.kill()
                return f"has not ended in {seconds:.0f} s"
            time.sleep(0.05)
        return ""

    @property
    def code(self) -> int:
        """The exit code, once it has ended."""
        return self.process.wait()

    def output(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")


def call(main: Callable[[], int], *words: str) -> tuple[int, str]:
    """Call a command's main in this process, with these words for its command line:
    exit code and all that it said.

    A traceback is part of that, with exit code 1, as in a process of its own.
    """
    said, before = io.StringIO(), sys.argv
    sys.argv = ["command", *words]
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                code = main()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1
            except Exception:
                traceback.print_exc()
                code = 1
    finally:
        sys.argv = before
    return code or 0, said.getvalue()


def _serve(connection, log: str) -> None:
    """A worker: judge what comes in. Its output, libraries' warnings mostly, goes to a file."""
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    while task := connection.recv():
        judge, job = task
        try:
            verdict = judge(*job)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            verdict = "", f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno}: {error}"[:400]
        connection.send(verdict)


class Workers:
    """Processes that judge cases. One that dies, hangs or grows is a loss of its case, and is replaced."""

    def __init__(self, folder: Path, count: int = 2):
        self.folder, self._slots = folder, [[None, None] for _ in range(count)]

    def map(
        self, judge: Callable[..., Verdict], jobs: dict[int, tuple], seconds: float
    ) -> Iterator[tuple[int, str, str]]:
        """(number, how it ended, what is wrong) of each job {number: arguments}, in any order.

        seconds: a job's deadline.
        """
        free: queue.SimpleQueue[list] = queue.SimpleQueue()
        for slot in self._slots:
            free.put(slot)

        def work(number: int, job: tuple) -> tuple[int, str, str]:
            slot = free.get()
            try:
                return number, *self._judge(slot, judge, job, seconds)
            finally:
                free.put(slot)

        pool = ThreadPoolExecutor(len(self._slots))
        try:
            for done in as_completed([pool.submit(work, *item) for item in jobs.items()]):
                yield done.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _judge(self, slot: list, judge: Callable[..., Verdict], job: tuple, seconds: float) -> Verdict:
        process, connection = slot
        if process is None or not process.is_alive():
            connection, there = multiprocessing.Pipe()
            context = multiprocessing.get_context("forkserver")  # a worker that died is soon replaced
            context.set_forkserver_preload(["tests.faults.clips", "tests.faults.files"])
            process = context.Process(
                target=_serve, args=(there, str(self.folder / "workers.log")), daemon=True
            )
            process.start()
            there.close()
            slot[:] = process, connection
        wrong = ""
        connection.send((judge, job))
        end = time.monotonic() + seconds
        try:
            while not connection.poll(0.1) and not wrong:
                if peak(process.pid) > MOST_MEMORY:
                    wrong = "takes more than 4 GiB of memory"
                elif time.monotonic() > end:
                    wrong = f"has not ended in {seconds:.0f} s"
            if not wrong:
                verdict = connection.recv()
                if peak(process.pid) <= MOST_MEMORY:
                    return verdict
                wrong = "took more than 4 GiB of memory"
        except EOFError:
            process.join()
            wrong = f"the process died with exit code {process.exitcode}"
        process.kill()
        process.join()
        return "", wrong

    def close(self) -> None:
        """Let the workers go."""
        for process, connection in self._slots:
            if process is not None and process.is_alive():
                connection.send(None)
                process.join()
