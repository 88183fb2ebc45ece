"""The sources of a config -> the questions of a split: its `data:`, its annotation_files, or its data_dir."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from crashchat.data.annotations import Part, VideoQAs, annotation_paths, join, load_annotations
from crashchat.data.datasets import DatasetCard, DatasetUse, hashes_of, read_dataset_card, use_of
from crashchat.data.records import AnnotationError
from crashchat.data.tables import Rows, as_text, no_column, read_rows
from crashchat.data_settings import DataSource, SplitName
from crashchat.errors import abbreviate
from crashchat.json_files import as_line
from crashchat.provenance import text_hash
from crashchat.settings import Settings
from crashchat.tasks import TASKS

SPLITS: tuple[SplitName, ...] = get_args(SplitName)
SHOWN = 8  # values of a column that a message names


def question_files(config: Settings, split: SplitName, tasks: Sequence[str]) -> list[Path]:
    """The files that the questions of a split are read from; of sources on the hub none.

    Raises AnnotationError naming the first file of data_dir that is missing.
    """
    if config.data:
        return [path for source in config.data for path in source.path]
    return config.annotation_files.get(split) or annotation_paths(config.data_dir, tasks, split)


def load_questions(config: Settings, split: SplitName, tasks: Sequence[str]) -> list[VideoQAs]:
    """The videos of a split and the questions of some tasks on them, with what the task set tells of the
    clips; no tasks: all questions.

    Raises AnnotationError (see load_annotations and load_sources).
    """
    context = tuple(TASKS.task_set.context) if config.context else ()
    if config.data:
        return load_sources(config.data, split, config.data_dir, tasks or None, context=context)
    files = question_files(config, split, tasks)
    return load_annotations(files, config.data_dir, tasks or None, context=context)


def describe_questions(
    config: Settings, split: SplitName, tasks: Sequence[str], videos: Sequence[VideoQAs]
) -> DatasetUse:
    """What a run took of a split: what it read, and the videos and questions that it found there.

    Raises AnnotationError for a dataset.json that cannot be used.
    """
    card, annotations = read_dataset_card(config.data_dir), hashes_of(question_files(config, split, tasks))
    if config.data:
        cards = [read_dataset_card(path.parent) for source in config.data for path in source.path]
        card = DatasetCard(
            name=as_line(" + ".join(source.title for source in config.data)),
            drawn=any(one.drawn for one in cards),
        )
        hubs = [source.title for source in config.data if source.hub is not None]
        if hubs:
            annotations[as_line(" + ".join(hubs))] = questions_hash(videos)
    return use_of(card, annotations, videos, split)


def questions_hash(videos: Sequence[VideoQAs]) -> str:
    """SHA-256 over all questions and answers on some videos."""
    return text_hash(
        [f"{video.name}\t{one.asked}\t{one.answer}" for video in videos for one in video.questions]
    )


def with_columns(source: DataSource, names: Iterable[str]) -> DataSource:
    """A source that keeps these columns as well, but for that of the source of a clip, which it has."""
    more = [name for name in names if name not in (*source.columns.keep, source.columns.source)]
    columns = source.columns.model_copy(update={"keep": [*source.columns.keep, *more]})
    return source.model_copy(update={"columns": columns})


def load_sources(
    sources: Sequence[DataSource],
    split: SplitName,
    data_dir: Path,
    tasks: Iterable[str] | None,
    context: Sequence[str] = (),
    refused: list[str] | None = None,
) -> list[VideoQAs]:
    """The questions of a split, joined by video. tasks, context: see load_annotations; refused: see join.

    Raises AnnotationError for rows that cannot be used, columns that are not there, and filters and split
    rules that leave no row.
    """
    where = ", ".join(source.title for source in sources)
    return join(_parts(sources, split, data_dir, context), tasks, f"{where}, split {split}", refused)


def _parts(
    sources: Sequence[DataSource], split: SplitName, data_dir: Path, context: Sequence[str]
) -> Iterator[Part]:
    first_id = 0
    for source in sources:
        tables: Iterable[tuple[str | None, Rows]]
        if source.hub is not None:
            from crashchat.data.hub import read_hub  # here: the datasets package takes a second to import

            tables = read_hub(source, context)
        else:
            tables = (
                (None, read_rows(path, source.form_of(path), source.columns, context)) for path in source.path
            )
        for hub_split, rows in tables:
            part = part_of(source, rows, split, hub_split)
            folder = rows.folder or source.videos or data_dir
            yield replace(part, folder=folder, first_id=first_id, context=tuple(context))
            if len(rows.places):
                first_id += rows.places[-1] + 1


def part_of(source: DataSource, rows: Rows, split: SplitName, hub_split: str | None = None) -> Part:
    """Of a source's table the rows of a split.

    hub_split: the hub's name of the split that the table is. Raises AnnotationError (see load_sources).
    """
    columns = source.columns
    for name in (*columns.keep, columns.named("task"), columns.named("source")):
        if name is not None:
            _column(source, rows, name)
    return Part(
        rows,
        Path(),
        chosen=_chosen(source, rows, split, hub_split),
        task=columns.task,
        source=columns.source,
        keep=tuple(columns.keep),
        weight=source.weight,
    )


def _column(source: DataSource, rows: Rows, name: str) -> list:
    """A column by the name that it has in the file. Raises AnnotationError where it has none."""
    columns = source.columns
    own = {columns.video: "video", columns.question: "question", columns.answer: "answer"}
    values = rows.column(own[name]) if name in own else rows.extra(name)
    if values is None:
        raise AnnotationError(no_column(rows.name, name, [*filter(None, own), *rows.extras]))
    return values


def _chosen(source: DataSource, rows: Rows, split: SplitName, hub_split: str | None) -> Sequence[int]:
    """The rows that the filters leave and that belong to a split."""
    chosen: Sequence[int] = range(len(rows.table))
    for name, wanted in source.where.items():
        values, texts = _column(source, rows, name), {as_text(value) for value in wanted}
        left = [index for index in chosen if values[index] in texts]
        if chosen and not left:
            raise AnnotationError(
                f"{rows.name}: no row has {name} = {' or '.join(map(repr, wanted))}; its values are "
                f"{_some(values)}"
            )
        chosen = left
    if source.split is not None:
        return chosen if source.split == split else []
    if source.split_shares:
        return _share(source, rows, chosen, split)
    words = {word: name for name, given in source.split_values.items() for word in given}
    if source.split_column is None:
        values = [hub_split] * len(rows.table)
        what = "the hub's split"
    else:
        values = _column(source, rows, source.split_column)
        what = f"column {source.split_column!r}"
    unknown = next((index for index in chosen if values[index] not in words), None)
    if unknown is not None:
        raise AnnotationError(
            f"{rows.at(rows.places[unknown])}: {what} is {abbreviate(values[unknown])}, which is in none of "
            f"split_values; its values are {_some(values)}; name each there, or leave its rows "
            "out with `where:`"
        )
    return [index for index in chosen if words[values[index] or ""] == split]


def _some(values: Sequence) -> str:
    """The values of a column, for a message."""
    found = list(dict.fromkeys(values))
    return ", ".join(abbreviate(value, 40) for value in found[:SHOWN]) + (", …" if len(found) > SHOWN else "")


def _share(source: DataSource, rows: Rows, chosen: Sequence[int], split: SplitName) -> list[int]:
    names = _column(source, rows, source.recording or source.columns.video)
    place: dict[str | None, SplitName | None] = {}
    for index in chosen:
        name = names[index]
        if name is None:
            raise AnnotationError(
                f"{rows.at(rows.places[index])}: column {source.recording!r} is empty; expected the "
                "recording's name, which decides on the split"
            )
        if name not in place:
            place[name] = _drawn(source, name)
    return [index for index in chosen if place[names[index]] == split]


def _drawn(source: DataSource, recording: str) -> SplitName | None:
    """The split of a recording, None where the shares leave it to none."""
    left = hash_share(source.seed, recording)
    for name in SPLITS:  # in one order, however the config has them
        left -= source.split_shares.get(name, 0.0)
        if left < 0:
            return name
    return None


def hash_share(seed: int, name: str) -> float:
    """A number from 0 to 1 that a seed and a name decide on: the same on every machine, as even as a draw."""
    digest = hashlib.sha256(f"{seed}/{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def weighted(videos: Sequence[VideoQAs], seed: int) -> list[VideoQAs]:
    """The videos as often as their weights say; of a fraction, those that `seed` draws."""
    times = {
        id(video): int(video.weight) + (hash_share(seed, video.name) < video.weight % 1) for video in videos
    }
    rounds = range(max(times.values(), default=0))
    return [video for turn in rounds for video in videos if times[id(video)] > turn]
