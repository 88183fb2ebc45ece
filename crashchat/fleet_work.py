"""Which processes of a fleet are idle, and where its items are (fleet.py)."""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Crew:
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
class Batch:
    """Items that are answered together, by their numbers."""

    members: list[int]
    tries: int = 0


@dataclass
class Work:
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
    batches: list[Batch] = field(default_factory=list)
    forming: list[int] = field(default_factory=list)
    next: int = 0

    def forming_sizes(self) -> list[int]:
        """Of the batch that is being formed."""
        return [self.sizes[number] or 0 for number in self.forming]

    def close(self) -> None:
        """No further item joins the batch that is being formed."""
        self.batches.append(Batch(self.forming))
        self.forming = []

    def may_read(self, unanswered: int, ahead: int) -> bool:
        """Whether the next item may be read: one that was begun before is counted already."""
        again = bool(self.unread) and (self.unread[0] in self.sizes or self.unread[0] in self.tries)
        return bool(self.unread) and (unanswered < ahead or again)
