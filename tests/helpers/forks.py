"""Commands in processes that are forked from the test's own, and so have imported torch and all else already.

A process of its own in all that the tests look at: its memory, what it prints, its exit code, its end by a
signal. What a user's process does besides, an interpreter's start, the scripts and torchrun, `commands.run`
shows: it takes seconds until such a process has imported what training needs.
"""

import atexit
import gc
import importlib
import multiprocessing.forkserver
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, NoReturn

from crashchat import __main__ as program
from crashchat.config import ROOT

# What scripts/launch.sh says where there is no GPU.
QUIET = {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false", "DS_ACCELERATOR": "cpu"}
# What the commands import when they are at work: one import here spares one in every process.
LATER = {
    "train": ("crashchat.training.setup", "matplotlib.backends.backend_agg", "torch.utils.tensorboard"),
    "serve": ("gradio", "uvicorn", "crashchat.serving.page"),
    "review": ("uvicorn",),
}
LATER |= {"reinforce": LATER["train"], "prefer": LATER["train"]}


class Fork:
    """A process that was forked; of subprocess.Popen what the tests need."""

    def __init__(
        self, main: Callable[[], object], out: IO, errors: IO, environment: Mapping[str, str] = QUIET
    ):
        """main: what the process does; out, errors: where it prints to."""
        sys.stdout.flush()
        sys.stderr.flush()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _run(main, out, errors, environment)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        if self.returncode is None:
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 900) -> int:
        """Until it ends. Raises TimeoutExpired."""
        end = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("a forked command", timeout)
            time.sleep(0.01)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _run(main: Callable[[], object], out: IO, errors: IO, environment: Mapping[str, str]) -> NoReturn:
    """Do what this process is for, as one that begins, and end."""
    code = 1
    try:
        atexit._clear()  # what the test's process has to do at its end is not this one's
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(out.fileno(), 1)
        os.dup2(errors.fileno(), 2)
        sys.stdin = open(0, closefd=False)
        tempfile.tempdir = None  # TMPDIR may be another
        multiprocessing.forkserver._forkserver._forkserver_pid = None  # the test's, where it has one
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        os.environ.update(environment)
        os.chdir(ROOT)
        main()
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if isinstance(stop.code, str):
            print(stop.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def imported(command: str) -> None:
    """Import all that a command will, so that its process needs not."""
    for name in (f"crashchat.{program.COMMANDS[command][0]}", *LATER.get(command, ())):
        program.imported(name)
    gc.freeze()  # the processes then leave their shared memory as it is


def begin(
    words: list[str], out: IO, errors: IO | None = None, environment: Mapping[str, str] | None = None
) -> Fork:
    """Begin `crashchat WORDS`; out, errors: where it prints to, without `errors` all to `out`."""
    imported(words[0])

    def main() -> None:
        sys.argv = ["crashchat", *words]
        program.run()

    return Fork(main, out, errors or out, QUIET | dict(environment or {}))


def ended(begun: Callable[[IO, IO], Fork]) -> subprocess.CompletedProcess:
    """The end of a process, which begins with the two files that it prints to: its exit code, and what is in
    them as stdout and stderr.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        code = begun(out, errors).wait()
        out.seek(0)
        errors.seek(0)
        return subprocess.CompletedProcess("forked", code, out.read(), errors.read())


def completed(*words: str | Path) -> subprocess.CompletedProcess:
    """`crashchat WORDS` to its end."""
    return ended(lambda out, errors: begin([str(word) for word in words], out, errors))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ranks(words: list[str], processes: int) -> subprocess.CompletedProcess:
    """`crashchat WORDS` on so many processes, as torchrun would start them: when one fails, all end.

    Returns the first exit code that is not 0, and as its stdout what all of them printed.
    """
    group: dict[str, str] = {}
    if any(word.startswith("deepspeed=") for word in words):
        os.environ.setdefault(
            "DS_ACCELERATOR", QUIET["DS_ACCELERATOR"]
        )  # which it asks for when it is imported
        importlib.import_module("deepspeed")
    if processes > 1 or "deepspeed=" in " ".join(words):
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        group |= {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    with tempfile.NamedTemporaryFile("a+") as out:
        begun = []
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if group else {}
            begun.append(begin(words, out, environment=group | own))
        end, code = time.monotonic() + 900, 0
        while any(one.poll() is None for one in begun):
            if not code and (code := next((one.returncode for one in begun if one.returncode), 0)):
                end = min(end, time.monotonic() + 30)  # the first process, which speaks for all, may say why
            if begun[0].returncode or time.monotonic() > end:
                for one in begun:
                    one.kill()
            time.sleep(0.01)
        code = code or next((one.returncode for one in begun if one.returncode), 0)
        return subprocess.CompletedProcess(words, code, Path(out.name).read_text())
