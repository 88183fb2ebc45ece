"""Annotation files -> what is asked about each video.

A released file is a list of records, one a question:

    {"video": ["videos/cap_21_008073.mp4"], "source": "MM-AU-CAP",
     "conversations": [{"from": "human", "value": "<video>\\n…"}, {"from": "gpt", "value": "Yes"}]}

`load_annotations` joins the records of any number of files by video. A record that cannot be used is an error
that names the file and the record, and all such records are named at once: nothing is dropped.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from crashchat.errors import CrashChatError, abbreviate, listed
from crashchat.json_files import read_json
from crashchat.tasks import TASKS, question_text, task_of_prompt

MAX_PATH, MAX_NAME = 4000, 255  # bytes of a path, with room for the data folder's, and of one name in it


class AnnotationError(CrashChatError):
    """One or more annotation records that cannot be used; the message names every one."""

    everywhere = True


@dataclass(frozen=True)
class Question:
    """One question on a video and its annotated answer.

    `task` is a name of TASKS, or None for a general question.
    """

    text: str
    answer: str
    task: str | None
    data_id: int  # position of the record in its annotation file, as prediction files count


@dataclass
class VideoQAs:
    """One video and everything asked about it.

    name: the path as annotated, e.g. `videos/cap_21_008073.mp4`.
    path: the file, `name` below the data folder.
    """

    name: str
    path: Path
    source: str | None
    questions: list[Question] = field(default_factory=list)

    def answer_of(self, task: str) -> str | None:
        """The annotated answer to one task, None where it is not asked."""
        return next((question.answer for question in self.questions if question.task == task), None)


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


def read_records(path: Path) -> list:
    """The records of an annotation file.

    Raises AnnotationError for a file that does not hold a list of some.
    """
    records = read_json(path, AnnotationError, "a list of records")
    if not isinstance(records, list):
        raise AnnotationError(f"{path}: found a {type(records).__name__}, expected a list of records")
    if not records:
        raise AnnotationError(f"{path}: holds no records")
    return records


def parse_record(record: object) -> tuple[str, str, str, str | None]:
    """(video name, question, answer, source) of one record; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError(f"found a {type(record).__name__}, expected an object")
    video = record.get("video")
    if isinstance(video, list) and len(video) == 1:
        video = video[0]
    if not isinstance(video, str) or not video:
        raise ValueError(f"'video' is {abbreviate(record.get('video'))}, expected a list of one path")
    try:
        sizes = [len(os.fsencode(part)) for part in (video, *Path(video).parts)]
    except UnicodeEncodeError:  # half of a pair of surrogates
        sizes = [0]
    if not 0 < sizes[0] <= MAX_PATH or max(sizes[1:], default=0) > MAX_NAME or "\0" in video:
        raise ValueError(
            f"'video' is {abbreviate(video)} ({len(video):,} characters), expected a path that a file can "
            f"have: at most {MAX_PATH:,} bytes, {MAX_NAME} a name"
        )
    if Path(video).is_absolute() or ".." in Path(video).parts:
        raise ValueError(f"'video' is {abbreviate(video)}, expected a path below the data folder")
    turns = record.get("conversations")
    if (
        not isinstance(turns, list)
        or len(turns) != 2
        or not all(isinstance(turn, dict) and isinstance(turn.get("value"), str) for turn in turns)
        or [turn.get("from") for turn in turns] != ["human", "gpt"]
    ):
        raise ValueError("'conversations' is not one human turn and one gpt turn, each with a text 'value'")
    question, answer = question_text(turns[0]["value"]), turns[1]["value"].strip()
    if not question or not answer:
        raise ValueError("the question or the answer is empty")
    source = record.get("source")
    if source is not None and not isinstance(source, str):
        raise ValueError(f"'source' is {abbreviate(source)}, expected a text")
    return video, question, answer, source


def load_annotations(
    paths: Sequence[str | Path],
    data_dir: str | Path,
    tasks: Iterable[str] | None = None,
) -> list[VideoQAs]:
    """Read annotation files and join their records by video, in the order in which videos first appear.

    paths: annotation files, single-task or multi-task alike; a question that two of them hold is kept once.
    data_dir: the folder that the annotated video paths start from.
    tasks: keep only these tasks' questions, in TASKS' order; None keeps every question, general ones too.
    Raises AnnotationError that lists the records that cannot be used, the questions that one file asks twice,
    and those answered in two ways.
    """
    wanted = None if tasks is None else set(tasks)
    order: dict[str | None, int] = {name: rank for rank, name in enumerate(TASKS)}
    videos: dict[str, VideoQAs] = {}
    problems: list[str] = []
    for path in map(Path, paths):
        asked: dict[tuple[str, str], int] = {}  # in this file: (video, question) -> its record
        for index, record in enumerate(read_records(path)):
            where = f"{path}, record {index}"
            try:
                name, text, answer, source = parse_record(record)
                task = task_of_prompt(text)
                if task is not None:
                    task.ground_truth(answer)
            except ValueError as error:
                problems.append(f"{where}: {error}")
                continue
            if wanted is not None and (task is None or task.name not in wanted):
                if task is None:
                    problems.append(
                        f"{where}: the question {text[:60]!r}… matches no task's prompt "
                        f"({TASKS.task_set.path} has them); tasks=[] takes other questions too"
                    )
                continue
            video = videos.setdefault(name, VideoQAs(name, Path(data_dir) / name, source))
            question = Question(text, answer, task.name if task else None, index)
            same = next((known for known in video.questions if known.text == text), None)
            first = asked.setdefault((name, text), index)
            if same is None:
                video.questions.append(question)
            elif same.answer != answer:
                given = f"the answer {abbreviate(same.answer)} to this question, not {abbreviate(answer)}"
                problems.append(f"{where}: {name} already has {given}")
            elif first != index:
                problems.append(f"{where}: asks of {name} what record {first} asks; delete one of the two")
    if problems:
        raise AnnotationError(f"{len(problems)} annotation record(s) cannot be used:{listed(problems)}")
    for video in videos.values():
        video.questions.sort(key=lambda question: order.get(question.task, len(order)))
    if not videos:
        raise AnnotationError(
            f"no question of the tasks {sorted(wanted or [])} in {', '.join(map(str, paths))}"
        )
    return list(videos.values())
