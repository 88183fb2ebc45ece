"""Kinds of answers, and the closed and free ones among them; those of times and numbers are in quantities.py,
records of several in records.py.

A kind owns all that depends on an answer's form: what a text is read as, how an annotation writes it, which
fields of a prediction record hold it and what may stand in them, which texts are complete answers
(constrained decoding), and how people are shown it. What it is scored by is in metrics/, also by kind.
No text makes `parse` raise: what is no answer is None.
"""

import re
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, model_validator

from crashchat.errors import abbreviate
from crashchat.json_files import Exact, Line
from crashchat.tasks.reading import one_line, phrases_in, plain, read_label, read_letter

Value = Any  # of one field, as JSON has it: a text, a number, a list or an object
FieldName = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$", max_length=40)]
Option = Annotated[Line, Field(max_length=300)]


class Kind(Exact):
    """What all kinds have. A subclass says which it is in `kind`."""

    expected: ClassVar[str] = "a text"  # what a field of a prediction record holds, for messages

    @classmethod
    def name_of(cls) -> str:
        """What files call the kind."""
        return str(get_args(cls.model_fields["kind"].annotation)[0])

    @property
    def fields(self) -> tuple[str, ...]:
        """What an answer holds; a prediction record has each as gt_<field> and pred_<field>."""
        raise NotImplementedError

    @property
    def candidates(self) -> tuple[str, ...]:
        """All answers that there are, word for word; none where they cannot be listed."""
        return ()

    def pattern(self, end: float) -> str | None:  # noqa: ARG002
        """A regular expression of all answers on a video of `end` seconds; None where they are free."""
        return "|".join(map(re.escape, self.candidates)) or None

    def parse(self, text: str) -> dict[str, Value] | None:
        """{field: value} of a model's words, None where they are no answer."""
        raise NotImplementedError

    def truth(self, answer: str) -> dict[str, Value]:
        """{field: value} of an annotated answer.

        Raises ValueError, in words that go on from the answer, where it is none.
        """
        values = self.parse(answer)
        if values is None:
            raise ValueError("does not parse")
        return values

    def write(self, value: Value) -> str:
        """A value as annotations write it."""
        return str(value)

    def holds(self, value: object) -> bool:
        """Whether a field of a prediction record may have this value (None is for a lack of an answer)."""
        return isinstance(value, str)

    def shown(self, values: dict[str, Value | None]) -> str:
        """Values as people read them."""
        return " – ".join(str(value) for value in values.values())


class YesNo(Kind):
    """Yes or No."""

    kind: Literal["yes_no"]
    field: FieldName = "label"
    """What prediction records call the answer."""

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    def candidates(self) -> tuple[str, ...]:
        return ("Yes", "No")

    def parse(self, text: str) -> dict[str, Value] | None:
        label = read_label(text)
        return {self.field: label} if label else None


class Text(Kind):
    """Words of the model's own."""

    kind: Literal["text"]
    field: FieldName = "text"
    """What prediction records call the answer."""
    closed_set: bool = False
    """Whether the training answers are few sentences that come again and again, so that which of them is
    meant is right or wrong (closed_set_accuracy).
    """

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def parse(self, text: str) -> dict[str, Value] | None:
        text = text.strip()
        return {self.field: text} if text else None


class _Options(Kind):
    """Kinds whose answers are taken from a list."""

    options: list[Option] = Field(min_length=2, max_length=200)
    """The answers that there are, in order."""

    @model_validator(mode="after")
    def _told_apart(self):
        known = [plain(option) for option in self.options]
        twice = [option for option, words in zip(self.options, known, strict=True) if known.count(words) > 1]
        if twice or "" in known:
            raise ValueError(
                f"options: found {abbreviate(twice or self.options)}, expected options that differ in more "
                "than case and stops, none of them empty"
            )
        return self

    def _exact(self, text: str) -> str | None:
        known = {plain(option): option for option in self.options}
        return known.get(plain(text))


