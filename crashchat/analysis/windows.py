"""Long recordings: overlapping windows, what was said of each, and the events that these findings add up to.

    recording   0 s ─────────────────────────────────────────────────────────── 60 s
    windows     [───── 0 ─────]       [───── 2 ─────]       [───── 4 ─────]
                        [───── 1 ─────]       [───── 3 ─────]
    findings             ▪▪▪   ▪▪▪▪ windows 0, 1 and 2 saw a crash; the first two the same
    events               1     2      times in the recording's own clock

A clip that is not cut is the case of one window.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from crashchat.analysis.results import (
    ANSWERED,
    CONTRADICTION,
    CRASH,
    FAILED,
    NO_CRASH,
    UNDECIDED,
    Event,
    Interval,
    Status,
    TaskAnswer,
    Window,
)
from crashchat.answering.outputs import Answer, CascadeOutput
from crashchat.answering.time_heads import TimeHeads
from crashchat.errors import CrashChatError
from crashchat.tasks import TASKS, Fact
from crashchat.tasks.task import CAUSE, CRASH_INTERVAL, DESCRIPTION, FIRST_SIGN, PREVENTION

LEAD = 2.0  # seconds shown before and after an event of a long recording


class WindowError(CrashChatError):
    """Window settings that cannot be used; the message says which and what to do."""


@dataclass(frozen=True)
class FirstPassSettings:
    """What the first pass over a long recording (first_pass.py) passes over.

    below: a window is not looked at where the probability of a crash is lower, of (0, 1). fps: frames a
    second that the first pass looks at.
    """

    below: float
    fps: float = 2.0

    def __post_init__(self):
        if not 0 < self.below < 1 or not self.fps > 0:
            raise WindowError(
                f"found a first pass below {self.below} at {self.fps} frames a second, expected a "
                "probability between 0 and 1, and more than 0 frames"
            )


@dataclass(frozen=True)
class WindowSettings:
    """How long recordings are cut. Seconds.

    length: of a window. stride: from one window's start to the next one's. whole_up_to: a clip that is not
    longer is looked at as a whole, as in training and evaluation. merge_gap: findings of overlapping windows
    that are no further apart are one event. first_pass: what is passed over; None: nothing. around: times
    are asked again of the part so many seconds around the first answers; None: they are not. heads: that part
    is what these heads look at instead.
    """

    length: float
    stride: float
    whole_up_to: float = 60.0
    merge_gap: float = 1.0
    first_pass: FirstPassSettings | None = None
    around: float | None = None
    heads: TimeHeads | None = None

    def __post_init__(self):
        if not 0 < self.stride <= self.length:
            raise WindowError(
                f"a stride of {self.stride} s with windows of {self.length} s leaves gaps or no end; give 0 "
                "< stride <= window"
            )
        if self.around is not None and not self.around > 0:
            raise WindowError(f"found around {self.around}, expected more than 0 seconds")
        if self.heads and self.around is None:
            raise WindowError("heads say of which part times are asked again; give --around SECONDS too")
        if self.merge_gap < 0 or self.whole_up_to < 0:
            raise WindowError(
                f"found merge_gap {self.merge_gap} and whole_up_to {self.whole_up_to}, expected 0 or more "
                "seconds"
            )


def plan(seconds: float, settings: WindowSettings, frames: Sequence[float]) -> list[tuple[float, float]]:
    """(start, end) of each window, in seconds; one that holds everything where the clip is short enough.

    frames: when each frame begins, in order. A window in which none does would show the still picture that
    the one before it ended with; it is left out, so that there are no more windows than the frames fill,
    however far apart they lie. The last window ends with the recording and is as long as the others.
    """
    if seconds <= max(settings.whole_up_to, settings.length):
        return [(0.0, seconds)]
    spans, number = [], 0
    while number * settings.stride + settings.length < seconds:
        start = round(number * settings.stride, 3)
        end = round(start + settings.length, 3)
        # Rounding may leave a millisecond between two windows; what begins in it belongs to the latter.
        following = bisect_left(frames, start - 1e-3)
        if following == len(frames):
            break
        if frames[following] < end:
            spans.append((start, end))
            number += 1
        else:
            number = max(number + 1, math.floor((frames[following] - settings.length) / settings.stride))
    spans.append((round(seconds - settings.length, 3), round(seconds, 3)))
    return spans


def failed_window(span: tuple[float, float], error: str) -> Window:
    """A window that could not be looked at."""
    return Window(start=span[0], end=span[1], status=FAILED, error=error)


def _task_answer(answer: Answer) -> TaskAnswer:
    assert answer.task is not None, "the cascade judges by its tasks' answers alone"
    values = answer.values
    return TaskAnswer(
        task=answer.task,
        adapter=answer.adapter,
        raw_response=answer.raw_response,
        certainty=None if answer.certainty is None else round(answer.certainty, 4),
        first_response=answer.first_response,
        values=values,
        parsed=values is not None,
    )


def window_of(output: CascadeOutput, span: tuple[float, float]) -> Window:
    """An output on a window as it stands in the result: its times moved to the recording's clock.

    What contradicts itself or lies outside the window is said in `notes`; the raw answers stay as they are.
    Where recognition and description contradict each other, that is the status.
    """
    start, end = span
    status: Status = UNDECIDED if output.crash is None else CRASH if output.crash else NO_CRASH
    if output.probability is None:
        status = ANSWERED
    answers = [_task_answer(answer) for answer in output.answers]
    window = Window(
        start=start,
        end=end,
        status=status,
        crash_probability=None if output.probability is None else round(output.probability, 6),
        answers=answers,
    )
    notes = window.notes
    if status == UNDECIDED:
        notes.append("recognition answered neither 'Yes' nor 'No'")
    (described,) = output.values(DESCRIPTION) or [""]
    task = TASKS.of_fact(DESCRIPTION)
    calm = task is not None and task.says_nothing(described)
    if output.crash is not None and described and output.crash == calm:
        window.status = CONTRADICTION
        notes.append(
            f"recognition says {'Yes' if output.crash else 'No'}, but the description is {described!r}"
        )
    if not output.crash:
        return window

    def asked(fact: Fact) -> bool:
        task = TASKS.of_fact(fact)
        return task is not None and any(answer.task == task.name for answer in answers)

    if asked(CRASH_INTERVAL):
        _place_crash(window, output.values(CRASH_INTERVAL))
    if asked(FIRST_SIGN):
        _place_sign(window, output.values(FIRST_SIGN))
    return window


def _place_crash(window: Window, interval: list | None) -> None:
    start, end, notes = window.start, window.end, window.notes
    if interval is None:
        notes.append("the crash interval does not parse")
    elif interval[0] >= end - start:
        notes.append(f"the crash interval lies behind the end of what was shown ({end - start:.1f} s)")
    else:
        first, last = start + interval[0], start + interval[1]
        if last > end + 0.5:
            notes.append(f"the crash interval ends behind the end of what was shown ({end - start:.1f} s)")
        window.crash = Interval(start=round(first, 3), end=round(min(last, end), 3))


def _place_sign(window: Window, sign: list | None) -> None:
    start, end, notes = window.start, window.end, window.notes
    if sign is None:
        notes.append("the first sign does not parse")
    elif sign[0] >= end - start:
        notes.append(f"the first sign lies behind the end of what was shown ({end - start:.1f} s)")
    else:
        window.first_sign = round(start + sign[0], 3)
        if window.crash and window.first_sign > window.crash.start:
            notes.append("the first sign comes after the crash's beginning")


def find_events(windows: list[Window], seconds: float, settings: WindowSettings) -> list[Event]:
    """The crashes that the windows' findings add up to, in order of time.

    Findings of overlapping windows whose intervals overlap, or lie no further apart than settings.merge_gap,
    are one event. Its times and texts are those of its surest window, among equally sure ones of the one that
    has the crash nearest its middle. A finding without an interval adds to an event inside its window, or is
    an event of its own that is not localized.
    """

    def sureness(index: int) -> tuple[float, float]:
        window, crash = windows[index], windows[index].crash
        off_centre = abs(crash.start + crash.end - window.start - window.end) / 2 if crash else seconds
        return round(window.crash_probability or 0.0, 2), -off_centre

    seen = [index for index, window in enumerate(windows) if window.saw_crash]
    groups: list[list[int]] = []
    last_end = 0.0
    localized = [(crash.start, crash.end, index) for index in seen if (crash := windows[index].crash)]
    for start, end, index in sorted(localized, key=lambda crash: crash[0]):
        near = bool(groups) and start - last_end <= settings.merge_gap
        if near and any(_overlap(windows[index], windows[i]) for i in groups[-1]):
            groups[-1].append(index)
            last_end = max(last_end, end)
        else:
            groups.append([index])
            last_end = end
    for index in (i for i in seen if not windows[i].crash):
        inside = (
            group
            for group in groups
            if any(_overlap(windows[index], windows[i].crash or windows[i]) for i in group)
        )
        group = next(inside, None)
        if group is None:
            groups.append([index])
        else:
            group.append(index)
    return sorted(
        (_event(group, windows, seconds, sureness) for group in groups), key=lambda event: event.start
    )


def _overlap(one: Window | Interval, other: Window | Interval) -> bool:
    return one.start < other.end and other.start < one.end


def _event(
    group: list[int], windows: list[Window], seconds: float, sureness: Callable[[int], tuple[float, float]]
) -> Event:
    best = max(group, key=sureness)
    window = windows[best]

    def said(fact: Fact) -> str:
        task = TASKS.of_fact(fact)
        words = (answer.raw_response for answer in window.answers if task and answer.task == task.name)
        return next(words, "")

    span = window.crash or Interval(start=window.start, end=window.end)
    first = min(span.start, window.first_sign if window.first_sign is not None else span.start)
    whole = len(windows) == 1
    return Event(
        start=span.start,
        end=span.end,
        localized=window.crash is not None,
        first_sign=window.first_sign,
        crash_probability=window.crash_probability,
        description=said(DESCRIPTION),
        cause=said(CAUSE),
        prevention=said(PREVENTION),
        window=best,
        windows=sorted(group),
        shown=(0.0, seconds)
        if whole
        else (max(0.0, round(first - LEAD, 3)), min(seconds, round(span.end + LEAD, 3))),
    )


def status_of(windows: list[Window]) -> Status:
    """A whole clip's status from its windows': failed only where nothing could be looked at."""
    kinds = {window.status for window in windows}
    order = (CRASH, CONTRADICTION, UNDECIDED, NO_CRASH, ANSWERED)
    return next((status for status in order if status in kinds), FAILED)
