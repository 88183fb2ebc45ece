"""What is known of a clip besides its pictures, in front of a question: telematics, a place, a note.

    context:
      speed: "Speed: {value} km/h."
      note: {words: "The driver says: {value}", tasks: [crash_description], required: true}

A task set names columns of its annotations; each value becomes a sentence, and the sentences stand before the
prompt, a line each. Where a value is missing there is no sentence. `asked_with` is what every question of a
task goes through, whether it is learnt, evaluated or asked of a new clip.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from crashchat.json_files import Exact, Line

VALUE = "{value}"  # stands in a sentence for the column's value
# What a tokenizer would read as the turns of a chat, or as frames.
_MARKS = re.compile(r"<\|[^<>|]*\|>|<(?:image|video)>")


class Context(Exact):
    """A column whose values join the prompts."""

    words: Line
    """The sentence, with {value} for the column's value."""
    tasks: list[str] = Field(default_factory=list)
    """The tasks whose prompts it joins; none: all of the set."""
    required: bool = False
    """Whether a record without a value is an error; else its prompt has no such sentence."""

    @field_validator("words")
    @classmethod
    def _has_a_place(cls, words):
        if words.count(VALUE) != 1:
            raise ValueError(f"expected {VALUE} once, for the column's value")
        return words


def _as_words(value: object) -> object:
    return {"words": value} if isinstance(value, str) else value


Contexts = dict[Line, Annotated[Context, BeforeValidator(_as_words)]]


def taken_by(contexts: Mapping[str, Context], task: str) -> list[str]:
    """The columns that join a task's prompts."""
    return [name for name, context in contexts.items() if not context.tasks or task in context.tasks]


def sentences(contexts: Mapping[str, Context], task: str, values: Mapping[str, str | None]) -> str:
    """The sentences that join a task's prompt, a line each; empty where there are none.

    values: {column: value as text, None where it is missing}. Raises ValueError for a value that is required
    and missing, and for one that a tokenizer would not read as text.
    """
    lines = []
    for name in taken_by(contexts, task):
        value = " ".join((values.get(name) or "").split())
        if mark := _MARKS.search(value):
            raise ValueError(
                f"context {name!r} holds {mark[0]!r}, which no text of a prompt may; take it out"
            )
        if value:
            lines.append(contexts[name].words.replace(VALUE, value))
        elif contexts[name].required:
            raise ValueError(f"context {name!r} has no value for {task}, and the task set requires one")
    return "\n".join(lines)


def asked_with(told: str, prompt: str) -> str:
    """A prompt as it is asked: after the sentences that are told with it, where there are any."""
    return f"{told}\n{prompt}" if told else prompt


def unknown_tasks(contexts: Mapping[str, Context], known: Iterable[str]) -> dict[str, list[str]]:
    """{column: the tasks that it names and that there are not}."""
    names = set(known)
    found = {name: [task for task in one.tasks if task not in names] for name, one in contexts.items()}
    return {name: tasks for name, tasks in found.items() if tasks}
