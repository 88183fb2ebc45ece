"""A task: what is asked of a video, in which words, and what its answer is.

One real example, of configs/tasks/crashchat.yaml:

    - name: crash_localization
      title: crash interval
      group: perception
      answer: {kind: interval}
      asked_if: {crash_recognition: "Yes"}
      fact: crash_interval
      prompt: You are a traffic accident analyst. Watch the video and identify the exact time range …
"""

from functools import cached_property
from typing import Annotated, Final, Literal

from pydantic import Field, PrivateAttr, model_validator

from crashchat.errors import abbreviate
from crashchat.json_files import Exact, Line
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.kinds import Choice, Kind, Text, Value, YesNo
from crashchat.tasks.quantities import Interval, Moment
from crashchat.tasks.reading import plain
from crashchat.tasks.records import AnyKind

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
OPTIONS = "{options}"  # stands in a prompt for the options of its answer


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
