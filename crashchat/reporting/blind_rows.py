"""The rows of a comparison that understand no video: what they know of it, read, and their answers."""

from collections.abc import Callable, Mapping
from pathlib import Path

from crashchat.data.annotations import VideoQAs, load_annotations
from crashchat.data.predictions import Records, video_name
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
from crashchat.parts import file_of
from crashchat.reporting.runs import asked_tasks
from crashchat.tasks import TASKS
from crashchat.video.motion import read_motion


def training_videos(records: Records, data_dir: Path) -> list[VideoQAs]:
    """The training annotations of the tasks that some row was asked, as far as they are there."""
    tasks = list(asked_tasks(records))
    files = [data_dir / TASKS[task].annotation_file("train") for task in tasks]
    files = [file for file in files if file.is_file()]
    return load_annotations(files, data_dir, tasks) if files else []


def blind_rows(
    records: Records,
    videos: list[VideoQAs],
    data_dir: Path,
    asked_about: Mapping[str, Path],
    sources: dict[str, str],
    motion: bool = False,
) -> tuple[Records, list[str]]:
    """The blind baselines, and notes on what could not be made of them and why.

    videos: the training videos. asked_about: the path of each video asked about, as the records have it;
    sources: of these, where known. motion: decode the videos, for the row MOTION.
    """
    asked, notes = asked_tasks(records), []
    if not videos:
        notes.append(
            f"No training annotations in {data_dir}: of the blind baselines only the {NO_ACCIDENT} "
            "can be made."
        )
    paths = {
        name: path if file_of(path).is_file() else data_dir / "videos" / name
        for name, path in asked_about.items()
    }
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
