"""Kinds of answers that measure: a moment, an interval, several intervals, a number. Times in seconds."""

import math
import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crashchat.json_files import Line
from crashchat.tasks.kinds import FieldName, Kind, Value
from crashchat.tasks.reading import ranges_in, read_interval, read_moment, read_number, seconds_in

UNIT = " seconds"
GAP = " - "
MAX_INTEGER = 2**53  # what a float holds to the last digit


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is an int or float that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return not (isinstance(value, int) and abs(value) > MAX_INTEGER)


class Timed(Kind):
    """Kinds whose answers are so many times each, `fields` of them."""

    expected: ClassVar[str] = "a number"

    def truth(self, answer: str) -> dict[str, Value]:
        # Annotated times keep their order: a start after its end is an oddity to report, not to repair.
        times = seconds_in(answer)
        if len(times) != len(self.fields):
            raise ValueError(f"has {len(times)} times, expected {len(self.fields)}")
        return dict(zip(self.fields, times, strict=True))

    def write(self, value: Value) -> str:
        times = value if isinstance(value, list) else [value]
        return GAP.join(f"{time:.1f}" for time in times) + UNIT

    def holds(self, value: object) -> bool:
        return is_number(value)

    def shown(self, values: dict[str, Value | None]) -> str:
        return f"{super().shown(values)}{UNIT}"


class Moment(Timed):
    """One time."""

    kind: Literal["moment"]
    field: FieldName = "time"
    """What prediction records call it."""
    before: str | None = None
    """A task with intervals, the start of which this moment comes before: it is then scored by the time that
    is left until that start (docs/reference.md, Metrics); none: by its distance.
    """

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def parse(self, text: str) -> dict[str, Value] | None:
        time = read_moment(text)
        return None if time is None else {self.field: time}


class Interval(Timed):
    """One stretch of time."""

    kind: Literal["interval"]

    @property
    def fields(self) -> tuple[str, ...]:
        return ("start", "end")

    def parse(self, text: str) -> dict[str, Value] | None:
        ends = read_interval(text)
        return None if ends is None else dict(zip(self.fields, ends, strict=True))


class Intervals(Kind):
    """Any number of stretches of time."""

    kind: Literal["intervals"]
    field: FieldName = "intervals"
    """What prediction records call them: a list of [start, end]."""
    none: Line = "none"
    """What is answered where there is none."""
    expected: ClassVar[str] = "a list of [start, end]"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def pattern(self, end: float) -> str | None:
        seconds = "|".join(rf"{tenths // 10}\.{tenths % 10}" for tenths in range(int(end * 10 + 1e-6) + 1))
        one = rf"(?:{seconds}) - (?:{seconds}) seconds"
        return rf"{one}(?:; {one}){{0,9}}|{re.escape(self.none)}"

    def parse(self, text: str) -> dict[str, Value] | None:
        found = ranges_in(text)
        if not found and (one := read_interval(text)):
            found = [one]
        if not found and self.none.lower() not in text.lower():
            return None
        return {self.field: [list(ends) for ends in sorted(found)]}

    def write(self, value: Value) -> str:
        stretches = value if isinstance(value, list) else []
        return "; ".join(f"{start:.1f}{GAP}{end:.1f}{UNIT}" for start, end in stretches) or self.none

    def holds(self, value: object) -> bool:
        return isinstance(value, list) and all(
            isinstance(ends, list) and len(ends) == 2 and all(map(is_number, ends)) for ends in value
        )

    def shown(self, values: dict[str, Value | None]) -> str:
        (value,) = values.values()
        return "None" if value is None else self.write(value)


class Number(Kind):
    """A number, with a unit or without."""

    kind: Literal["number"]
    field: FieldName = "number"
    """What prediction records call it."""
    unit: Annotated[Line, Field(max_length=40)] | None = None
    """What stands behind it."""
    whole: bool = False
    """Whether it counts something."""
    lowest: float = 0
    """The smallest answer that can be."""
    highest: float = Field(default=1_000_000, le=1e9)
    """The largest."""
    tolerance: float = Field(default=0, ge=0)
    """How far from the annotated number an answer is still right."""
    expected: ClassVar[str] = "a number"

    @model_validator(mode="after")
    def _ordered(self):
        if not self.lowest < self.highest:
            raise ValueError(f"lowest={self.lowest} is not below highest={self.highest}")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    def candidates(self) -> tuple[str, ...]:
        if not self.whole or self.highest - self.lowest > 100:
            return ()
        whole = range(math.ceil(self.lowest), math.floor(self.highest) + 1)
        return tuple(self.write(number) for number in whole)

    def pattern(self, end: float) -> str | None:
        sign = "-?" if self.lowest < 0 else ""
        unit = re.escape(f" {self.unit}") if self.unit else ""
        decimals = "" if self.whole else r"(?:\.\d{1,3})?"
        return super().pattern(end) or rf"{sign}\d{{1,10}}{decimals}{unit}"

    def parse(self, text: str) -> dict[str, Value] | None:
        number = read_number(text, self.unit)
        if number is None or not self.lowest <= number <= self.highest or (self.whole and number % 1):
            return None
        return {self.field: number}

    def write(self, value: Value) -> str:
        number = f"{value:.0f}" if self.whole else f"{value:g}"
        return f"{number} {self.unit}" if self.unit else number

    def holds(self, value: object) -> bool:
        return is_number(value)

    def shown(self, values: dict[str, Value | None]) -> str:
        (value,) = values.values()
        return "None" if value is None else self.write(value)
