"""Write a data folder, or the sources of a config, as a data set that the hub shows and `datasets` loads.

    crashchat export data/demo --out outputs/hub/demo
    crashchat export --config mine.yaml --out outputs/hub/mine --license cc-by-4.0

The folder holds, for each split, metadata.parquet with a row a question beside the clips that its column
file_name names, which is how the hub wants a data set of videos: `datasets.load_dataset(folder)` gives the
column `video`, and the hub's viewer plays it. README.md is its card. `data:` reads it back, as `hub: FOLDER`
or as the Parquet files (docs/data.md). Clips are linked where the file system can, and copied elsewhere.
"""

import argparse
import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.config import load_config
from crashchat.data.annotations import NoQuestions, VideoQAs, load_annotations
from crashchat.data.datasets import DatasetCard, read_dataset_card
from crashchat.data.importing import general_file
from crashchat.data.sources import SPLITS, load_sources
from crashchat.data_settings import SplitName
from crashchat.errors import CrashChatError, exit_code
from crashchat.files import new_folder, write_text_atomic
from crashchat.parts import whole_name
from crashchat.settings import Settings
from crashchat.tasks import TASKS

TABLE, CARD = "metadata.parquet", "README.md"  # the names that the hub looks for
HUB_SPLITS: dict[SplitName, str] = {"train": "train", "val": "validation", "test": "test"}
COLUMNS = ("file_name", "question", "answer", "task", "source")


class ExportError(CrashChatError):
    """What cannot be exported, and what to do."""


def found_splits(arguments: argparse.Namespace) -> tuple[dict[SplitName, list[VideoQAs]], DatasetCard]:
    """The questions of each split that there is, and what the set is.

    Raises AnnotationError and ConfigError for what cannot be used.
    """
    if arguments.config is not None:
        config = load_config(Settings, arguments.config)
        if not config.data:
            raise ExportError(f"{arguments.config}: has no `data:`; expected a config that names its sources")
        names = " + ".join(source.title for source in config.data)
        found = {}
        for split in SPLITS:
            try:
                found[split] = load_sources(config.data, split, config.data_dir, None)
            except NoQuestions:
                continue
        return found, DatasetCard(name=names)
    folder: Path = arguments.data_dir
    keep = tuple(arguments.keep.split(",")) if arguments.keep else ()
    found = {}
    for split in SPLITS:
        files = [*(task.annotation_file(split) for task in TASKS.values()), general_file(split)]
        paths = [folder / name for name in files if (folder / name).is_file()]
        if paths:
            found[split] = load_annotations(paths, folder, keep=keep)
    return found, read_dataset_card(folder)


def table_of(videos: list[VideoQAs]) -> pa.Table:
    """A split's questions: COLUMNS, and those that were kept, all of them texts."""
    rows = [
        {
            "file_name": video.name,
            "question": question.text,
            "answer": question.answer,
            "task": question.task,
            "source": video.source,
            **dict(question.kept),
        }
        for video in videos
        for question in video.questions
    ]
    names = [*COLUMNS, *sorted({name for row in rows for name in row} - set(COLUMNS))]
    return pa.table({name: pa.array([row.get(name) for row in rows], pa.string()) for name in names})


def card_text(card: DatasetCard, counts: dict[str, tuple[int, int]], license_name: str | None) -> str:
    """The page of a data set, whose head tells the hub where its splits are."""
    head: dict = {
        "pretty_name": card.name,
        "task_categories": ["visual-question-answering", "video-classification"],
        "tags": ["video", "dashcam", "traffic"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": split, "path": f"{split}/**"} for split in counts],
            }
        ],
    }
    if license_name:
        head["license"] = license_name
    table = [f"| {split} | {clips} | {questions} |" for split, (clips, questions) in counts.items()]
    lines = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {card.name}",
        *([card.description] if card.description else []),
        *(["The videos are drawings of traffic, not footage."] if card.drawn else []),
        "A row is a question on a video: `video`, `question`, `answer`, `task`, `source`, and what else is "
        "known of it.",
        "| split | clips | questions |\n|---|---|---|\n" + "\n".join(table),
        "Written by `crashchat export`.",
    ]
    return "\n\n".join(lines) + "\n"


def exported(arguments: argparse.Namespace) -> None:
    """Write the folder. Raises ExportError where clips are missing, FolderError, and see found_splits."""
    found, card = found_splits(arguments)
    if not found:
        raise ExportError(f"{arguments.data_dir or arguments.config}: holds no questions of any split")
    missing = [str(video.path) for videos in found.values() for video in videos if not video.file.is_file()]
    if missing:
        raise ExportError(f"{len(missing)} clips are missing, e.g. {missing[0]}; an export holds all of them")
    if arguments.name:
        card.name = arguments.name
    with new_folder(arguments.out) as folder:
        counts = {}
        for split, videos in found.items():
            there = folder / HUB_SPLITS[split]
            there.mkdir()
            pq.write_table(table_of(videos), there / TABLE)
            clips: dict[str, Path] = {}
            for video in videos:
                if clips.setdefault(whole_name(video.name), video.file) != video.file:
                    raise ExportError(
                        f"{video.file}: another clip is called {video.name} as well; rename one of them"
                    )
            for name, file in clips.items():
                _place(file, there / name)
            counts[HUB_SPLITS[split]] = len(clips), sum(len(video.questions) for video in videos)
        write_text_atomic(folder / CARD, card_text(card, counts, arguments.license))
    said = ", ".join(f"{split} {clips} clips" for split, (clips, _) in counts.items())
    print(f"written: {arguments.out}: {said}")


def _place(file: Path, target: Path) -> None:
    """A file at another place: the same file where it can be, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    source = file.resolve()
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("export", __doc__)
    add = parser.add_argument
    add("data_dir", type=Path, nargs="?", metavar="DATA_DIR", help="a data folder of the released form")
    add("--config", type=Path, metavar="FILE", help="instead: a YAML file of `data:`, and `data_dir:`")
    add("--out", type=Path, required=True, metavar="FOLDER", help="the folder to write; a new one")
    add("--keep", metavar="NAMES", help="further keys of a data folder's records to keep, with commas")
    add_task_set(parser)
    add("--name", help="what the card calls the set (default: as the data folder says)")
    add("--license", metavar="NAME", help="of the data, as the hub names licenses; none is stated by default")
    arguments = parser.parse_args(argv)
    if (arguments.data_dir is None) == (arguments.config is None):
        parser.error("give either DATA_DIR or --config")
    return exit_code(lambda: exported(arguments))
