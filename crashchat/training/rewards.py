"""What an answer is worth when it is learnt from by reinforcement: numbers between -1 and 1.

A setting names a reward of REWARDS for each task, or a function of one's own as `module:function`, which
takes a Judged and returns such a number.
"""

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from crashchat.errors import CrashChatError, abbreviate
from crashchat.metrics.closed_set import same_choice
from crashchat.metrics.localization import first_sign_score, interval_iou
from crashchat.metrics.quantities import coverage
from crashchat.metrics.records import is_right
from crashchat.metrics.text import ROUGE_KEYS, rouge
from crashchat.tasks import TASKS
from crashchat.tasks.kinds import Choices, Text
from crashchat.tasks.quantities import Interval, Intervals, Moment
from crashchat.tasks.records import Record

UNPARSED = -0.1  # an answer that is none, of a task whose answers have a form
SIGN_SCALE = 0.5  # seconds of error at which a first sign's closeness has fallen to 1/e
INTERVAL_SCALE = 1.0  # seconds of distance at which an interval's closeness has


class RewardError(CrashChatError):
    """A reward that is not known, or that gave no number between -1 and 1; the message names it."""


@dataclass(frozen=True)
class Judged:
    """An answer and what it is held against.

    task: a name of TASKS. text: the model's words. values: what they parse to, None where they do not. truth:
    the annotated values, {gt field: value}. seconds: the video's length. crash_start: the annotated start of
    its crash in seconds, None where that is not known. known: the training answers of the task.
    """

    task: str
    text: str
    values: dict | None
    truth: dict
    seconds: float
    crash_start: float | None = None
    known: Sequence[str] = ()

    @property
    def outside(self) -> bool:
        """Whether a time of the answer lies behind the video's end."""
        times = [value for value in (self.values or {}).values() if isinstance(value, float)]
        return any(time > self.seconds for time in times)


Reward = Callable[[Judged], float]


def interval_overlap(answer: Judged) -> float:
    """IoU of the intervals."""
    if answer.values is None:
        return UNPARSED
    return interval_iou(_ends(answer.truth), _ends(answer.values))


def interval_closeness(answer: Judged) -> float:
    """exp(-d / 1 s) of the Wasserstein distance between the intervals, each taken as times that are equally
    likely: it rewards coming nearer also where nothing overlaps.
    """
    if answer.values is None:
        return UNPARSED
    (start, end), (own_start, own_end) = _ends(answer.truth), _ends(answer.values)
    first, last = own_start - start, own_end - end
    if first * last >= 0:
        distance = abs(first + last) / 2
    else:  # one reaches beyond the other on both sides, or lies within it
        distance = (first**2 + last**2) / (2 * (abs(first) + abs(last)))
    return math.exp(-distance / INTERVAL_SCALE)


def first_sign(answer: Judged) -> float:
    """Half the paper's score by time to accident, half the closeness exp(-|error| / 0.5 s);
    the closeness alone where the crash's start is not known.
    """
    if answer.values is None:
        return UNPARSED
    (truth,), (own,) = answer.truth.values(), answer.values.values()
    closeness = math.exp(-abs(truth - own) / SIGN_SCALE)
    if answer.crash_start is None:
        return closeness
    return (first_sign_score(answer.crash_start, truth, own) + closeness) / 2


def correct(answer: Judged) -> float:
    """1 for the annotated answer itself, of a number within its tolerance, 0 for another one."""
    if answer.values is None:
        return UNPARSED
    (truth, *_), (own, *_) = answer.truth.values(), answer.values.values()
    return float(is_right(TASKS[answer.task].answer, truth, own))


def set_overlap(answer: Judged) -> float:
    """F1 of the options that are named; 1 where neither names any."""
    if answer.values is None:
        return UNPARSED
    truth, own = (set(next(iter(values.values()))) for values in (answer.truth, answer.values))
    return 2 * len(truth & own) / (len(truth) + len(own)) if truth or own else 1.0


def coverage_overlap(answer: Judged) -> float:
    """IoU of all annotated time and all answered time; 1 where both are none."""
    if answer.values is None:
        return UNPARSED
    truth, own = (next(iter(values.values())) for values in (answer.truth, answer.values))
    return coverage(truth, own)


def parts_right(answer: Judged) -> float:
    """The share of a record's parts that are right."""
    kind = TASKS[answer.task].answer
    if answer.values is None or not isinstance(kind, Record):
        return UNPARSED
    truth, own = (next(iter(values.values())) for values in (answer.truth, answer.values))
    return sum(is_right(part, truth[name], own.get(name)) for name, part in kind.parts.items()) / len(
        kind.parts
    )


def text_overlap(answer: Judged) -> float:
    """ROUGE-L; where nothing happens, 1 for saying so and 0 for all else."""
    (truth,) = answer.truth.values()
    if _says_nothing(truth, answer.task) or _says_nothing(answer.text, answer.task):
        return float(_says_nothing(truth, answer.task) and _says_nothing(answer.text, answer.task))
    return rouge(truth, answer.text)[ROUGE_KEYS.index("rougeL_f")]


def closed_set(answer: Judged) -> float:
    """1 where the answer is nearest to the same training answer as the truth is; where nothing happens, as
    text_overlap.
    """
    (truth,) = answer.truth.values()
    if _says_nothing(truth, answer.task) or _says_nothing(answer.text, answer.task):
        return text_overlap(answer)
    return float(same_choice([(truth, answer.text)], answer.known)[0]) if answer.text.strip() else 0.0


REWARDS: dict[str, Reward] = {
    "interval_overlap": interval_overlap,
    "interval_closeness": interval_closeness,
    "first_sign": first_sign,
    "correct": correct,
    "set_overlap": set_overlap,
    "coverage": coverage_overlap,
    "parts_right": parts_right,
    "text_overlap": text_overlap,
    "closed_set": closed_set,
}
_BY_KIND: dict[type, str] = {
    Interval: "interval_overlap",
    Moment: "first_sign",
    Text: "text_overlap",
    Choices: "set_overlap",
    Intervals: "coverage",
    Record: "parts_right",
}


def default_reward(task: str) -> str:
    """The reward of a task that no setting names one for, by the kind of its answers."""
    return _BY_KIND.get(type(TASKS[task].answer), "correct")


def reward_named(name: str) -> Reward:
    """A reward of REWARDS, or `module:function`. Raises RewardError where there is none."""
    if name in REWARDS:
        return REWARDS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise RewardError(
            f"rewards: found {abbreviate(name)}, expected module:function or one of {', '.join(REWARDS)}"
        )
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise RewardError(f"rewards: {name}: {error}; expected a module that Python finds") from error
    if not callable(found):
        raise RewardError(f"rewards: {name} is no function")
    return cast(Reward, found)


def value_of(name: str, reward: Reward, answer: Judged) -> float:
    """A reward's number for an answer. Raises RewardError where it is none between -1 and 1."""
    value = float(reward(answer))
    if not -1 <= value <= 1:
        raise RewardError(f"the reward {name} gave {value} for {abbreviate(answer.text)}, expected -1 to 1")
    return value


def _ends(values: dict) -> tuple[float, float]:
    start, end = values.values()
    return start, end


def _says_nothing(text: str, task: str) -> bool:
    return TASKS[task].says_nothing(text)
