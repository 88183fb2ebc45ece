"""What is said of one clip, by the model or by a person, and what a person may say."""

import math
from collections.abc import Mapping
from typing import Literal

from pydantic import ConfigDict

from crashchat.analysis.results import CONTRADICTION, CRASH, NO_CRASH, ClipResult
from crashchat.errors import CrashChatError
from crashchat.json_files import Exact
from crashchat.tasks import TASKS
from crashchat.tasks.task import CAUSE, CRASH_INTERVAL, DESCRIPTION, FIRST_SIGN, PREVENTION
from crashchat.tasks.task import CRASH as WHETHER_CRASH

CONFIRM: Literal["confirm"] = "confirm"
CORRECT: Literal["correct"] = "correct"
UNSURE: Literal["unsure"] = "unsure"
UNUSABLE: Literal["unusable"] = "unusable"
UNDO: Literal["undo"] = "undo"
Verdict = Literal["confirm", "correct", "unsure", "unusable"]
VERDICTS: tuple[Verdict, ...] = (CONFIRM, CORRECT, UNSURE, UNUSABLE)
LONGEST = 4000  # characters of a text
APART = 1.0  # seconds that two people's times may differ without contradicting each other
ROUNDING = 0.05  # seconds by which a time written with one decimal may lie behind the clip's end


class ReviewError(CrashChatError):
    """What a reviewer or a lead can mend; the message says what and how."""


class Labels(Exact):
    """What is said of one clip. Times are seconds from its start; None: not said."""

    model_config = ConfigDict(frozen=True)

    crash: bool | None = None
    """Whether there is a crash."""
    description: str = ""
    cause: str = ""
    prevention: str = ""
    start: float | None = None
    """Where the crash begins."""
    end: float | None = None
    first_sign: float | None = None

    def times(self) -> dict[str, float]:
        """{name: seconds} of the times that are said."""
        named = {"first sign": self.first_sign, "crash start": self.start, "crash end": self.end}
        return {name: value for name, value in named.items() if value is not None}


def model_labels(result: ClipResult) -> Labels:
    """What the model said, of a recording with several crashes that of the surest one.

    Texts and times are left empty where it saw no crash, and the crash is None where it contradicts itself
    or did not decide: that is for a person.
    """
    if result.status not in (CRASH, CONTRADICTION):
        return Labels(crash=False if result.status == NO_CRASH else None)
    crash = True if result.status == CRASH else None
    event = max(result.events, key=lambda event: event.crash_probability or 0.0, default=None)
    if event is None:
        return Labels(crash=crash)
    return Labels(
        crash=crash,
        description=event.description.strip(),
        cause=event.cause.strip(),
        prevention=event.prevention.strip(),
        start=event.start if event.localized else None,
        end=event.end if event.localized else None,
        first_sign=event.first_sign,
    )


def annotated_labels(answers: Mapping[str, str]) -> Labels:
    """What somebody says of a clip who sees all that is annotated of it, {task: annotated answer}: the way
    back of export.answers_of.

    Raises ValueError for an answer that does not parse, and where none says whether there is a crash.
    """
    told: dict[str | None, tuple] = {
        TASKS[name].fact: tuple(TASKS[name].ground_truth(answer).values()) for name, answer in answers.items()
    }
    if WHETHER_CRASH not in told:
        raise ValueError(f"none of {', '.join(answers) or 'no answers'} says whether there is a crash")
    if told[WHETHER_CRASH] != ("Yes",):
        return Labels(crash=False)
    start, end = told.get(CRASH_INTERVAL, (None, None))
    return Labels(
        crash=True,
        description=told.get(DESCRIPTION, ("",))[0],
        cause=told.get(CAUSE, ("",))[0],
        prevention=told.get(PREVENTION, ("",))[0],
        start=start,
        end=end,
        first_sign=told.get(FIRST_SIGN, (None,))[0],
    )


def check_labels(name: str, labels: Labels, before: Labels, verdict: Verdict, seconds: float | None) -> None:
    """Whether a verdict and its labels can be said of a clip. seconds: how long it lasts.

    Raises ReviewError in one line: a label outside its clip, times in a wrong order, a confirmation that
    changes something, a crash that is neither there nor not.
    """
    if verdict == CONFIRM and labels != before:
        raise ReviewError(f"{name}: labels differ from the model's; save this as a correction")
    if verdict not in (CONFIRM, CORRECT):
        return
    if labels.crash is None:
        raise ReviewError(f"{name}: neither crash nor no crash; choose one, or say unsure or unusable")
    for text in (labels.description, labels.cause, labels.prevention):
        if len(text) > LONGEST:
            raise ReviewError(f"{name}: a text has {len(text):,} characters, the limit is {LONGEST:,}")
    if not labels.crash:
        if labels.times():
            raise ReviewError(f"{name}: no crash, but {_listed(labels)}; clear the times or say crash")
        return
    for what, value in labels.times().items():
        if value < 0 or (seconds is not None and value > seconds + ROUNDING):
            length = "its clip" if seconds is None else f"its clip of {seconds:.1f} s"
            raise ReviewError(f"{name}: {what} at {value:g} s lies outside {length}")
    if (labels.start is None) != (labels.end is None):
        raise ReviewError(f"{name}: found {_listed(labels)}; give the crash's start and end, or neither")
    if labels.start is not None and labels.end is not None:
        if labels.start > labels.end:
            raise ReviewError(
                f"{name}: the crash ends at {labels.end:g} s, before its start at {labels.start:g} s"
            )
        if labels.first_sign is not None and labels.first_sign > labels.start:
            raise ReviewError(
                f"{name}: first sign at {labels.first_sign:g} s comes after the crash's start at "
                f"{labels.start:g} s"
            )


def _listed(labels: Labels) -> str:
    return ", ".join(f"{what} at {value:g} s" for what, value in labels.times().items())


def contradict(one: Labels, other: Labels) -> bool:
    """Whether two people's labels cannot both hold: crash or not, or a time more than APART from the other's.

    Their words may differ.
    """
    if one.crash != other.crash:
        return True
    pairs = [(one.start, other.start), (one.end, other.end), (one.first_sign, other.first_sign)]
    return any(
        (a is None) != (b is None) or (a is not None and b is not None and math.fabs(a - b) > APART)
        for a, b in pairs
    )