class Choice(_Options):
    """One of some options, in words or by its letter."""

    kind: Literal["choice"]
    field: FieldName = "choice"
    """What prediction records call the answer."""
    lettered: bool = False
    """Whether the prompt lists the options as A, B, C …, and the answer is a letter. Records hold the
    option's words in either case.
    """

    @model_validator(mode="after")
    def _letters(self):
        if self.lettered and len(self.options) > 26:
            raise ValueError(f"lettered: {len(self.options)} options, expected 26 at most")
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(self.write(option) for option in self.options)

    def letter(self, option: str) -> str:
        """A, B, C …"""
        return chr(ord("A") + self.options.index(option))

    def listed(self) -> str:
        """The options as a prompt lists them."""
        if self.lettered:
            return "\n".join(f"{self.letter(option)}. {option}" for option in self.options)
        return one_line(self.options)

    def write(self, value: Value) -> str:
        return self.letter(str(value)) if self.lettered else str(value)

    def parse(self, text: str) -> dict[str, Value] | None:
        if option := self._exact(text):
            return {self.field: option}
        named = {self.options[place] for place in phrases_in(text, self.options)}
        place = read_letter(text, len(self.options)) if self.lettered else None
        if place is not None and named <= {self.options[place]}:
            return {self.field: self.options[place]}
        return {self.field: named.pop()} if place is None and len(named) == 1 else None


class Sentence(_Options):
    """One of a closed set of sentences."""

    kind: Literal["sentence"]
    field: FieldName = "sentence"
    """What prediction records call the answer."""

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    def candidates(self) -> tuple[str, ...]:
        return tuple(self.options)

    def parse(self, text: str) -> dict[str, Value] | None:
        option = self._exact(text)
        if option is None:  # among other words, the only one of them
            named = [option for option in self.options if plain(option) in plain(text)]
            option = named[0] if len(named) == 1 else None
        return {self.field: option} if option else None


class Choices(_Options):
    """Any number of some options."""

    kind: Literal["choices"]
    field: FieldName = "choices"
    """What prediction records call the answer: a list, in the options' order."""
    none: Option = "none"
    """What is answered where no option is right."""
    expected: ClassVar[str] = "a list of options"

    @property
    def fields(self) -> tuple[str, ...]:
        return (self.field,)

    def pattern(self, end: float) -> str | None:  # noqa: ARG002
        # Every option may be there or not, in the options' order, with commas between those that are.
        rest = ""
        for option in reversed(self.options[1:]):
            rest = f"(?:, {re.escape(option)})?{rest}"
        firsts = []
        for number, option in enumerate(self.options):
            behind = "".join(f"(?:, {re.escape(later)})?" for later in self.options[number + 1 :])
            firsts.append(f"{re.escape(option)}{behind}")
        return "|".join([*firsts, re.escape(self.none)])

    def parse(self, text: str) -> dict[str, Value] | None:
        named = [self.options[place] for place in phrases_in(text, self.options)]
        if not named and not re.search(rf"(?<!\w){re.escape(plain(self.none))}(?!\w)", plain(text)):
            return None
        return {self.field: named}

    def truth(self, answer: str) -> dict[str, Value]:
        parts = [part for part in answer.split(",") if part.strip()]
        unknown = [part.strip() for part in parts if self._exact(part) is None]
        if unknown and plain(answer) != plain(self.none):
            raise ValueError(f"names {abbreviate(unknown)}, which is none of the options")
        return super().truth(answer)

    def write(self, value: Value) -> str:
        chosen = [option for option in self.options if isinstance(value, list) and option in value]
        return one_line(chosen) or self.none

    def holds(self, value: object) -> bool:
        return isinstance(value, list) and all(one in self.options for one in value)

    def shown(self, values: dict[str, Value | None]) -> str:
        (value,) = values.values()
        return "None" if value is None else self.write(value)
