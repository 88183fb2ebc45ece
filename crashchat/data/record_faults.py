"""What makes a record of a prediction file none (predictions.py)."""

import math
from types import UnionType
from typing import TypeGuard

from crashchat.errors import abbreviate
from crashchat.tasks import Task
from crashchat.tasks.context import asked_with
from crashchat.tasks.quantities import MAX_INTEGER

COMMON_FIELDS = ("data_id", "video_path", "prompt", "raw_response")
# What a record's fields may hold, as isinstance takes it.
_TEXT: type | UnionType = str
_TEXT_OR_NONE: type | UnionType = str | None
_NUMBER_OR_NONE: type | UnionType = int | float | None


def is_number(value: object) -> TypeGuard[float]:
    """True for a finite int or float.

    JSON as Python reads it may also hold NaN and Infinity; those are no times.
    """
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def bare_prompt(record: dict) -> str:
    """A record's prompt without what was told of the clip."""
    context = record.get("context")
    return str(record.get("prompt", "")).removeprefix(asked_with(context, "") if context else "")


def record_fault(task: Task, record: dict) -> str | None:
    """What makes `record` no prediction record of `task`; None when nothing does."""
    missing = [key for key in (*COMMON_FIELDS, *task.gt_fields, *task.pred_fields) if key not in record]
    if missing:
        return f"lacks {', '.join(missing)}; a {task.name} record has them all"
    if not isinstance(record["data_id"], int | str) or isinstance(record["data_id"], bool):
        return "has a data_id that is neither a number nor a text"
    required = dict.fromkeys(("video_path", "prompt", "raw_response"), _TEXT)
    optional = {"crash_start": _NUMBER_OR_NONE, "crash_probability": _NUMBER_OR_NONE}
    optional |= dict.fromkeys(("model", "source", "error", "context"), _TEXT_OR_NONE)
    if fault := _wrong_kind(record, required):
        return fault
    for key in (*task.gt_fields, *task.pred_fields):
        value = record[key]
        if value is not None and not task.answer.holds(value):
            return f"has {key} = {abbreviate(value)}, expected {task.answer.expected} or null"
    if fault := _wrong_kind(record, {key: kind for key, kind in optional.items() if key in record}):
        return fault
    if record.get("context") and bare_prompt(record) == record["prompt"]:
        return f"has a prompt that does not begin with its context {abbreviate(record['context'])}"
    probability = record.get("crash_probability")
    if probability is not None and not 0 <= probability <= 1:
        return f"has crash_probability = {abbreviate(probability)}, expected 0 to 1, or null"
    shares = record.get("option_probabilities")
    if shares is not None and not _are_shares(shares):
        return (
            f"has option_probabilities = {abbreviate(shares)}, expected numbers from 0 to 1 that add up to 1"
        )
    return None


def _are_shares(value: object) -> bool:
    return (
        isinstance(value, dict)
        and all(is_number(share) and 0 <= share <= 1 for share in value.values())
        and abs(sum(value.values()) - 1) < 1e-3
    )


def _wrong_kind(record: dict, kinds: dict[str, type | UnionType]) -> str | None:
    for key, kind in kinds.items():
        # bool is an int to Python; a number it is not. Nor is an integer that no float can hold.
        value = record[key]
        huge = isinstance(value, int) and abs(value) > MAX_INTEGER
        if not isinstance(value, kind) or isinstance(value, bool) or huge:
            expected = "a text" if kind in (_TEXT, _TEXT_OR_NONE) else "a number"
            expected += "" if kind is _TEXT else " or null"
            return f"has {key} = {abbreviate(value)}, expected {expected}"
    return None
