"""Sets of tasks, read from a YAML file: what is asked, in which order, and under which conditions."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from crashchat.errors import CrashChatError, abbreviate
from crashchat.files import write_text_atomic
from crashchat.json_files import Exact, Line, problems
from crashchat.provenance import text_hash
from crashchat.tasks.context import Context, Contexts, sentences, unknown_tasks
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.kinds import Choice, Kind, Value
from crashchat.tasks.quantities import Interval, Moment
from crashchat.tasks.task import Fact, Group, Name, Task
from crashchat.yaml_files import line_of, read_yaml

TASK_SET_FILE = "task_set.yaml"  # beside the weights of a model that learnt another set than CrashChat's own


class TaskSetError(CrashChatError):
    """A task set that cannot be used; the message names the file, the line and the key."""

    everywhere = True


class _File(Exact):
    """What a task set's file holds."""

    name: Line
    """What the set is called."""
    description: Line = "no description"
    """What it is, in a sentence."""
    base: Line | None = None
    """A task set's file beside this one, whose tasks come before these."""
    file_prefix: Name
    """What the names of its annotation and prediction files begin with."""
    context: Contexts = Field(default_factory=dict, max_length=50)
    """{column of the annotations: the sentence that its value adds to the prompts}; none: prompts alone."""
    tasks: list[Task] = Field(default_factory=list, max_length=200)
    """The tasks, in the order in which they are asked; none: those of the base."""

    @model_validator(mode="after")
    def _some_tasks(self):
        if not self.tasks and self.base is None:
            raise ValueError("tasks: found none, expected some, or a base that has them")
        return self


