"""Reading JSON that others wrote: whatever is wrong with it is one line that names file, key,
what was found and expected. What JSON objects hold is typed by two bases, one for theirs and one for ours.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from crashchat.errors import CrashChatError, abbreviate

SHOWN = 3  # problems of one file that a message names

Kind = TypeVar("Kind")
# A name that may be shown on a terminal: in one line, without control characters.
LONGEST_LINE = 500  # characters
CONTROL = r"\x00-\x1f\x7f-\x9f"
Line = Annotated[str, Field(min_length=1, max_length=LONGEST_LINE, pattern=f"^[^{CONTROL}]*$")]


class Lenient(BaseModel):
    """Of a JSON object, the keys that matter, each of exactly its kind and finite;
    other keys are passed over.
    """

    model_config = ConfigDict(strict=True, extra="ignore", allow_inf_nan=False)


class Exact(BaseModel):
    """A JSON object of our own: these keys and no others, every number finite; the text below a key
    describes it in the schema.
    """

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    def as_json(self) -> dict:
        """The same as JSON values."""
        return self.model_dump(mode="json")


def as_line(name: str) -> str:
    """The name of a file or folder, which may hold any bytes, as a Line."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return re.sub(f"[{CONTROL}]", "\ufffd", text)[:LONGEST_LINE] or "?"


def parse_json(text: str | bytes, nan: bool = False) -> object:
    """A JSON value. Raises ValueError, in few words, for what is no JSON: a key twice in an object is none.

    nan: take NaN and Infinity, which Python's own json module writes.
    """
    try:
        return json.loads(text, object_pairs_hook=_object, parse_constant=None if nan else _refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("a number of thousands of digits") from error
        raise


def _object(pairs: list[tuple[str, object]]) -> dict:
    value = dict(pairs)
    if len(value) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {abbreviate(twice)} is there twice in one object")
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no number")


def read_json(path: str | Path, error: type[CrashChatError], expected: str, nan: bool = False) -> object:
    """The value that a JSON file holds (see parse_json). Raises `error` naming the file
    and what is wrong with it.

    expected: what the file should hold, for the message.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(
            path.stat().st_mode
        ):  # asked before it is opened: a pipe would wait for its writer
            raise error(f"{path}: is no file, expected {expected}")
        data = path.read_bytes()
    except (OSError, ValueError) as cause:  # ValueError: a path that cannot be one
        raise error(
            f"{path}: cannot be read: {getattr(cause, 'strerror', None) or cause}; expected {expected}"
        ) from cause
    if not data:
        raise error(f"{path}: is empty (0 bytes), expected {expected}")
    try:
        return parse_json(data, nan)
    except ValueError as cause:
        raise error(f"{path}: not JSON ({cause}), expected {expected}") from cause


def checked(kind: type[Kind], value: object, where: str | Path, error: type[CrashChatError]) -> Kind:
    """The value as `kind`, any type pydantic knows.

    Raises `error` naming the keys that are not as they should be.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as cause:
        found = problems(cause)
        more = f"; and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        raise error(f"{where}: {'; '.join(found[:SHOWN])}{more}") from cause


def problems(error: ValidationError) -> list[str]:
    """Each problem that pydantic found, with its key, what was found, and what was expected."""
    lines = []
    for problem in error.errors(include_url=False):
        key = ".".join(map(str, problem["loc"]))
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "missing":
            lines.append(f"{key} is missing")
            continue
        if not key and problem["type"] == "value_error":  # of several keys together, which the message names
            lines.append(message)
            continue
        if problem["type"] == "model_type":
            message = "expected an object"
        if message.startswith("Input should be "):
            message = "expected " + message.removeprefix("Input should be ")
        lines.append(f"{f'{key}: ' if key else ''}found {abbreviate(problem['input'])}, {message}")
    return lines
