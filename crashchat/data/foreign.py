"""Tables that others made -> rows of ours: {video, question, answer, task, and further columns}.

Written from published descriptions of the columns; what each is, docs/data.md says with its source.
"""

import re
import string
from collections.abc import Callable, Iterator
from pathlib import Path

from crashchat.data.records import AnnotationError, each_line, each_record
from crashchat.data.table_files import table_rows
from crashchat.data.tables import as_text, no_column
from crashchat.data_settings import Columns
from crashchat.errors import abbreviate
from crashchat.json_files import parse_json
from crashchat.tasks import TASKS, Fact
from crashchat.tasks.task import CRASH, CRASH_START, FIRST_SIGN

# Nexar's collision prediction set: the columns of its train.csv, and of metadata.csv on the hub. A time is in
# seconds from the video's beginning, and empty where nothing happens.
NEXAR_ID, NEXAR_FILE, NEXAR_TARGET = "id", "file_name", "target"
NEXAR_EVENT, NEXAR_ALERT = "time_of_event", "time_of_alert"
NEXAR_KEPT = (NEXAR_EVENT, NEXAR_ALERT, "light_conditions", "weather", "scene", "time_to_accident")
NEXAR_ID_DIGITS = 5  # of its files' names: spreadsheets drop the zeros in front
NEXAR_FACTS: tuple[Fact, Fact] = (CRASH, FIRST_SIGN)  # what its labels tell
LETTERS = string.ascii_uppercase


def each_row(path: Path) -> Iterator[tuple[int, dict]]:
    """(number as its form counts, cells) of each row of a table: CSV, Parquet, JSON lines, or a JSON list.

    Raises AnnotationError for a file that cannot be read, and for a row that is no object.
    """
    suffix = path.suffix.lower()
    if suffix in (".json", ".jsonl"):
        first = int(suffix == ".jsonl")
        for place, row in enumerate(each_record(path) if suffix == ".json" else each_line(path)):
            if row is None:
                continue
            if not isinstance(row, dict):
                found = (
                    row
                    if isinstance(row, ValueError)
                    else f"found a {type(row).__name__}, expected an object"
                )
                raise AnnotationError(f"{path}, row {place + first}: {found}")
            yield place + first, row
        return
    form, first = ("parquet", 0) if suffix == ".parquet" else ("csv", 2)
    for place, row in enumerate(table_rows(path, form)):
        yield place + first, row


Maker = Callable[[dict], list[dict]]


class WideRows:
    """A table with a row a clip and a column, or several, for each task's answer -> a row a question.

    video: the column of the clip. answers: {task: the column with its answer, or a text with columns in
    braces, '{start} - {end} seconds'}; where a cell is empty, the task is not asked.
    """

    def __init__(self, video: str, answers: dict[str, str]) -> None:
        self.video, self.answers = video, answers

    def __call__(self, row: dict) -> list[dict]:
        """The questions of a row. Raises KeyError for a column that is not there."""
        others = {key: value for key, value in row.items() if key != self.video}
        made = []
        for task, template in self.answers.items():
            names = [name for _, name, _, _ in string.Formatter().parse(template) if name] or [template]
            cells = {name: as_text(row[name]) for name in names}
            if all(cell and cell.strip() for cell in cells.values()):
                answer = template.format_map(cells) if template not in cells else cells[template]
                made.append({**others, "video": row[self.video], "task": task, "answer": answer})
        return made


class NexarRows:
    """Nexar's labels -> whether something happens, and when its first sign can be seen, asked by the tasks
    of the set in use that tell these.

    Its one time of an event is no interval: it answers a task that asks when the crash begins, and is kept as
    a column. Raises AnnotationError where the set has no such tasks.
    """

    def __init__(self) -> None:
        tasks = [TASKS.of_fact(fact) for fact in NEXAR_FACTS]
        if None in tasks:
            raise AnnotationError(
                f"{TASKS.task_set.path}: has no task for each of {', '.join(NEXAR_FACTS)}, which Nexar's "
                "labels tell; expected `fact:` of two tasks to name them"
            )
        self.happens, self.first_sign = (task.name for task in tasks if task is not None)
        self.begins = TASKS.of_fact(CRASH_START)

    def __call__(self, row: dict) -> list[dict]:
        """The questions of a row. Raises KeyError for a column that is not there, ValueError for a cell."""
        name = as_text(row[NEXAR_FILE] if NEXAR_FILE in row else row[NEXAR_ID])
        if name is None:
            raise ValueError("has no id")
        video = name if NEXAR_FILE in row else f"{name.zfill(NEXAR_ID_DIGITS)}.mp4"
        event, alert = as_text(row[NEXAR_EVENT]), as_text(row[NEXAR_ALERT])
        happens = event is not None
        if NEXAR_TARGET in row:
            target = as_text(row[NEXAR_TARGET])
            if target not in ("0", "1", "0.0", "1.0"):
                raise ValueError(f"column {NEXAR_TARGET!r}: found {abbreviate(target)}, expected 0 or 1")
            if happens != target.startswith("1"):
                raise ValueError(
                    f"target is {target} and {NEXAR_EVENT} {event or 'empty'}: one of them is wrong"
                )
        kept = {name: row[name] for name in NEXAR_KEPT if name in row}
        common = {**kept, "video": video, "source": "Nexar"}
        made = [{**common, "task": self.happens, "answer": "Yes" if happens else "No"}]
        if event is not None and self.begins is not None:
            begins = self.begins.answer.write(float(event))
            made.append({**common, "task": self.begins.name, "answer": begins})
        if alert is not None:
            if not happens or float(alert) > float(event or 0):
                raise ValueError(f"{NEXAR_ALERT} is {alert} and {NEXAR_EVENT} {event or 'empty'}")
            made.append({**common, "task": self.first_sign, "answer": f"{float(alert):.1f} seconds"})
        return made


