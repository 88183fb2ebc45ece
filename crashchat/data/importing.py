"""Write a data folder of our form from what others made: it can be learnt and asked as it is.

    crashchat import csv labels.csv --videos clips --out data/mine --split test \
        --answers 'TASK=label' 'ANOTHER_TASK={start} - {end} seconds'
    crashchat import table rows.parquet --videos clips --out data/mine --split-column part
    crashchat import messages chats.jsonl --videos clips --out data/mine --shares train=0.8 val=0.1 test=0.1
    crashchat import nexar train.csv --videos train --out data/nexar --shares train=0.9 val=0.1
    crashchat import choices questions.json --videos clips --out data/bench --split test

csv: a row a clip, and a column for each task's answer. table: a row a question. nexar: the published columns
of Nexar's collision prediction set. choices: a question, its options and the right one. The folder gets a
link `videos` to the clips, and for each split the files that `data_dir=` looks for, with questions of no
task in questions_SPLIT.json. Columns and rows that cannot be used are named, and then nothing is written.
"""

import argparse
import json
import os
from pathlib import Path

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.data.annotations import AnnotationError, Part, Question, VideoQAs, join
from crashchat.data.datasets import DatasetCard, write_dataset_card
from crashchat.data.foreign import NEXAR_KEPT, ChoiceRows, Maker, NexarRows, WideRows, rows_of
from crashchat.data.sources import SPLITS, part_of
from crashchat.data.tables import Collector, Rows, collect_table, read_rows
from crashchat.data_settings import Columns, DataSource
from crashchat.errors import CrashChatError, exit_code, listed
from crashchat.files import new_folder, write_json_atomic, write_text_atomic
from crashchat.json_files import checked
from crashchat.parts import file_of
from crashchat.tasks import TASKS, VIDEO_TAG, task_of_prompt

VIDEOS = "videos"  # the link to the clips in the folder that is written
FORMS = ("released", "messages")


class ImportFailure(CrashChatError):
    """What cannot be imported, and what to do."""


def record_of(video: VideoQAs, question: Question) -> dict:
    """A question as a record of the released form, with what is kept of its columns."""
    turns = [
        {"from": "human", "value": f"{VIDEO_TAG}\n{question.text}"},
        {"from": "gpt", "value": question.answer},
    ]
    plain = task_of_prompt(question.text)
    named = {} if question.task == (plain.name if plain else None) else {"task": question.task}
    source = {} if video.source is None else {"source": video.source}
    return {"video": [video.name], "conversations": turns, **named, **source, **dict(question.kept)}


def message_of(video: VideoQAs, question: Question) -> dict:
    """A question as chat messages, with what is kept of its columns."""
    asked = [{"type": "video", "video": video.name}, {"type": "text", "text": question.text}]
    turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": question.answer}]
    task = {} if question.task is None else {"task": question.task}
    source = {} if video.source is None else {"source": video.source}
    return {"messages": turns, **task, **source, **dict(question.kept)}


def general_file(split: str) -> str:
    """The file of a split's questions of no task."""
    return f"questions_{split}.json"


def write_split(folder: Path, split: str, videos: list[VideoQAs], form: str) -> list[Path]:
    """Write a split's questions in one of FORMS; returns the files."""
    asked = [(video, question) for video in videos for question in video.questions]
    if form == "messages":
        path = folder / f"messages_{split}.jsonl"
        lines = (json.dumps(message_of(*one), ensure_ascii=False) for one in asked)
        write_text_atomic(path, "".join(f"{line}\n" for line in lines))
        return [path]
    files: dict[str, list[dict]] = {}
    for video, question in asked:
        task = None if question.task is None else TASKS[question.task]
        name = general_file(split) if task is None else task.annotation_file(split)
        files.setdefault(name, []).append(record_of(video, question))
    for name, records in files.items():
        write_json_atomic(folder / name, records)
    return [folder / name for name in files]


def _table(path: Path, make: Maker) -> Rows:
    """A foreign table as rows of ours. Raises AnnotationError that names every row that cannot be used."""
    made, problems = rows_of(path, make)
    if problems:
        raise AnnotationError(f"{len(problems)} row(s) cannot be used:{listed(problems)}")
    if not made:
        raise AnnotationError(f"{path}: holds no questions")
    collector = Collector(str(path), "parquet")
    collect_table(made, Columns(), collector)
    return collector.rows()


def _pairs(words: list[str] | None, option: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in words or []]
    wrong = [name for name, equals, value in pairs if not (name and equals and value)]
    if wrong:
        raise ImportFailure(f"{option}: found {wrong[0]!r}, expected NAME=VALUE")
    return {name: value for name, _, value in pairs}


