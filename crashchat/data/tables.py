"""A file of questions, of any form -> an Arrow table of its rows, each of them checked.

The table has the columns `video`, `question` and `answer`, and every other column or key that holds a text, a
number or true/false as text, below its own name with a `+` in front. A large file is checked once: its table
is kept (kept_tables.py), below a hash of the file's bytes, of the columns that are read and of the code that
checks them, and is mapped from there the next time.
"""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

import crashchat.data.records
import crashchat.data.table_files
import crashchat.json_files
import crashchat.tasks
from crashchat.data import kept_tables
from crashchat.data.records import (
    AnnotationError,
    check_video,
    each_line,
    each_record,
    parse_messages,
    parse_record,
)
from crashchat.data.table_files import table_rows
from crashchat.data_settings import Columns, Form
from crashchat.errors import abbreviate
from crashchat.tasks import question_text

EXTRA = "+"  # in front of the names of other columns
HOLDERS = {"video", "videos", "messages", "conversations"}  # keys of a record that are no columns
# What a row is called in each form, and the number of its first one.
UNITS: dict[str, tuple[str, int]] = {
    "released": ("record", 0),
    "messages": ("line", 1),
    "csv": ("row", 2),  # as a spreadsheet counts: the names are row 1
    "parquet": ("row", 0),
}


@dataclass(frozen=True)
class Rows:
    """The rows of a file that can be used, and what is wrong with the others.

    name: of the file, for messages. unit, first: what a row is called there, and the first one's number.
    places: where in the file the table's rows stand, from 0. problems: [(place, what is wrong)]. folder:
    where the videos' paths start from, where the table itself says it.
    """

    name: str
    unit: str
    first: int
    table: pa.Table
    places: Sequence[int]
    problems: list[tuple[int, str]]
    folder: Path | None = None

    def at(self, place: int) -> str:
        """A row, for messages."""
        return f"{self.name}, {self.unit} {place + self.first}"

    def within(self, folder: Path) -> "Rows":
        """The same, of videos in a folder."""
        return replace(self, folder=folder)

    @property
    def extras(self) -> list[str]:
        """The other columns' names."""
        return [name.removeprefix(EXTRA) for name in self.table.column_names if name.startswith(EXTRA)]

    def column(self, name: str) -> list:
        """A column's values as Python objects, equal ones of a column with few values as one object."""
        return _values(self.table.column(name))

    def extra(self, name: str | None) -> list | None:
        """Another column's values, texts or None; None where there is no such column."""
        full = f"{EXTRA}{name}"
        return self.column(full) if name and full in self.table.column_names else None


def _values(column: pa.ChunkedArray) -> list:
    found: list = []
    for chunk in column.chunks:
        if isinstance(chunk, pa.DictionaryArray):
            words = [*chunk.dictionary.to_pylist(), None]
            found += [words[index] for index in chunk.indices.fill_null(len(words) - 1).to_pylist()]
        else:
            found += chunk.to_pylist()
    return found


def as_text(value: object) -> str | None:
    """A cell as text, None for one without a value. Raises ValueError for what is no single value."""
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value).encode("utf-8", "replace").decode()  # JSON can write half a character
    raise ValueError(f"found a {type(value).__name__}, expected a text or a number")


class Collector:
    """Rows on their way into a table. context: columns whose values join the prompts."""

    def __init__(self, name: str, form: str, context: Sequence[str] = ()) -> None:
        self.name, (self.unit, self.first), self.context = name, UNITS[form], context
        self.columns: dict[str, list] = {"video": [], "question": [], "answer": []}
        self.places: list[int] = []
        self.problems: list[tuple[int, str]] = []
        self._known: dict[str | None, str | None] = {}

    def add(self, place: int, *, video: str, question: str | None, answer: str, others: dict) -> None:
        """Take a row. others: its further values by name; those that are no single value are passed over, but
        for one of the context, without which the question would be another.
        """
        for name in self.context:
            try:
                if isinstance(value := others.get(name), float) and not math.isfinite(value):
                    raise ValueError(f"found {value}, expected a number, or nothing")
                as_text(value)
            except ValueError as error:
                self.problems.append((place, f"context {name!r}: {error}"))
                return
        known = self._known  # a prompt that stands in thousands of rows is one object
        self.columns["video"].append(known.setdefault(video, video))
        self.columns["question"].append(known.setdefault(question, question))
        self.columns["answer"].append(answer)
        for key, value in others.items():
            try:
                text = as_text(value)
            except ValueError:
                continue
            column = self.columns.setdefault(f"{EXTRA}{as_text(key)}", [])
            column += [None] * (len(self.places) - len(column))
            column.append(known.setdefault(text, text))
        self.places.append(place)

    def rows(self) -> Rows:
        """The table of what was taken."""
        made = {}
        for name, values in self.columns.items():
            values += [None] * (len(self.places) - len(values))
            made[name] = pa.array(values, pa.string()) if name == "answer" else _encoded(values)
        whole = not self.problems and self.places == list(range(len(self.places)))
        return Rows(
            name=self.name,
            unit=self.unit,
            first=self.first,
            table=pa.table(made),
            places=range(len(self.places)) if whole else self.places,
            problems=self.problems,
        )