class ChoiceRows:
    """Multiple choice: a question, its options and the right one -> one question with lettered options.

    options: the column that holds a list of them, or text with one a line or a JSON list; or several columns,
    of one option each. The answer's column has the letter of the right one, or its words. words: answer with
    the option's words instead of its letter. task: the task that these questions are, which have words of
    their own; None: general ones.
    """

    def __init__(
        self, columns: Columns, options: list[str], words: bool = False, task: str | None = None
    ) -> None:
        self.video, self.question, self.answer = columns.video, columns.question or "question", columns.answer
        self.options, self.words, self.task = options, words, task

    def __call__(self, row: dict) -> list[dict]:
        """The question of a row. Raises KeyError for a column that is not there, ValueError for a cell."""
        options = self._options(row)
        asked = as_text(row[self.question])
        if not asked:
            raise ValueError(f"column {self.question!r} is empty")
        right = self._right(as_text(row[self.answer]) or "", options)
        lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)]
        wanted = "the words of the right option" if self.words else "the letter of the right option"
        own = {self.video, self.question, self.answer, *self.options}
        return [
            {
                **{key: value for key, value in row.items() if key not in own},
                "video": row[self.video],
                "question": "\n".join([asked, *lines, f"Answer with {wanted}."]),
                "answer": options[right] if self.words else LETTERS[right],
                "task": self.task,
            }
        ]

    def _options(self, row: dict) -> list[str]:
        if len(self.options) > 1:
            found: object = [row[name] for name in self.options if as_text(row[name])]
        else:
            found = row[self.options[0]]
        if isinstance(found, str):
            text = found.strip()
            found = parse_json(text) if text.startswith("[") else text.splitlines()
        if not isinstance(found, list) or not 2 <= len(found) <= len(LETTERS):
            raise ValueError(f"the options are {abbreviate(found)}, expected a list of 2 to {len(LETTERS)}")
        bare = [
            re.sub(rf"^\(?{letter}[.):]\s*", "", str(one).strip())
            for letter, one in zip(LETTERS, found, strict=False)
        ]
        if len(set(bare)) < len(bare) or not all(bare):
            raise ValueError(f"the options are {abbreviate(found)}, expected each once, and none empty")
        return bare

    @staticmethod
    def _right(answer: str, options: list[str]) -> int:
        """The place of the right option."""
        answer = answer.strip()
        if answer in options:
            return options.index(answer)
        letter = re.fullmatch(r"\(?([A-Za-z])[.):]?(?:\s.*)?", answer, re.DOTALL)
        if letter and (place := LETTERS.index(letter[1].upper())) < len(options):
            rest = answer[letter.end(1) :].lstrip(".): ").strip()
            if not rest or rest == options[place]:
                return place
        letters = LETTERS[: len(options)]
        raise ValueError(f"the answer is {abbreviate(answer)}, expected a letter of {letters}, or an option")


def rows_of(path: Path, make: Maker) -> tuple[list[tuple[int, dict]], list[str]]:
    """(row, question) of each question that a file's rows become, and what is wrong with the other rows.

    Raises AnnotationError where a column is missing.
    """
    made: list[tuple[int, dict]] = []
    problems = []
    for number, row in each_row(path):
        try:
            made += [(number, question) for question in make(row)]
        except KeyError as error:
            raise AnnotationError(no_column(str(path), error.args[0], list(row))) from error
        except ValueError as error:
            problems.append(f"{path}, row {number}: {error}")
    return made, problems
