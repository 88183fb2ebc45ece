"""Tasks and sets of them, read from a YAML file: what is asked, in which words, and what an answer is.

One real example, of configs/tasks/crashchat.yaml:

    - name: crash_localization
      title: crash interval
      group: perception
      answer: {kind: interval}
      asked_if: {crash_recognition: "Yes"}
      fact: crash_interval
      prompt: You are a traffic accident analyst. Watch the video and identify the exact time range …
"""

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn, Self

import yaml
from pydantic import Field, PrivateAttr, ValidationError, model_validator

from crashchat.errors import CrashChatError, abbreviate
from crashchat.files import write_text_atomic
from crashchat.json_files import Exact, Line, problems
from crashchat.provenance import text_hash
from crashchat.tasks.context import Context, Contexts, sentences, unknown_tasks
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.kinds import Choice, Kind, Text, Value, YesNo
from crashchat.tasks.quantities import Interval, Moment
from crashchat.tasks.reading import plain
from crashchat.tasks.records import AnyKind
from crashchat.yaml_files import line_of, read_yaml

Group = str  # tasks that one adapter is trained for
Name = Annotated[str, Field(pattern="^[a-z][a-z0-9_]*$", max_length=60)]
# What of a video an answer tells, by the name under which the analysis and the drawn world know it.
CRASH: Final = "crash"
DESCRIPTION: Final = "description"
CAUSE: Final = "cause"
PREVENTION: Final = "prevention"
CRASH_INTERVAL: Final = "crash_interval"
FIRST_SIGN: Final = "first_sign"
CRASH_START: Final = "crash_start"
Fact = Literal[
    "crash", "description", "cause", "prevention", "crash_interval", "first_sign",
    "crash_start", "crash_kind", "road_users", "vehicles",
]  # fmt: skip
_KINDS_OF_FACTS: dict[str, type[Kind]] = {
    CRASH: YesNo,
    DESCRIPTION: Text,
    CAUSE: Text,
    PREVENTION: Text,
    CRASH_INTERVAL: Interval,
    FIRST_SIGN: Moment,
    CRASH_START: Moment,
}
TASK_SET_FILE = "task_set.yaml"  # beside the weights of a model that learnt another set than CrashChat's own
OPTIONS = "{options}"  # stands in a prompt for the options of its answer


class TaskSetError(CrashChatError):
    """A task set that cannot be used; the message names the file, the line and the key."""

    everywhere = True


class Task(Exact):
    """One question."""

    name: Name
    """What scripts, configs and prediction files call it."""
    title: Line
    """What tables and cards call it."""
    group: Name
    """Tasks that are trained together and shown in one table."""
    answer: AnyKind
    """The kind of its answers, with the kind's own settings."""
    prompt: Annotated[str, Field(min_length=1, max_length=20_000)] | None
    """The question, word for word, without the <video> tag; {options} stands for the options of a choice.
    null: each question has words of its own, and its record names the task.
    """
    negative_answer: Line | None = None
    """What is answered where nothing happens; null where the task has no such answer."""
    asked_if: dict[Name, Line] = Field(default_factory=dict, max_length=1)
    """{an earlier task: its answer}: asked of a video only where that was the answer."""
    fact: Fact | None = None
    """What of the video it tells the analysis and the drawn world; null: something else."""
    share: float = Field(default=1.0, gt=0, le=1)
    """Which share of its training questions is learnt in an epoch; drawn anew for every epoch."""
    weight: float = Field(default=1.0, gt=0, le=1000)
    """What its answers' tokens count in the loss of training: 2 twice as much as another task's."""
    file_stem: Name | None = None
    """What annotation files call it, where that is not its name."""
    typical_length: int = Field(default=40, gt=0, le=100_000)
    """Characters of an answer in the mean, for plans made without annotations."""
    _file_prefix: str = PrivateAttr("")

    @model_validator(mode="after")
    def _consistent(self):
        wanted = _KINDS_OF_FACTS.get(self.fact or "")
        if wanted and not isinstance(self.answer, wanted):
            raise ValueError(
                f"fact: {self.fact} is told by answers of the kind {wanted.name_of()}, found "
                f"{self.answer.kind}"
            )
        if self.prompt is not None and OPTIONS in self.prompt:
            if not isinstance(self.answer, Choice):
                raise ValueError(f"prompt: {OPTIONS} needs an answer of the kind choice")
            self.prompt = self.prompt.replace(OPTIONS, self.answer.listed())
        if self.prompt is not None and self.prompt != self.prompt.strip():
            raise ValueError("prompt: begins or ends with white space; write it with >- or in quotes")
        if self.negative_answer is not None and self.answer.parse(self.negative_answer) is None:
            raise ValueError(
                f"negative_answer: {abbreviate(self.negative_answer)} is no answer of the kind "
                f"{self.answer.kind}"
            )
        return self

    @property
    def fields(self) -> tuple[str, ...]:
        """What an answer holds."""
        return self.answer.fields

    @cached_property
    def gt_fields(self) -> tuple[str, ...]:
        """Where a prediction record holds the annotated answer."""
        return tuple(f"gt_{field}" for field in self.fields)

    @cached_property
    def pred_fields(self) -> tuple[str, ...]:
        """Where it holds the model's."""
        return tuple(f"pred_{field}" for field in self.fields)

    @property
    def before(self) -> str | None:
        """The task whose annotated start its answers are scored by; None where they are not."""
        return self.answer.before if isinstance(self.answer, Moment | EarlyWarning) else None

    def annotation_file(self, split: str) -> str:
        """Its annotation file's name for a split."""
        return f"{self._file_prefix}_{self.file_stem or self.name}_{split}.json"

    def parse(self, text: str) -> dict[str, Value] | None:
        """{pred field: value} of a model's words, None where they are no answer."""
        values = self.answer.parse(text)
        return None if values is None else dict(zip(self.pred_fields, values.values(), strict=True))

    def ground_truth(self, answer: str) -> dict[str, Value]:
        """{gt field: value} of an annotated answer. Raises ValueError when the answer does not parse."""
        try:
            values = self.answer.truth(answer)
        except ValueError as error:
            raise ValueError(f"{self.name}: the annotated answer {answer!r} {error}") from error
        return dict(zip(self.gt_fields, values.values(), strict=True))

    def says_nothing(self, answer: str) -> bool:
        """Whether an answer says that nothing happens, case and a stop at the end aside."""
        return self.negative_answer is not None and plain(answer) == plain(self.negative_answer)


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