def _encoded(values: list) -> pa.DictionaryArray:
    """Texts as numbers of distinct ones; as plain texts, prompts alone would be hundreds of megabytes."""
    places: dict[str | None, int | None] = {None: None}
    for value in values:
        if value not in places:
            places[value] = len(places) - 1
    words = [word for word in places if word is not None]
    numbers = pa.array([places[value] for value in values], pa.int32())
    return pa.DictionaryArray.from_arrays(numbers, pa.array(words, pa.string()))


def read_rows(path: Path, form: Form, columns: Columns | None = None, context: Sequence[str] = ()) -> Rows:
    """The rows of a file of questions. context: columns whose values join the prompts.

    Raises AnnotationError for a file that cannot be read, holds none, or lacks a column.
    """
    columns = columns or Columns()
    words = [form, columns.video, columns.question or "", columns.answer, *context]
    here, files = sys.modules[__name__], crashchat.data.table_files
    code = [here, files, crashchat.data.records, crashchat.json_files, crashchat.tasks]
    kept = kept_tables.place_of(path, words, code)
    table = kept_tables.read_kept(kept) if kept else None
    if table is not None:
        unit, first = UNITS[form]
        return Rows(str(path), unit, first, table=table, places=range(len(table)), problems=[])
    collector = Collector(str(path), form, context)
    if form == "released":
        _collect_released(path, collector)
    elif form == "messages":
        _collect_messages(path, columns, collector)
    else:
        collect_table(enumerate(table_rows(path, form)), columns, collector)
    if not collector.places and not collector.problems:
        raise AnnotationError(f"{path}: holds no rows")
    rows = collector.rows()
    if kept is not None and isinstance(rows.places, range):  # every row stands where it is counted
        kept_tables.keep(kept, rows.table)
    return rows


def _collect_released(path: Path, collector: Collector) -> None:
    for place, record in enumerate(each_record(path)):
        try:
            video, question, answer, source = parse_record(record)
        except ValueError as error:
            collector.problems.append((place, str(error)))
            continue
        assert isinstance(record, dict)  # as parse_record found
        others = {key: value for key, value in record.items() if key not in HOLDERS} | {"source": source}
        collector.add(place, video=video, question=question, answer=answer, others=others)


def _collect_messages(path: Path, columns: Columns, collector: Collector) -> None:
    for place, record in enumerate(each_line(path)):
        if record is None:
            continue
        try:
            video, question, answer = parse_messages(record, columns.video)
        except ValueError as error:
            collector.problems.append((place, str(error)))
            continue
        assert isinstance(record, dict)  # as parse_messages found
        others = {key: value for key, value in record.items() if key not in HOLDERS | {columns.video}}
        collector.add(place, video=video, question=question, answer=answer, others=others)


def collect_table(rows: Iterable[tuple[int, dict]], columns: Columns, collector: Collector) -> None:
    """Take the rows of a table, each with its place in it. Raises AnnotationError where it lacks a column
    that is read.
    """
    own = {columns.video, columns.question, columns.answer}
    names: list[str] = []
    for place, row in rows:
        if not names:
            names = list(row)
            _check_columns(names, columns, collector.name)
        try:
            video = _cell(row, columns.video)
            check_video(video, f"column {columns.video!r}")
            asked = row.get(columns.question) if columns.question else None
            if asked is not None and not isinstance(asked, str):
                raise ValueError(f"column {columns.question!r}: found {abbreviate(asked)}, expected a text")
            answer = _cell(row, columns.answer)
        except ValueError as error:
            collector.problems.append((place, str(error)))
            continue
        others = {key: value for key, value in row.items() if key not in own}
        question = question_text(asked or "") or None
        collector.add(place, video=video, question=question, answer=answer, others=others)


def _check_columns(found: list[str], columns: Columns, where: str) -> None:
    wanted = [columns.video, columns.answer, *filter(None, [columns.named("question")])]
    missing = [name for name in wanted if name not in found]
    if missing:
        raise AnnotationError(no_column(where, missing[0], found))


def no_column(where: str, name: str, found: list[str]) -> str:
    """What is said where a column is missing. where: the file. found: those that it has."""
    return (
        f"{where}: has no column {name!r}; its columns are {', '.join(found)}; `columns:` says which are what"
    )


def _cell(row: dict, name: str) -> str:
    value = row[name]
    if isinstance(value, dict):  # the hub's form of a video: {bytes, path}
        value = value.get("path")
    try:
        text = as_text(value)
    except ValueError as error:
        raise ValueError(f"column {name!r}: {error}") from error
    if text is None or not text.strip():
        raise ValueError(f"column {name!r} is empty")
    return text.strip()
