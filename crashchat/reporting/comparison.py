"""One comparison: several runs' answers to the same questions, and all that its tables,
pictures and clips are made of.

Every file is read once, when the comparison is made; what follows only looks.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from crashchat.data.annotations import VideoQAs, load_annotations
from crashchat.data.predictions import Records, crash_starts, unasked, video_name
from crashchat.evaluation.score import scores, task_sums
from crashchat.metrics.blind import (
    BLIND,
    METADATA,
    MOTION,
    NO_ACCIDENT,
    Outside,
    Training,
    guesses,
    read_metadata,
)
from crashchat.metrics.bootstrap import Difference, paired
from crashchat.metrics.sums import Sums
from crashchat.metrics.text import NO_EXTRAS, Extras
from crashchat.reporting.runs import collect
from crashchat.reporting.tables import Scores
from crashchat.tasks import TASKS
from crashchat.video.motion import read_motion

# Whose annotations say a video's source, its kind and when its crash begins, whether they were asked or not.
FACTS = ("crash_recognition", "crash_description", "crash_localization")


@dataclass(frozen=True)
class Comparison:
    """What was answered, what it scores, and what is known of the videos.

    data_dir, split: where the clips and annotations are, and which split was answered.
    models: the runs' records, the first of which the others are compared with; blind: answers made without
    looking.
    notes: what a reader must know of them, a sentence each.
    sources, kinds: {video: where it comes from}, {video: the annotated description of what happens}, where
    that is known.
    sums: {row: {task: sums}} of all rows.
    """

    data_dir: Path
    split: str
    models: Records
    blind: Records
    notes: list[str]
    sources: dict[str, str]
    kinds: dict[str, str]
    sums: dict[str, dict[str, Sums]]

    @property
    def base(self) -> str:
        """The row that the others are compared with."""
        return next(iter(self.models))

    @property
    def records(self) -> Records:
        """The records of all rows, models first."""
        return self.models | self.blind

    @property
    def tasks(self) -> list[str]:
        """The tasks that some row was asked, in TASKS' order."""
        return list(asked_tasks(self.models))

    @cached_property
    def scores(self) -> Scores:
        """{row: {task: {metric: value}}} of all rows, strict, with the released figures inside."""
        return {name: {task: scores(one) for task, one in row.items()} for name, row in self.sums.items()}

    @cached_property
    def differences(self) -> dict[str, dict[str, dict[str, Difference]]]:
        """{model: {task: {metric: its difference to the base}}} of every other model."""
        base, *others = self.models
        return {
            name: {
                task: paired(self.sums[base][task], self.sums[name][task])
                for task in self.models[name]
                if task in self.models[base]
            }
            for name in others
        }


def make_comparison(
    rows: dict[str, Path],
    data_dir: Path,
    split: str = "test",
    extras: Extras = NO_EXTRAS,
    motion: bool = False,
) -> Comparison:
    """Read the rows, {name: folder or file}, and the annotations of `split` and of training
    in data_dir, each file once.

    motion: with the blind row that takes frame differences, for which every video is decoded.
    Raises ReportError, PredictionError, AnnotationError or MetricError for what cannot be used.
    """
    models = collect(rows, split)
    needed = [name for name in TASKS if name in {*asked_tasks(models), *FACTS}]
    asked = {
        name: load_annotations([file], data_dir, [name])
        for name in needed
        if (file := data_dir / TASKS[name].annotation_file(split)).is_file()
    }
    sources = _known(
        ((video.name, video.source) for video in asked.get("crash_recognition", [])), models, "source"
    )
    kinds = _known(
        ((video.name, video.answer_of("crash_description")) for video in asked.get("crash_description", [])),
        models,
        "gt_caption",
    )
    training = training_videos(models, data_dir)
    blind, notes = blind_rows(models, training, data_dir=data_dir, sources=sources, motion=motion)
    records = models | blind
    starts = None
    if "crash_localization" in asked and any(
        record.get("crash_start") is None
        for row in records.values()
        for record in row.get("pre_crash_localization", [])
    ):
        starts = crash_starts(
            asked["crash_localization"], data_dir / TASKS["crash_localization"].annotation_file(split)
        )
    return Comparison(
        data_dir=data_dir,
        split=split,
        models=models,
        blind=blind,
        notes=partial_runs(models, asked, split) + notes,
        sources=sources,
        kinds=kinds,
        sums=sum_rows(records, starts, extras=extras, training=training),
    )


