"""A record: several named answers at once, each of a kind of its own, written as a JSON object."""

import json
import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from crashchat.json_files import parse_json
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.kinds import Choice, Choices, FieldName, Kind, Sentence, Text, Value, YesNo
from crashchat.tasks.quantities import Interval, Intervals, Moment, Number

_FENCE = re.compile(r"^\s*```(?:json)?\s*(.*?)\s*```\s*$", re.DOTALL)

Simple = Annotated[
    YesNo | Choice | Choices | Sentence | Text | Number | Moment | Interval | Intervals,
    Field(discriminator="kind"),
]


class Record(Kind):
    """Named fields, each of a kind, as a JSON object of texts: {"road users": "car, truck", "count": "2"}."""

    kind: Literal["record"]
    field: FieldName = "record"
    """What prediction records call it: an object with every field's own values, null where it is none."""
    parts: dict[FieldName, Simple] = Field(min_length=1, max_length=30)
    """The fields, in order."""
    expected: ClassVar[str] = "an object of the record's fields"

    @model_validator(mode="after")
    def _no_moment_before_another(self):
        for name, part in self.parts.items():
            if isinstance(part, Moment) and part.before:
                raise ValueError(f"parts.{name}.before: a part of a record is scored by its distance")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def pattern(self, end: float) -> str | None:
        parts = []
        for name, part in self.parts.items():
            own = part.pattern(end)
            if own is None:
                return None
            parts.append(rf'"{name}": "(?:{own})"')
        return r"\{" + ", ".join(parts) + r"\}"

    def parse(self, text: str) -> dict[str, Value] | None:
        fenced = _FENCE.match(text)
        begin, end = text.find("{"), text.rfind("}")
        body = fenced[1] if fenced else text[begin : end + 1] if 0 <= begin < end else text
        try:
            found = parse_json(body)
        except ValueError:
            return None
        if not isinstance(found, dict) or not set(found) & set(self.parts):
            return None
        return {self.field: {name: self._part(name, found.get(name)) for name in self.parts}}

    def _part(self, name: str, said: object) -> Value | None:
        if isinstance(said, list):
            said = ", ".join(map(str, said))
        if said is None or isinstance(said, dict):
            return None
        values = self.parts[name].parse(str(said))
        if values is None:
            return None
        several = list(values.values())
        return several[0] if len(several) == 1 else several

    def truth(self, answer: str) -> dict[str, Value]:
        values = super().truth(answer)
        record = values[self.field]
        lacking = (
            [name for name, value in record.items() if value is None] if isinstance(record, dict) else []
        )
        if lacking:
            raise ValueError(f"has no answer, or none that parses, in {', '.join(lacking)}")
        return values

    def write(self, value: Value) -> str:
        record = value if isinstance(value, dict) else {}
        return json.dumps(
            {name: part.write(record[name]) for name, part in self.parts.items() if name in record},
            ensure_ascii=False,
        )

    def holds(self, value: object) -> bool:
        return isinstance(value, dict) and all(
            name in self.parts and (one is None or self._part_holds(self.parts[name], one))
            for name, one in value.items()
        )

    @staticmethod
    def _part_holds(part: Kind, value: object) -> bool:
        if len(part.fields) > 1:
            return isinstance(value, list) and len(value) == len(part.fields) and all(map(part.holds, value))
        return part.holds(value)

    def shown(self, values: dict[str, Value | None]) -> str:
        (value,) = values.values()
        return "None" if value is None else self.write(value)


AnyKind = Annotated[
    YesNo
    | Choice
    | Choices
    | Sentence
    | Text
    | Number
    | Moment
    | Interval
    | Intervals
    | Record
    | EarlyWarning,
    Field(discriminator="kind"),
]
