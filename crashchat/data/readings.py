"""What an answer's words are read as: by this project's parsers, and by the released scripts
(docs/reference.md, Predictions).

The released scripts never say that they could not read an answer: they take what they find in it, keep its
words, or write 0.0 - 0.0. Their files are taken as they are; the scores say how often they read
otherwise.
"""

import re

from crashchat.errors import abbreviate
from crashchat.tasks import Task
from crashchat.tasks.kinds import YesNo
from crashchat.tasks.quantities import Interval, Moment

_DIGITS = r"[\d.]+"


def read_answer(task: Task, raw_response: str) -> dict:
    """{pred field: value} of an answer by the task's parser, None in each where it does not parse."""
    return task.parse(raw_response) or dict.fromkeys(task.pred_fields)


def released_readings(task: Task, raw_response: str) -> list[dict]:
    """{pred field: value} as the released scripts may have written it.

    Recognition: Yes or No wherever it is the only one of the two that stands in the answer, be it as a part
    of another word; else the answer's words. Crash interval: the first `a - b`, else the first two numbers,
    in the order said; else 0.0 and 0.0. First sign: the first number. Texts: the words, be there none.
    """
    words = raw_response.strip()
    if isinstance(task.answer, YesNo):
        found = [label for label in ("Yes", "No") if label.lower() in words.lower()]
        values: list[tuple] = [(words,), *([(found[0],)] if len(found) == 1 else [])]
    elif isinstance(task.answer, Interval):
        pair = re.search(rf"({_DIGITS})\s*-\s*({_DIGITS})", words, re.ASCII)
        ends = list(pair.groups()) if pair else re.findall(_DIGITS, words, re.ASCII)[:2]
        numbers = [number for number in map(_number, ends) if number is not None]
        values = [tuple(numbers) if len(numbers) == 2 else (0.0, 0.0)]
    elif isinstance(task.answer, Moment):
        first = re.search(_DIGITS, words, re.ASCII)
        values = [(_number(first[0]) if first else None,)]
    elif len(task.pred_fields) == 1:
        values = [(words,)]
    else:  # a kind that the released scripts do not have
        values = []
    return [dict(zip(task.pred_fields, value, strict=True)) for value in values]


def _number(digits: str) -> float | None:
    try:
        return float(digits)
    except ValueError:  # more than one point, or nothing else
        return None


def answer_fault(task: Task, record: dict, released: bool) -> str | None:
    """What a record says it predicts and its raw_response does not; None where they agree.

    released: take what the released scripts would have read, too.
    """
    raw, written = record["raw_response"], {field: record[field] for field in task.pred_fields}
    if record.get("error") is not None:
        if not raw and not any(value is not None for value in written.values()):
            return None
        return f"has an error and yet an answer ({_shown(written)}, raw_response {abbreviate(raw)})"
    read = read_answer(task, raw)
    if written == read or (released and written in released_readings(task, raw)):
        return None
    return (
        f"has {_shown(written)}, but its raw_response {abbreviate(raw)} is read as {_shown(read)}; "
        "take the file as it was written, or evaluate again"
    )


def _shown(values: dict) -> str:
    return ", ".join(f"{field} = {abbreviate(value)}" for field, value in values.items())
