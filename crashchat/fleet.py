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
from dataclasses import dataclass
from functools import partial
from typing import Any

from crashchat.config import ROOT
from crashchat.errors import CrashChatError
from crashchat.fleet_work import Batch, Crew, Work

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

    def _crew(self, kind: type, words: tuple, count: int, gpus: int = 0) -> Crew:
        made: Any = self._ray.remote(kind).options(num_cpus=0 if gpus else 1, num_gpus=gpus, max_restarts=0)
        return Crew(lambda: made.remote(*words), count)

    def open_answerers(self, kind: type, *words: object) -> Crew:
        """Processes that each make a `kind` of these words, and answer."""
        return self._crew(kind, words, self.answerers, gpus=1 if self._gpus else 0)

    def ask(self, crew: Crew, method: str) -> Any:
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
        answerers: Crew,
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
        work = Work(deque(range(len(items))))
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
    def _was_read(work: Work, crew: Crew, reference: Any) -> list[tuple[list[int], list | Lost]]:
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
    def _was_answered(work: Work, crew: Crew, reference: Any) -> list[tuple[list[int], list | Lost]]:
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
            work.batches[:0] = [Batch([number]) for number in batch.members]
        else:
            work.batches.insert(0, batch)
        work.unread.extendleft(reversed(batch.members))
        return []

    @staticmethod
    def _form(work: Work, fits: Callable[[list[int]], bool], count: int) -> None:
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