def sum_rows(
    records: Records,
    starts: dict[str, float] | None = None,
    extras: Extras = NO_EXTRAS,
    training: Sequence[VideoQAs] = (),
) -> dict[str, dict[str, Sums]]:
    """{row: {task: sums}} of all rows.

    starts: annotated crash starts, for pre-crash answers that carry none of their own. training: whose
    answers are the closed set of each task.
    """
    answers = {task: [video.answer_of(task) for video in training] for task in asked_tasks(records)}
    more = {task: replace(extras, known=tuple(filter(None, known))) for task, known in answers.items()}
    return {
        name: {task: task_sums(task, answered, starts, more[task]) for task, answered in row.items()}
        for name, row in records.items()
    }


def asked_tasks(records: Records) -> dict[str, list[dict]]:
    """{task: records of one row that was asked}; what they are about is the same in every row."""
    return {
        task: next(row[task] for row in records.values() if task in row)
        for task in TASKS
        if any(task in r for r in records.values())
    }


def _known(annotated: Iterable[tuple[str, str | None]], records: Records, field: str) -> dict[str, str]:
    """{video: a fact of it}: as annotated, or as the records' `field` has it; a video without is left out."""
    facts = {video_name(name): value for name, value in annotated if value}
    for answered in asked_tasks(records).values():
        facts |= {video_name(record["video_path"]): record[field] for record in answered if record.get(field)}
    return facts


def partial_runs(records: Records, asked: dict[str, list[VideoQAs]], split: str) -> list[str]:
    """Notes on tasks whose annotated questions, asked[task], were not all answered."""
    notes = []
    for task, answered in asked_tasks(records).items():
        missing, unknown = unasked(answered, asked[task]) if task in asked else ([], [])
        file = TASKS[task].annotation_file(split)
        if missing:
            notes.append(
                f"A partial run: {len(missing)} {task} questions of {file} have no record (first: "
                f"{missing[0]})."
            )
        if unknown:
            notes.append(
                f"{len(unknown)} videos of the {task} records are not in {file} (first: {unknown[0]})."
            )
    return notes


def training_videos(records: Records, data_dir: Path) -> list[VideoQAs]:
    """The training annotations of the tasks that some row was asked, as far as they are there."""
    tasks = list(asked_tasks(records))
    files = [data_dir / TASKS[task].annotation_file("train") for task in tasks]
    files = [file for file in files if file.is_file()]
    return load_annotations(files, data_dir, tasks) if files else []


def blind_rows(
    records: Records, videos: list[VideoQAs], data_dir: Path, sources: dict[str, str], motion: bool = False
) -> tuple[Records, list[str]]:
    """The blind baselines, and notes on what could not be made of them and why.

    videos: the training videos. sources: of the videos asked about, where known. motion: decode the videos,
    for the row MOTION.
    """
    asked, notes = asked_tasks(records), []
    if not videos:
        notes.append(
            f"No training annotations in {data_dir}: of the blind baselines only the {NO_ACCIDENT} "
            "can be made."
        )
    paths = {
        video_name(record["video_path"]): Path(record["video_path"])
        for answered in asked.values()
        for record in answered
    }
    paths = {name: path if path.is_file() else data_dir / "videos" / name for name, path in paths.items()}
    train_paths = {video.name: video.path for video in videos}
    readers: dict[str, Callable[[list[Path]], list | None]] = {METADATA: read_metadata}
    if motion:
        readers[MOTION] = read_motion
    # {row: {video: what its file says}}, of training videos and of those asked about
    seen = {row: _seen(read, train_paths | paths, row, notes) for row, read in readers.items() if videos}
    train_sources = {video.name: video.source for video in videos}

    def outside(names: list[str], sources: Mapping[str, str | None]) -> Outside:
        metadata, motion = (_all_known(seen.get(row, {}), names) for row in (METADATA, MOTION))
        return Outside(_all_known(sources, names), metadata, motion)

    rows: Records = {}
    for task, answered in asked.items():
        trained = [video for video in videos if video.answer_of(task) is not None]
        training = Training(
            answers=[video.answer_of(task) or "" for video in trained],
            outside=outside([video.name for video in trained], train_sources),
        )
        known = outside([video_name(record["video_path"]) for record in answered], sources)
        for name, guessed in guesses(TASKS[task], answered, training if trained else None, known).items():
            rows.setdefault(name, {})[task] = guessed
    return {name: rows[name] for name in BLIND if name in rows}, notes


def _seen(
    read: Callable[[list[Path]], list | None], paths: dict[str, Path], row: str, notes: list[str]
) -> dict:
    found = read(list(paths.values()))
    if found is None:
        notes.append(f"Not every video can be read in {next(iter(paths.values())).parent}: no row {row!r}.")
        return {}
    return dict(zip(paths, found, strict=True))


def _all_known(facts: Mapping, names: list[str]) -> list | None:
    """The facts of the named videos, None where one is not known."""
    values = [facts.get(name) for name in names]
    return None if any(value is None for value in values) else values