class TaskSet(Mapping[str, Task]):
    """Tasks by name, in the order in which they are asked.

    path: the file that says so. groups: {group: names of its tasks}, in order.
    """

    def __init__(self, path: Path, above: tuple[Path, ...] = ()):
        """above: the files that it is the base of.

        Raises TaskSetError for a file that cannot be read, or says what cannot be.
        """
        values, data = read_yaml(path, TaskSetError, hint="; task sets are in configs/tasks")
        self.path, self._data = path, data
        try:
            file = _File.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]["loc"]
            raise TaskSetError(
                f"{path}, line {line_of(data, first)}: {'; '.join(problems(error)[:3])}"
            ) from error
        self.name, self.description, self.file_prefix = file.name, file.description, file.file_prefix
        self._tasks: dict[str, Task] = {}
        self.context: dict[str, Context] = {}
        if file.base is not None:
            base = self._base(file.base, (*above, path.resolve()))
            self._tasks |= dict(base)
            self.context |= base.context
        for place, task in enumerate(file.tasks):
            self._check(place, task)
            self._tasks[task.name] = task
        self.context |= file.context
        for name, tasks in unknown_tasks(self.context, self._tasks).items():
            line = line_of(data, ["context", name])
            raise TaskSetError(
                f"{path}, line {line}: context: {name}: found {abbreviate(tasks)}, expected tasks of the set "
                f"({', '.join(self._tasks)})"
            )
        self.groups: dict[Group, tuple[str, ...]] = {}
        for task in self._tasks.values():
            task._file_prefix = file.file_prefix
            self.groups[task.group] = (*self.groups.get(task.group, ()), task.name)
        self._by_prompt = {task.prompt: task for task in self._tasks.values() if task.prompt}

    def _base(self, name: str, above: tuple[Path, ...]) -> "TaskSet":
        path = self.path.parent / name
        if path.resolve() in above:
            line = line_of(self._data, ["base"])
            raise TaskSetError(
                f"{self.path}, line {line}: base: {name!r} is based on this file itself; expected a file "
                "that is not"
            )
        return TaskSet(path, above)

    def _check(self, place: int, task: Task) -> None:
        """Raises TaskSetError where a task does not go with those before it."""

        def refuse(key: str, message: str) -> NoReturn:
            line = line_of(self._data, ["tasks", place, key])
            raise TaskSetError(f"{self.path}, line {line}: {task.name}: {key}: {message}")

        earlier = ", ".join(self._tasks) or "none"
        if task.name in self._tasks:
            refuse("name", "there is a task of this name already; give it another")
        for known in self._tasks.values():
            if task.prompt and task.prompt == known.prompt:
                refuse(
                    "prompt",
                    f"found the words of {known.name}, expected others: answers could not be told apart",
                )
            if known.fact and task.fact == known.fact:
                refuse("fact", f"{known.name} tells it already; leave it out")
        stems = {known.file_stem or known.name: known.name for known in self._tasks.values()}
        if (task.file_stem or task.name) in stems:
            refuse("file_stem", f"{stems[task.file_stem or task.name]} has annotation files of this name")
        for other, wanted in task.asked_if.items():
            if other not in self._tasks:
                refuse("asked_if", f"found {other}, expected a task before this one: {earlier}")
            if self._tasks[other].answer.parse(wanted) is None:
                refuse("asked_if", f"{abbreviate(wanted)} is no answer to {other}")
        warns = task.answer if isinstance(task.answer, EarlyWarning) else None
        starts = (Interval, Moment) if warns else Interval
        if task.before is not None and not isinstance(self._answer_of(task.before), starts):
            what = "intervals or moments" if warns else "intervals"
            refuse(
                "answer",
                f"before: found {task.before}, expected a task before this one whose answers are {what}",
            )
        if warns and warns.reason_from is not None:
            told = self._answer_of(warns.reason_from)
            if not isinstance(told, Choice) or not set(warns.reasons) <= set(told.options):
                refuse(
                    "answer",
                    f"reason_from: found {warns.reason_from}, expected a choice before this one that has all "
                    "the reasons among its options",
                )

    def _answer_of(self, name: str) -> Kind | None:
        """The kind of a task's answers; None where there is no such task so far."""
        return self._tasks[name].answer if name in self._tasks else None

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def sha256(self) -> str:
        """Of what the set says, whichever files say it, as hex."""
        # What is said of no task in a set leaves its hash as it was before that could be said.
        tasks = [
            task.model_dump_json(exclude={"weight"} if task.weight == 1 else None)
            for task in self._tasks.values()
        ]
        return text_hash(
            [*tasks, *(f"{name}: {one.model_dump_json()}" for name, one in self.context.items())]
        )

    def of_prompt(self, question: str) -> Task | None:
        """The task whose prompt `question` is, word for word; None for any other question."""
        return self._by_prompt.get(question)

    def without_context(self) -> Self:
        """The same tasks, asked without what is known of the clips besides their pictures."""
        if not self.context:
            return self
        plain = copy.copy(self)
        plain.context = {}
        return plain

    def told(self, task: str | None, values: Mapping[str, str | None]) -> str:
        """What joins a task's prompt of what is known of a clip (context.py); nothing joins other questions.

        Raises ValueError for a value that cannot.
        """
        return sentences(self.context, task, values) if task is not None and self.context else ""

    def of_fact(self, fact: Fact) -> Task | None:
        """The task whose answers tell a fact of the video; None where none does."""
        return next((task for task in self._tasks.values() if task.fact == fact), None)

    def of_kind(self, *kinds: type[Kind]) -> list[str]:
        """The names of the tasks whose answers are of some kinds."""
        return [name for name, task in self._tasks.items() if isinstance(task.answer, kinds)]

    def is_asked(self, task: Task, answers: Mapping[str, Value | None]) -> bool:
        """Whether a task is asked where those before it were answered so. answers: {task: its first
        field}.
        """
        for other, wanted in task.asked_if.items():
            (expected, *_) = (self._tasks[other].answer.parse(wanted) or {}).values()
            if answers.get(other) != expected:
                return False
        return True

    def write(self, folder: Path) -> None:
        """Write the set to a model's folder, as one file."""
        tasks = [task.model_dump(mode="json", exclude_defaults=True) for task in self._tasks.values()]
        values: dict = {"name": self.name, "description": self.description, "file_prefix": self.file_prefix}
        if self.context:
            values["context"] = {
                name: one.model_dump(mode="json", exclude_defaults=True) for name, one in self.context.items()
            }
        text = yaml.safe_dump(values | {"tasks": tasks}, sort_keys=False, allow_unicode=True, width=100)
        write_text_atomic(folder / TASK_SET_FILE, text)
