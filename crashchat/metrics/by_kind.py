"""What a task's answers are scored by, which follows from their kind: the sums, the figures that tables show,
and the one that stands for all.
"""

from dataclasses import dataclass

import numpy as np

from crashchat.metrics.choices import choice_sums, choices_sums
from crashchat.metrics.early_warning import FALSE_ALARMS, TIME_TO_ACCIDENT, early_warning_sums
from crashchat.metrics.localization import interval_sums, time_left_sums
from crashchat.metrics.quantities import intervals_sums, moment_sums, number_sums
from crashchat.metrics.recognition import recognition_sums
from crashchat.metrics.records import record_sums
from crashchat.metrics.sums import Sums
from crashchat.metrics.text import NO_EXTRAS, Extras, text_sums
from crashchat.tasks import Task
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.kinds import Choice, Choices, Sentence, Text, YesNo
from crashchat.tasks.quantities import Interval, Intervals, Moment, Number
from crashchat.tasks.records import Record

Heading = tuple[str, str]  # (figure, what tables call it)
_TEXT = (
    ("BLEU", "BLEU"),
    ("rougeL_f", "ROUGE-L"),
    ("BERTScore", "BERTScore"),
    ("facts_f1", "facts F1"),
    ("semantic", "semantic"),
)
_TIMES = tuple((name, name) for name in ("mIoU", "AP@30", "AP@50", "AP@70"))
_ACCURACY = ("Accuracy", "accuracy")
_CHOICE = (_ACCURACY, ("macro_f1", "macro F1"))


@dataclass(frozen=True)
class Shown:
    """Which figures of a task are shown. headlines: in the main tables. main: the one that it is broken down
    and compared by. score: the column of its sums that says how good each answer is, from 0 to 1.
    """

    headlines: tuple[Heading, ...]
    main: Heading
    score: str = "score"


_SHOWN: dict[type, Shown] = {
    YesNo: Shown(
        (("macro_precision", "macro P"), ("macro_recall", "macro R"), ("macro_f1", "macro F1")), _ACCURACY, ""
    ),
    Text: Shown(_TEXT, ("rougeL_f", "ROUGE-L"), "rougeL_f"),
    Interval: Shown(_TIMES, ("mIoU", "mIoU")),
    Choice: Shown(_CHOICE, _ACCURACY),
    Sentence: Shown(_CHOICE, _ACCURACY),
    Choices: Shown((("set_f1", "set F1"), ("exact_set", "all right")), ("set_f1", "set F1")),
    Number: Shown((_ACCURACY, ("MAE", "mean error")), _ACCURACY),
    Intervals: Shown(
        (("F1@50", "F1@50"), ("coverage_iou", "coverage IoU")), ("coverage_iou", "coverage IoU")
    ),
    Record: Shown(
        (("parts_right", "parts right"), ("all_right", "all right")), ("parts_right", "parts right")
    ),
}
_BY_TIME_LEFT = Shown(_TIMES, ("mIoU", "mIoU"))
_BY_DISTANCE = Shown(
    (("within_0.5s", "in 0.5 s"), ("within_1s", "in 1 s"), ("within_2s", "in 2 s")), ("within_1s", "in 1 s")
)


def shown(task: Task) -> Shown:
    """Which figures of a task are shown."""
    kind = task.answer
    if isinstance(kind, Moment):
        return _BY_TIME_LEFT if kind.before else _BY_DISTANCE
    if isinstance(kind, EarlyWarning):
        precision = tuple((f"AP@{lead:g}s", f"AP {lead:g} s before") for lead in kind.lead_times)
        when = ((TIME_TO_ACCIDENT, "seconds before"), (FALSE_ALARMS, "false alarms/h"))
        right = ("joint", "time and reason") if kind.reasons else ("right_time", "right time")
        return Shown((*precision, *when, right), ("mAP", "mAP"))
    found = _SHOWN[type(kind)]
    if isinstance(kind, Text) and kind.closed_set:
        return Shown((*_TEXT, ("closed_set_accuracy", "closed set")), found.main, found.score)
    return found


def task_sums(
    task: Task,
    records: list[dict],
    crash_starts: dict[str, float] | None = None,
    extras: Extras = NO_EXTRAS,
) -> Sums:
    """The records of one task (as read_predictions gives them) as sums that every figure comes from.

    crash_starts: {video file name: seconds}, for moments before a crash whose records carry no crash_start.
    extras: METEOR, BERTScore and others, for texts.
    """
    kind, (truth, *_), (answer, *_) = task.answer, task.gt_fields, task.pred_fields
    match kind:
        case YesNo():
            return recognition_sums(records, truth, answer)
        case Interval():
            return interval_sums(records)
        case Moment():
            if kind.before:
                return time_left_sums(records, truth, answer, crash_starts)
            return moment_sums(records, truth, answer)
        case Choice() | Sentence():
            return choice_sums(records, truth, answer, options=kind.options, candidates=kind.candidates)
        case Choices():
            return choices_sums(records, truth, answer)
        case Number():
            return number_sums(records, truth, answer, kind.tolerance)
        case Intervals():
            return intervals_sums(records, truth, answer)
        case Record():
            return record_sums(records, truth, answer, kind)
        case EarlyWarning():
            return early_warning_sums(records, kind, crash_starts)
        case Text():
            return text_sums(records, truth, answer, extras)


def per_question_score(task: Task, sums: Sums) -> np.ndarray:
    """float64[R] between 0 and 1: how good each answer is; right or wrong, IoU, first-sign score, ROUGE-L or
    the like.
    """
    column = shown(task).score
    return sums.columns[column] if column else sums.columns["TP"] + sums.columns["TN"]
