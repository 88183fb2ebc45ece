"""Answers that people have labelled right or wrong: what a judge of texts is measured by.

A CSV file with the columns video (the file's name), task, answer and correct (1 or 0), a line an answer;
other columns are for people.
"""

import csv
from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path

from crashchat.data.predictions import video_name
from crashchat.errors import CrashChatError, abbreviate
from crashchat.tasks import TEXTS

COLUMNS = ("video", "task", "answer", "correct")
LEAST = 10  # right answers, and wrong ones, below which nothing is known of a judge


class LabelError(CrashChatError):
    """Labels that cannot be used; the message names the file and the line."""


@dataclass(frozen=True)
class Label:
    """What people said of one answer. video: the file's name."""

    video: str
    answer: str
    correct: bool


@dataclass(frozen=True)
class Labels:
    """The labels of one task. others: how many lines of the file are of other tasks."""

    path: Path
    labels: list[Label]
    others: int


def read_labels(path: Path, task_name: str, videos: Container[str]) -> Labels:
    """The labels of a task. videos: the names of those that were asked about.

    Raises LabelError for a file that cannot be read or lacks a column, a line with an unknown task or video
    or another verdict than 0 or 1, an answer that is labelled twice, and for fewer than LEAST right or LEAST
    wrong answers.
    """
    found: list[Label] = []
    first: dict[tuple[str, str, str], int] = {}
    others = 0
    for number, row in _rows(path):
        task, video, answer = row["task"].strip(), video_name(row["video"].strip()), row["answer"].strip()
        where = f"{path}: line {number}"
        if task not in TEXTS:
            raise LabelError(f"{where}: found the task {abbreviate(task)}, expected {', '.join(TEXTS)}")
        if row["correct"].strip() not in ("0", "1"):
            raise LabelError(f"{where}: correct is {abbreviate(row['correct'])}, expected 1 or 0")
        known = first.setdefault((task, video, answer), number)
        if known != number:
            raise LabelError(
                f"{where}: labels the same answer of {abbreviate(video)} as line {known}; leave one verdict "
                "an answer"
            )
        if task != task_name:
            others += 1
            continue
        if video not in videos:
            raise LabelError(
                f"{where}: found the video {abbreviate(video)}, about which no {task_name} question is known "
                "here; another split, or another data folder?"
            )
        found.append(Label(video, answer, row["correct"].strip() == "1"))
    for word, wanted in (("right", True), ("wrong", False)):
        number = sum(label.correct == wanted for label in found)
        if number < LEAST:
            raise LabelError(
                f"{path}: found {number} {task_name} answers labelled {word}, expected {LEAST} or more: too "
                "few tell nothing of a judge"
            )
    return Labels(path, found, others)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(its first line's number, {column: cell}) of each row."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
            lines = csv.reader(file, strict=True)
            names = next(lines, [])
            missing = [name for name in COLUMNS if names.count(name) != 1]
            if missing:
                raise LabelError(
                    f"{path}: found the columns {abbreviate(names)}, expected {', '.join(COLUMNS)} once each"
                )
            start = lines.line_num + 1
            for cells in lines:
                if cells and len(cells) != len(names):
                    raise LabelError(f"{path}: line {start}: {len(cells)} cells, expected {len(names)}")
                if cells:
                    yield start, dict(zip(names, cells, strict=True))
                start = lines.line_num + 1
    except OSError as error:
        raise LabelError(
            f"{path}: cannot be read: {error.strerror}; expected a CSV file of labelled answers"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise LabelError(f"{path}: no CSV file in UTF-8: {error}") from error
