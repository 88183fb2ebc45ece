"""Times asked again of the part of a clip around the first answers.

The part is read anew, so that a long video's frames lie closer together than at first:

    first answers    0 s ──────────── 3.9 - 5.0, first sign 2.6 ─────────── 60 s
    asked again              [1.6 ───────────────── 6.0]      one second around what was answered
    answer on it              "2.5 - 3.4 seconds"  ->  4.1 - 5.0 of the clip
"""

import math
from collections.abc import Iterable
from dataclasses import replace

from crashchat.answering.outputs import Answer
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed

Span = tuple[float, float]


def is_timed(task: str | None) -> bool:
    """Whether a task's answers are times."""
    return task is not None and isinstance(TASKS[task].answer, Timed)


def span_around(times: Iterable[float], margin: float) -> Span | None:
    """(start, end) in seconds: from the first of some times to the last and `margin` more on both sides, in
    tenths, not before 0; None without any.
    """
    known = sorted(times)
    if not known:
        return None
    return max(0, math.floor(10 * (known[0] - margin))) / 10, math.ceil(10 * (known[-1] + margin)) / 10


def moved(answer: Answer, start: float) -> Answer:
    """An answer on the part of a clip that begins at `start`, with its times in the clip's own; words that
    do not parse, and answers that are no times, stay.
    """
    if answer.task is None or not is_timed(answer.task) or answer.values is None:
        return answer
    times = [start + float(value) for value in answer.values.values()]
    return replace(answer, raw_response=TASKS[answer.task].answer.write(times))
