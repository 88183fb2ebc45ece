"""What is asked, and what an answer is: kinds of answers are code (kinds.py, quantities.py, records.py),
task sets are data (task_set.py, configs/tasks/).

A process works on one task set, as it works in one language: `TASKS` is the set in use, CrashChat's six
tasks until `use` names another. Whoever reads settings or a model's folder says so before anything is asked.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from crashchat.tasks.task import Fact, Group, Task
from crashchat.tasks.task_set import TASK_SET_FILE, TaskSet, TaskSetError

__all__ = [
    "CRASHCHAT", "SPLITS", "TASKS", "TASK_SET_FILE", "VIDEO_TAG", "Fact", "Group", "Task", "TaskSet",
    "TaskSetError", "keep_task_set", "question_text", "read_task_set", "task_of_prompt",
    "use", "using",
]  # fmt: skip

VIDEO_TAG = "<video>"
SPLITS = ("train", "val", "test")
# The file itself lies in configs/tasks/, where people look; a link brings it into the installed package.
CRASHCHAT = TaskSet(Path(__file__).with_name("crashchat.yaml"))


class _InUse(Mapping[str, Task]):
    """The task set in use, under a name that does not change."""

    def __init__(self, task_set: TaskSet):
        self.task_set = task_set

    def __getitem__(self, name: str) -> Task:
        return self.task_set[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.task_set)

    def __len__(self) -> int:
        return len(self.task_set)

    @property
    def groups(self) -> dict[Group, tuple[str, ...]]:
        """{group: names of its tasks}, in order."""
        return self.task_set.groups

    @property
    def file_prefix(self) -> str:
        """What the names of annotation and prediction files begin with."""
        return self.task_set.file_prefix

    def of_fact(self, fact: Fact) -> Task | None:
        """The task whose answers tell a fact of the video; None where none does."""
        return self.task_set.of_fact(fact)


TASKS = _InUse(CRASHCHAT)


def use(task_set: TaskSet) -> None:
    """Work on a task set from now on, in this whole process."""
    TASKS.task_set = task_set


@contextmanager
def using(task_set: TaskSet) -> Iterator[None]:
    """Work on a task set within the block."""
    before = TASKS.task_set
    use(task_set)
    try:
        yield
    finally:
        use(before)


def read_task_set(file: str | Path | None, *folders: Path | None) -> TaskSet:
    """A task set's file, without one that of the first of some models' folders that has it, else CrashChat's.

    Raises TaskSetError for a file that cannot be used.
    """
    if file is not None:
        return TaskSet(Path(file))
    own = (folder / TASK_SET_FILE for folder in folders if folder is not None)
    found = next((path for path in own if path.is_file()), None)
    return TaskSet(found) if found else CRASHCHAT


def keep_task_set(folder: Path, task_set: TaskSet | None = None) -> None:
    """Write a task set (that in use) beside a model's weights, so that whoever asks the model finds it;
    CrashChat's own needs no copy.
    """
    kept = TASKS.task_set if task_set is None else task_set
    if kept is not CRASHCHAT:
        kept.write(folder)


def question_text(human_turn: str) -> str:
    """The question of an annotated human turn: without its `<video>` tag, stripped
    (docs/reference.md, Text).
    """
    return human_turn.replace(VIDEO_TAG, "").strip()


def task_of_prompt(question: str) -> Task | None:
    """The task whose prompt `question` is, word for word; None for any other question."""
    return TASKS.task_set.of_prompt(question)
