"""Work shared by processes on many machines, with Ray: some read items, others answer what was read.

    items -> readers (CPU) -> object store -> batches, in the items' order -> answerers (a GPU each)

What is read ahead is bounded, so that neither waits for long and memory stays flat. Batches are those that
one process makes, so that answers are the same to the last digit. An item whose process dies is tried again
on another, TRIES times, and then handed back as Lost. Ray's own data sets retry without end or fail the run,
and do not name who killed a process: that is why the few lines are ours.
"""

import os
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from crashchat.config import ROOT
from crashchat.errors import CrashChatError

TRIES = 3
AUTO, LOCAL = "auto", "local"
READERS = 8  # beside one that answers


class FleetError(CrashChatError):
    """Processes that cannot be had, or did not come up; the message says what to do."""


@dataclass(frozen=True)
class Lost:
    """An item whose processes died each time.

    doing: what they were doing with it.
    """

    doing: str

    def __str__(self) -> str:
        return f"{TRIES} processes died one after the other while {self.doing} it"


def _check(address: str) -> None:
    """Raises FleetError where nothing listens at HOST:PORT: Ray itself would try for minutes, and then end
    the process.
    """
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise FleetError(
            f"ray={address}: no cluster answers there ({error}); expected HOST:PORT as ray start tells it, "
            "auto or local"
        ) from error


def _read(item: object, actor: Any) -> list:
    """Have a process read an item: references of its size, and of what was read."""
    return actor.read.options(num_returns=2).remote(item)


def _answer(items: list, found: list, actor: Any) -> Any:
    """Have a process answer items that were read."""
    return actor.answer.remote(items, *found)


class _Crew:
    """Processes of one kind, each idle or in one call; one that dies is replaced."""

    def __init__(self, make: Callable[[], Any], count: int):
        self._make = make
        self.idle = [make() for _ in range(count)]
        self.busy: dict[Any, tuple[Any, Any]] = {}

    def call(self, job: object, start: Callable[[Any], Any]) -> Any:
        """Have an idle process do a job. start: given the process, calls it; the call's references are
        returned, the first of which tells that it has ended.
        """
        actor = self.idle.pop()
        references = start(actor)
        first = references[0] if isinstance(references, list) else references
        self.busy[first] = (actor, job)
        return references

    def ended(self, reference: Any) -> tuple[Any, Any, bool]:
        """(the job, what the call returned, whether its process lives) of a call that has ended.

        Raises what the call raised.
        """
        import ray
        from ray.exceptions import RayError, RayTaskError

        actor, job = self.busy.pop(reference)
        try:
            value = ray.get(reference)
        except RayTaskError as error:
            # A reference that was lost with its machine counts as a death: the machine's.
            if not isinstance(error.cause, RayError):
                self.idle.append(actor)
                raise error.cause or error from None
        except RayError:
            pass
        else:
            self.idle.append(actor)
            return job, value, True
        ray.kill(actor)
        self.idle.append(self._make())
        return job, None, False


@dataclass
class _Batch:
    """Items that are answered together, by their numbers."""

    members: list[int]
    tries: int = 0


@dataclass
class _Work:
    """Where the items are.

    unread: to be read, in this order. read: {item: reference of what was read}, until it is answered.
    sizes: {item: its size}, None of a lost one. ready: whose last reading has ended. tries: of reading.
    batches: formed and not yet being answered. forming: the next batch's items so far. next: the first item
    of none.
    """

    unread: deque[int]
    read: dict[int, Any] = field(default_factory=dict)
    sizes: dict[int, int | None] = field(default_factory=dict)
    ready: set[int] = field(default_factory=set)
    tries: dict[int, int] = field(default_factory=dict)
    batches: list[_Batch] = field(default_factory=list)
    forming: list[int] = field(default_factory=list)
    next: int = 0

    def forming_sizes(self) -> list[int]:
        """Of the batch that is being formed."""
        return [self.sizes[number] or 0 for number in self.forming]

    def close(self) -> None:
        """No further item joins the batch that is being formed."""
        self.batches.append(_Batch(self.forming))
        self.forming = []

    def may_read(self, unanswered: int, ahead: int) -> bool:
        """Whether the next item may be read: one that was begun before is counted already."""
        again = bool(self.unread) and (self.unread[0] in self.sizes or self.unread[0] in self.tries)
        return bool(self.unread) and (unanswered < ahead or again)