def _rows(arguments: argparse.Namespace, columns: Columns) -> Rows:
    """What the named file holds, as rows of ours."""
    path: Path = arguments.file
    if arguments.kind == "table":
        form = "parquet" if path.suffix.lower() == ".parquet" else "csv"
        return read_rows(path, form, columns)  # type: ignore[arg-type]  # two of Form
    if arguments.kind == "messages":
        return read_rows(path, "messages", columns)
    if arguments.kind == "nexar":
        return _table(path, NexarRows())
    if arguments.kind == "choices":
        return _table(
            path,
            ChoiceRows(columns, arguments.options.split(","), words=arguments.words, task=arguments.task),
        )
    answers = _pairs(arguments.answers, "--answers")
    unknown = [task for task in answers if task not in TASKS]
    if unknown or not answers:
        raise ImportFailure(
            f"--answers: found {unknown[0] if unknown else 'none'!r}, expected TASK=COLUMN for each task, "
            f"of {', '.join(TASKS)}"
        )
    return _table(path, WideRows(columns.video, answers))


def imported(arguments: argparse.Namespace) -> None:
    """Write the folder. Raises AnnotationError, ImportFailure and FolderError."""
    if not arguments.videos.is_dir():
        raise ImportFailure(f"{arguments.videos}: is no folder; expected that of the clips, with --videos")
    named = checked(Columns, _pairs(arguments.column, "--column"), "--column", ImportFailure)
    own = named if arguments.kind in ("table", "messages") else Columns()
    rule = {
        "split": arguments.split,
        "split_column": arguments.split_column,
        "split_shares": _pairs(arguments.shares, "--shares"),
        "recording": arguments.recording,
        "seed": arguments.seed,
    }
    source = checked(
        DataSource,
        {"path": "rows.csv", "columns": own, **rule},
        "--split, --split-column, --shares",
        ImportFailure,
    )
    rows = _rows(arguments, named)
    if arguments.keep:
        source.columns.keep = arguments.keep.split(",")
    elif arguments.kind == "nexar":
        source.columns.keep = [name for name in NEXAR_KEPT if rows.extra(name) is not None]
    parts = {split: part_of(source, rows, split) for split in SPLITS}
    found = {
        split: _videos(part, arguments.file, arguments.source)
        for split, part in parts.items()
        if part.chosen or rows.problems
    }
    for videos in found.values():
        for one in videos:
            if not Path(one.name).suffix and (arguments.videos / f"{one.name}.mp4").is_file():
                one.name += ".mp4"
    missing = [
        one.name
        for videos in found.values()
        for one in videos
        if not file_of(arguments.videos / one.name).is_file()
    ]
    if missing:
        raise ImportFailure(
            f"{len(missing)} clips are not in {arguments.videos}, e.g. {missing[0]}; name their folder with "
            "--videos, and the column of their paths with --column video=…"
        )
    with new_folder(arguments.out) as folder:
        (folder / VIDEOS).symlink_to(os.path.abspath(arguments.videos), target_is_directory=True)
        for split, videos in found.items():
            for one in videos:
                one.name = f"{VIDEOS}/{one.name}"
            written = write_split(folder, split, videos, arguments.form)
            asked = sum(len(one.questions) for one in videos)
            print(
                f"{split}: {len(videos)} clips, {asked} questions; {', '.join(one.name for one in written)}"
            )
        write_dataset_card(folder, DatasetCard(name=arguments.name or arguments.out.resolve().name))
    print(f"written: {arguments.out}")


def _videos(part: Part, file: Path, source: str | None) -> list[VideoQAs]:
    videos = join([part], None, str(file))
    for video in videos:
        video.source = source or video.source
    return videos


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("import", __doc__)
    add = parser.add_argument
    add("kind", choices=("csv", "table", "messages", "nexar", "choices"), help="what the file is")
    add("file", type=Path, help="CSV, Parquet, JSON lines or a JSON list")
    add("--videos", type=Path, required=True, metavar="FOLDER", help="where the clips' paths start from")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the data folder to write; a new one")
    add(
        "--form", choices=FORMS, default="released", help="released: our JSON (default); messages: JSON lines"
    )
    add("--name", help="what reports call the set (default: as the folder)")
    add("--source", metavar="TEXT", help="where the clips are from (default: what the column `source` says)")
    add(
        "--column", nargs="+", metavar="ROLE=NAME", help="columns called otherwise: video=clip answer=label …"
    )
    add(
        "--answers",
        nargs="+",
        metavar="TASK=COLUMN",
        help="csv: each task's column, or a text with {columns}",
    )
    add("--options", default="options", metavar="NAMES", help="choices: column of the options, or A,B,C,D")
    add("--words", action="store_true", help="choices: answer with the option's words, not its letter")
    add("--task", choices=TASKS, help="choices: the task that the questions are (default: general questions)")
    add_task_set(parser)
    add("--keep", metavar="NAMES", help="further columns to keep, with commas (nexar: its own by default)")
    add("--split", choices=SPLITS, help="all rows are of this split")
    add("--split-column", metavar="NAME", help="the column that says train, val or test")
    add("--shares", nargs="+", metavar="SPLIT=SHARE", help="shares of the recordings, drawn by --seed")
    add("--recording", metavar="NAME", help="with --shares: the column of the recording a clip is from")
    add("--seed", type=int, default=0, help="of --shares (default 0)")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: imported(arguments))
