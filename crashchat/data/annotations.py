"""Annotated questions -> what is asked about each video.

`load_annotations` joins the records of any number of released files (records.py) by video; sources.py does so
for the sources of a config. A record that cannot be used is an error that names the file and the record, and
all such records are named at once: nothing is dropped.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crashchat.data.records import AnnotationError
from crashchat.data.tables import Rows, read_rows
from crashchat.errors import abbreviate, listed
from crashchat.parts import file_of
from crashchat.tasks import TASKS, Task, task_of_prompt
from crashchat.tasks.context import asked_with, taken_by

Kept = tuple[tuple[str, str], ...]
# (place in the file, video, question, answer, task, source, what is kept, what is known of the clip)
Row = tuple[int, str, str | None, str, str | None, str | None, Kept, Kept]


class NoQuestions(AnnotationError):
    """Files that hold no question of those that are wanted."""


@dataclass(frozen=True, slots=True)  # there may be millions
class Question:
    """One question on a video and its annotated answer.

    `task` is a name of TASKS, or None for a general question. kept: (column, value) of the further columns
    that its source keeps.
    """

    text: str
    answer: str
    task: str | None
    data_id: int  # position of the record in its annotation file, as prediction files count
    kept: Kept = ()
    told: str = ""

    @property
    def asked(self) -> str:
        """The question as a model is asked it, in training and evaluation alike."""
        return asked_with(self.told, self.text)


@dataclass(slots=True)
class VideoQAs:
    """One video and everything asked about it.

    name: the path as annotated, e.g. `videos/cap_21_008073.mp4`.
    path: `name` below the data folder: the file, or a part of it (parts.py).
    weight: how often a training epoch passes it.
    """

    name: str
    path: Path
    source: str | None
    questions: list[Question] = field(default_factory=list)
    weight: float = 1.0

    @property
    def file(self) -> Path:
        """The file that holds it."""
        return file_of(self.path)

    def answer_of(self, task: str) -> str | None:
        """The annotated answer to one task, None where it is not asked."""
        return next((question.answer for question in self.questions if question.task == task), None)


@dataclass(frozen=True)
class Part:
    """The rows of a file that go into a set of questions.

    folder: where the videos' paths start from. chosen: places in the table of the rows that are wanted; None:
    all. task, source: the columns that say these. keep: further columns that are kept. first_id: number of
    the file's first row. weight: see VideoQAs. context: columns whose values join the prompts.
    """

    rows: Rows
    folder: Path
    chosen: Sequence[int] | None = None
    task: str | None = None
    source: str | None = "source"
    keep: tuple[str, ...] = ()
    first_id: int = 0
    weight: float = 1.0
    context: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Row]:
        rows, count = self.rows, len(self.rows.table)
        nothing: list[None] = [None] * count
        kept_columns, told_columns = (
            [rows.extra(name) or nothing for name in names] for names in (self.keep, self.context)
        )
        known: dict[tuple, Kept] = {}

        def pairs(names: Sequence[str], columns: list[list], index: int) -> Kept:
            values = tuple(column[index] for column in columns)
            found = known.get((*names, *values))
            if found is None:
                given = zip(names, values, strict=True)
                found = known[*names, *values] = tuple(
                    (name, value) for name, value in given if value is not None
                )
            return found

        videos, questions, answers = (rows.column(name) for name in ("video", "question", "answer"))
        tasks, sources = (rows.extra(name) or nothing for name in (self.task, self.source))
        for index in range(count) if self.chosen is None else self.chosen:
            kept = pairs(self.keep, kept_columns, index)
            told = pairs(self.context, told_columns, index)
            asked, clip = (questions[index], answers[index], tasks[index]), (sources[index], kept, told)
            yield rows.places[index], videos[index], *asked, *clip


def annotation_paths(data_dir: str | Path, tasks: Iterable[str], split: str) -> list[Path]:
    """The files of `tasks` for a split. Raises AnnotationError naming the first that is missing."""
    paths = [Path(data_dir) / TASKS[task].annotation_file(split) for task in tasks]
    for path in paths:
        if not path.is_file():
            raise AnnotationError(
                f"no annotation file {path}; put the released files into {data_dir} (see data/README.md), "
                f"or name another folder with data_dir=…"
            )
    return paths


def load_annotations(
    paths: Sequence[str | Path],
    data_dir: str | Path,
    tasks: Iterable[str] | None = None,
    keep: Sequence[str] = (),
    context: Sequence[str] = (),
) -> list[VideoQAs]:
    """Read annotation files and join their records by video, in the order in which videos first appear.

    paths: annotation files, single-task or multi-task alike; a question that two of them hold is kept once.
    data_dir: the folder that the annotated video paths start from.
    tasks: keep only these tasks' questions, in TASKS' order; None keeps every question, general ones too.
    keep: further keys of the records that are kept with each question.
    context: those of which the task set makes a part of the prompts.
    Raises AnnotationError that lists the records that cannot be used, the questions that one file asks twice,
    and those answered in two ways.
    """
    parts = (
        Part(
            read_rows(Path(path), "released", context=context),
            Path(data_dir),
            task="task",
            keep=tuple(keep),
            context=tuple(context),
        )
        for path in paths
    )
    return join(parts, tasks, ", ".join(map(str, paths)))


def join(
    parts: Iterable[Part], tasks: Iterable[str] | None, where: str, refused: list[str] | None = None
) -> list[VideoQAs]:
    """The questions of some files by video (see load_annotations). where: the files, for messages. refused:
    takes what is wrong with records that cannot be used, which is an error without it.
    """
    wanted = None if tasks is None else set(tasks)
    order: dict[str | None, int] = {name: rank for rank, name in enumerate(TASKS)}
    videos: dict[tuple[Path, str], VideoQAs] = {}
    problems: list[str] = []
    check = _Checks()
    for part in parts:
        lacked = [name for name in part.context if name not in part.rows.extras]
        found = list(part.rows.problems)
        asked: dict[tuple[str, str], int] = {}  # in this file: (video, question) -> its row
        for place, name, text, answer, named, source, kept, known in part:
            try:
                task, text = check(text, answer, named)
                told = _told(part, place, task, known, lacked=lacked, wanted=wanted)
            except ValueError as error:
                found.append((place, str(error)))
                continue
            if wanted is not None and (task is None or task.name not in wanted):
                if task is None:
                    found.append(
                        (
                            place,
                            f"the question {text[:60]!r}… matches no task's prompt "
                            f"({TASKS.task_set.path} has them); tasks=[] takes other questions too",
                        )
                    )
                continue
            video = videos.get((part.folder, name))
            if video is None:
                video = VideoQAs(name, part.folder / name, source, weight=part.weight)
                videos[part.folder, name] = video
            video.weight = max(video.weight, part.weight)
            same = next((known for known in video.questions if known.text == text), None)
            first = asked.setdefault((name, text), place)
            if same is None:
                video.questions.append(
                    Question(
                        text,
                        answer,
                        task=task.name if task else None,
                        data_id=part.first_id + place,
                        kept=kept,
                        told=told,
                    )
                )
            elif same.answer != answer:
                given = f"the answer {abbreviate(same.answer)} to this question, not {abbreviate(answer)}"
                found.append((place, f"{name} already has {given}"))
            elif same.told != told:
                given = f"the context {abbreviate(same.told)} to this question, not {abbreviate(told)}"
                found.append((place, f"{name} already has {given}"))
            elif first != place:
                first += part.rows.first
                found.append(
                    (place, f"asks of {name} what {part.rows.unit} {first} asks; delete one of the two")
                )
        problems += [f"{part.rows.at(place)}: {problem}" for place, problem in sorted(found)]
    _refuse(problems, refused)
    for video in videos.values():
        video.questions.sort(key=lambda question: order.get(question.task, len(order)))
    if not videos:
        raise NoQuestions(f"no question of the tasks {sorted(wanted or [])} in {where}")
    return list(videos.values())


def _refuse(problems: list[str], refused: list[str] | None) -> None:
    """Hand on what is wrong with records; without a list to take it, raises AnnotationError."""
    if refused is not None:
        refused += problems
    elif problems:
        raise AnnotationError(f"{len(problems)} annotation record(s) cannot be used:{listed(problems)}")


def _told(
    part: Part, place: int, task: Task | None, known: Kept, lacked: list[str], wanted: set[str] | None
) -> str:
    """What joins a question's prompt, where its task is wanted (None: all are). lacked: columns of the
    context that its file has not got.

    Raises AnnotationError for one of these, ValueError for a value that cannot join.
    """
    if task is None or not part.context or (wanted is not None and task.name not in wanted):
        return ""
    missing = [name for name in lacked if name in taken_by(TASKS.task_set.context, task.name)]
    if missing:
        raise AnnotationError(
            f"{part.rows.at(place)}: has no column {missing[0]!r}, which {TASKS.task_set.path} puts in front "
            f"of {task.name}; its further columns are {', '.join(part.rows.extras) or 'none'}; add it, or "
            "ask without it (context=false)"
        )
    return TASKS.task_set.told(task.name, dict(known))


class _Checks:
    """Which task a question is, and whether its answer is one; each answer to a task is looked at once."""

    def __init__(self) -> None:
        self._good: set[tuple[str, str]] = set()

    def __call__(self, text: str | None, answer: str, named: str | None) -> tuple[Task | None, str]:
        """The task, and the question: where there is none, the task's prompt. Raises ValueError."""
        if named is not None and named not in TASKS:
            raise ValueError(f"the task is {abbreviate(named)}, expected one of {', '.join(TASKS)}")
        task = TASKS[named] if named is not None else task_of_prompt(text or "")
        asked = text or (task.prompt if task else None)
        if asked is None:
            raise ValueError("has no question, and no task whose prompt would be it")
        if task is not None and (task.name, answer) not in self._good:
            task.ground_truth(answer)
            self._good.add((task.name, answer))
        return task, asked