class Fleet:
    """Processes on a Ray cluster; a context that they end with."""

    def __init__(self, address: str):
        """address: a cluster's, HOST:PORT; "local": this machine becomes one now; "auto": the cluster that
        runs on this machine, else local.

        Raises FleetError where there is none, or Ray is not installed.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            import ray
        except ImportError as error:
            raise FleetError(
                "Ray is not installed; pip install -r requirements-ray.txt, or share the work of one machine "
                "with --gpus N"
            ) from error
        self._ray = ray
        if address not in (AUTO, LOCAL):
            _check(address)
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        common: dict[str, Any] = {
            "logging_level": "ERROR",
            "log_to_driver": False,
            "runtime_env": {"env_vars": {"PYTHONPATH": path, "TQDM_DISABLE": "1"}},
        }
        own: dict[str, Any] = {
            "address": LOCAL,
            "num_cpus": max(2, os.cpu_count() or 2),
            "include_dashboard": False,
        }
        try:
            ray.init(**(own if address == LOCAL else {"address": address}), **common)
        except ConnectionError as error:
            if address != AUTO:
                raise FleetError(f"ray={address}: no cluster answers there: {error}") from error
            ray.init(**own, **common)
        found = ray.cluster_resources()
        self._gpus, cpus = int(found.get("GPU", 0)), int(found.get("CPU", 1))
        self.answerers = self._gpus or max(1, cpus // 2)
        self.readers = max(1, min(READERS * self.answerers, cpus - self.answerers))

    def __enter__(self) -> "Fleet":
        return self

    def __exit__(self, *_) -> None:
        self._ray.shutdown()

    def __str__(self) -> str:
        return f"Ray: {self.readers} process(es) read, {self.answerers} answer"

    def _crew(self, kind: type, words: tuple, count: int, gpus: int = 0) -> _Crew:
        made: Any = self._ray.remote(kind).options(num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=0)
        return _Crew(lambda: made.remote(*words), count)

    def open_answerers(self, kind: type, *words: object) -> _Crew:
        """Processes that each make a `kind` of these words, and answer."""
        return self._crew(kind, words, self.answerers, gpus=1 if self._gpus else 0)

    def ask(self, crew: _Crew, method: str) -> Any:
        """What a method of one of them returns. Raises what it raises, and FleetError where all die."""
        for _ in range(TRIES):
            reference = crew.call(None, lambda actor: getattr(actor, method).remote())
            _, value, lives = crew.ended(reference)
            if lives:
                return value
        raise FleetError(
            f"{TRIES} processes died one after the other before they could answer; Ray's logs tell why "
            "(memory, most likely)"
        )

    def spread(
        self,
        items: Sequence,
        reader: tuple,
        answerers: _Crew,
        *,
        fits: Callable[[list[int]], bool] = lambda sizes: len(sizes) == 1,
        most: int = 1,
    ) -> Iterator[tuple[list[int], list | Lost]]:
        """(the items' numbers, their answers) of each batch as it is answered; a Lost for a lost item.

        reader: (a class, what it is made of); its read(item) returns (size, what was read). The answerers'
        answer(items, *read) returns an answer an item. fits: whether items of these sizes are answered
        together; never more than `most`. Raises what a process raises.
        """
        crew = self._crew(reader[0], reader[1:], self.readers)
        work = _Work(deque(range(len(items))))
        unanswered, ahead = 0, most * (self.answerers + 1) + self.readers
        left = len(items)
        while left:
            while crew.idle and work.may_read(unanswered, ahead):
                number = work.unread.popleft()
                unanswered += number not in work.sizes and number not in work.tries
                _, work.read[number] = crew.call(number, partial(_read, items[number]))
            for batch in [one for one in work.batches if work.ready.issuperset(one.members)]:
                if not answerers.idle:
                    break
                work.batches.remove(batch)
                found = [work.read[number] for number in batch.members]
                answerers.call(batch, partial(_answer, [items[number] for number in batch.members], found))
            (reference,), _ = self._ray.wait([*crew.busy, *answerers.busy], fetch_local=False)
            if reference in crew.busy:
                outcomes = self._was_read(work, crew, reference)
            else:
                outcomes = self._was_answered(work, answerers, reference)
            self._form(work, fits, len(items))
            for members, answers in outcomes:
                left -= len(members)
                unanswered -= len(members)
                yield members, answers

    @staticmethod
    def _was_read(work: _Work, crew: _Crew, reference: Any) -> list[tuple[list[int], list | Lost]]:
        """A reader's call has ended."""
        number, size, lives = crew.ended(reference)
        if lives:
            work.sizes[number] = size
            work.ready.add(number)
            return []
        del work.read[number]
        work.tries[number] = work.tries.get(number, 0) + 1
        if work.tries[number] < TRIES:
            work.unread.appendleft(number)
            return []
        work.sizes[number] = None
        for batch in [one for one in work.batches if number in one.members]:
            batch.members.remove(number)
            if not batch.members:
                work.batches.remove(batch)
        return [([number], Lost("reading"))]

    @staticmethod
    def _was_answered(work: _Work, crew: _Crew, reference: Any) -> list[tuple[list[int], list | Lost]]:
        """An answerer's call has ended. Where its process died, all its items are read again, since what was
        read may be lost with a machine; the third time each alone, so that the one that kills is named.
        """
        batch, answers, lives = crew.ended(reference)
        for number in batch.members:
            del work.read[number]
            work.ready.remove(number)
        if lives:
            return [(batch.members, answers)]
        batch.tries += 1
        if batch.tries == TRIES and len(batch.members) == 1:
            return [(batch.members, Lost("answering"))]
        if batch.tries == TRIES:
            work.batches[:0] = [_Batch([number]) for number in batch.members]
        else:
            work.batches.insert(0, batch)
        work.unread.extendleft(reversed(batch.members))
        return []

    @staticmethod
    def _form(work: _Work, fits: Callable[[list[int]], bool], count: int) -> None:
        """Make batches of what has been read, in the items' order."""
        while work.next < count and work.next in work.sizes:
            number, size = work.next, work.sizes[work.next]
            work.next += 1
            if size is None:  # lost
                continue
            if work.forming and not fits([*work.forming_sizes(), size]):
                work.close()
            work.forming.append(number)
        if work.forming and (work.next == count or not fits([*work.forming_sizes(), 0])):
            work.close()
