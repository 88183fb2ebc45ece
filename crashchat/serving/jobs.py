"""Clips that are looked at while nobody waits: each is a job, with an id, its progress, and its result."""

import queue
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from crashchat.analysis.recording import Progress
from crashchat.analysis.results import FAILED, ClipResult
from crashchat.json_files import Exact

JobStatus = Literal["queued", "running", "done", "failed"]
ENDED = ("done", "failed")


class JobState(Exact):
    """A clip that was taken in to be looked at."""

    id: str
    """Names it; nobody guesses it."""
    status: JobStatus
    progress: float
    """Share that is done, from 0 to 1."""
    step: str
    """What is being done."""
    result: ClipResult | None = None
    """What was found; also where the clip could not be read: its error says why."""


@dataclass
class _Job:
    state: JobState
    fetched: bool = False


class Jobs:
    """Jobs in the order in which they came, one in work at a time. Threads share it.

    kept: jobs that have ended and are still told of.
    """

    def __init__(self, kept: int):
        self.kept = kept
        self._jobs: OrderedDict[str, _Job] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        # A daemon: a server that was told to end does not wait for it any longer than it drains.
        threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while True:
            self._waiting.get()()

    def start(self, path: Path, look: Callable[[Progress], ClipResult], end: Callable[[], None]) -> JobState:
        """Queue a clip, whose file is deleted when it has been looked at.

        look: looks at it, given whom to tell of its progress; never raises. end: called afterwards.
        """
        state = JobState(id=secrets.token_urlsafe(16), status="queued", progress=0.0, step="waiting")
        with self._lock:
            self._jobs[state.id] = _Job(state)
            ended = [name for name, job in self._jobs.items() if job.state.status in ENDED]
            for name in ended[: max(0, len(ended) - self.kept)]:
                del self._jobs[name]

        def progress(share: float, step: str) -> None:
            self._change(state.id, status="running", progress=min(1.0, share), step=step)

        def work() -> None:
            try:
                try:
                    result = look(progress)
                finally:
                    path.unlink(missing_ok=True)  # before anybody is told that the job has ended
                status = "failed" if result.status == FAILED else "done"
                self._change(state.id, status=status, progress=1.0, step=status, result=result)
            finally:
                end()

        self._waiting.put(work)
        return state

    def _change(self, name: str, **values: object) -> None:
        with self._lock:
            if name in self._jobs:
                self._jobs[name].state = self._jobs[name].state.model_copy(update=values)

    def state(self, name: str) -> JobState | None:
        """What there is to tell of a job; None of one that there is not."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None:
                return None
            job.fetched = job.fetched or job.state.status in ENDED
            return job.state

    def forget(self, name: str) -> bool | None:
        """Delete a job that has ended; False where it has not, None where there is none."""
        with self._lock:
            if name not in self._jobs:
                return None
            if self._jobs[name].state.status not in ENDED:
                return False
            del self._jobs[name]
            return True

    def counts(self) -> dict[str, int]:
        """{status: jobs} of those that are told of."""
        with self._lock:
            states = [job.state.status for job in self._jobs.values()]
        return {status: states.count(status) for status in get_args(JobStatus)}

    def forgo(self) -> None:
        """Those that have ended by now are waited for no more, whether anybody has asked for them or not."""
        with self._lock:
            for job in self._jobs.values():
                job.fetched = job.fetched or job.state.status in ENDED

    def settled(self) -> bool:
        """Whether every job has ended, and its end been told."""
        with self._lock:
            return all(job.fetched for job in self._jobs.values())
