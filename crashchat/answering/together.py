"""Calls of several threads that are made as one.

    model      ▐ A ▌▐ B C D ▌▐ E F ▌
    waiting    B C D    E F            what comes while the model works waits, and is taken together next

No thread of its own: whoever waits and has the turn does the work of all that are waiting.
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

Call = TypeVar("Call")
Found = TypeVar("Found")


class Together(Generic[Call, Found]):
    """Does the work of calls, those that wait at the same time at once. Threads share it."""

    def __init__(
        self,
        work: Callable[[Sequence[Call]], Sequence[Found]],
        fits: Callable[[Sequence[Call]], bool],
        turn: threading.RLock,
    ):
        """work: does some calls at once, and returns what was found for each. fits: whether so many can be
        done at once; one alone always is. turn: held during work.
        """
        self._work, self._fits, self._turn = work, fits, turn
        self._waiting: deque[tuple[Call, Future[Found]]] = deque()
        self._changed = threading.Condition()
        self._led = False  # whether one of those that wait does the work of all, or is about to

    def __call__(self, call: Call) -> Found:
        """What was found for one call. Raises what its work raises, were it done alone."""
        found: Future[Found] = Future()
        with self._changed:
            self._waiting.append((call, found))
        while not found.done():
            with self._changed:
                # Whoever has what it came for goes, whatever is worked on next.
                self._changed.wait_for(lambda: found.done() or not self._led)
                if found.done():
                    break
                self._led = True
            try:
                # Those before it may fill a turn; then it does their work, and waits on.
                with self._turn:
                    self._do(self._take())
            finally:
                with self._changed:
                    self._led = False
                    self._changed.notify_all()
        return found.result()

    def _take(self) -> list[tuple[Call, Future[Found]]]:
        """The longest waiting, and those behind it that fit to it."""
        with self._changed:
            taken = [self._waiting.popleft()]
            for one in list(self._waiting):
                if self._fits([call for call, _ in [*taken, one]]):
                    taken.append(one)
                    self._waiting.remove(one)
        return taken

    def _do(self, taken: list[tuple[Call, Future[Found]]]) -> None:
        try:
            for (_, future), found in zip(taken, self._work([call for call, _ in taken]), strict=True):
                future.set_result(found)
        except Exception as error:
            if len(taken) == 1:
                taken[0][1].set_exception(error)
            else:  # one call's fault is no other's
                for one in taken:
                    self._do([one])
