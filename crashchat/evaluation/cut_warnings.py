"""Ask for warnings before crashes: cut a data folder's clips into windows that end before their crash begins.

    crashchat cut-warnings data/mine --task-set configs/tasks/early_warning.yaml

Writes FILE_PREFIX_TASK_SPLIT.json of each early_warning task into the folder, from its annotation files of
whether there is a crash and when it begins. No clip is copied: a window is named as a part of its clip. What
the windows are, the task set says (docs/tasks.md).
"""

import argparse
import os
from collections import Counter
from pathlib import Path

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.data.annotations import AnnotationError, VideoQAs, load_annotations
from crashchat.data.truth import crash_start_of
from crashchat.data.warnings import warning_records, warning_tasks
from crashchat.errors import exit_code, listed, writing
from crashchat.files import write_json_atomic
from crashchat.tasks import SPLITS, TASKS, Task
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.task import CRASH
from crashchat.video.pool import each_video
from crashchat.video.source import VideoError, probe


def cut_split(data_dir: Path, task: Task, kind: EarlyWarning, *, split: str, workers: int) -> str:
    """Write a task's file of a split; returns what to tell. Raises AnnotationError."""
    happens = TASKS.of_fact(CRASH)
    if happens is None:
        raise AnnotationError(
            f"{TASKS.task_set.path}: no task has fact: crash, so which clips are without one is not known; "
            "add one"
        )
    wanted = [name for name in (happens.name, kind.before, kind.reason_from) if name is not None]
    files = {name: data_dir / TASKS[name].annotation_file(split) for name in wanted}
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise AnnotationError(f"{missing[0]}: not there; windows are cut by {', '.join(wanted)}")
    videos = load_annotations(list(files.values()), data_dir, wanted)
    lengths = dict(
        zip(
            (video.name for video in videos),
            each_video(_seconds, [video.file for video in videos], workers, f"{split} clips"),
            strict=True,
        )
    )
    unreadable = [str(length) for length in lengths.values() if isinstance(length, VideoError)]
    if unreadable:
        raise AnnotationError(f"{len(unreadable)} clip(s) cannot be read:{listed(unreadable)}")
    records: list[dict] = []
    left_out: Counter = Counter()
    for video in videos:
        crash = happens.parse(video.answer_of(happens.name) or "")
        says = next(iter(crash.values())) if crash else None
        start, seconds = crash_start_of(video, task), lengths[video.name]
        assert not isinstance(seconds, VideoError)
        if says not in ("Yes", "No") or (says == "Yes") != (start is not None):
            left_out[f"without {kind.before if says == 'Yes' else happens.name}"] += 1
            continue
        found = warning_records(
            task,
            video,
            seconds=seconds,
            crash_start=start,
            reason=None if start is None else _reason(video, kind),
        )
        left_out["too short, or crashed too early, for a window"] += not found
        records += found
    if not records:
        raise AnnotationError(
            f"{data_dir}, {split}: no clip has a window of {kind.window:g} s before its crash"
        )
    path = data_dir / task.annotation_file(split)
    write_json_atomic(path, records)
    yes = sum(record["conversations"][1]["value"].startswith("Yes") for record in records)
    out = "".join(f"; {count} clips left out: {why}" for why, count in left_out.items() if count)
    return f"{path}: {len(records)} windows of {len(videos)} clips, {yes} of them Yes{out}"


def _seconds(path: Path) -> float:
    """How long a clip lasts. Raises VideoError."""
    timeline = probe(path).timeline
    if timeline is None:
        raise VideoError(path, "its frames carry no times, so it cannot be cut into windows")
    return timeline.end


def _reason(video: VideoQAs, kind: EarlyWarning) -> str | None:
    """What a clip's crash is, where answers name it. Raises AnnotationError where that is not annotated."""
    if kind.reason_from is None:
        return None
    answer = video.answer_of(kind.reason_from)
    reason = next(iter(TASKS[kind.reason_from].ground_truth(answer).values())) if answer else None
    if reason not in kind.reasons:
        raise AnnotationError(
            f"{video.name}: {kind.reason_from} is {reason!r}, expected one of {', '.join(kind.reasons)}"
        )
    return str(reason)


def cut(arguments: argparse.Namespace) -> None:
    """Write the files. Raises AnnotationError."""
    tasks = warning_tasks()
    if not tasks:
        raise AnnotationError(
            f"{TASKS.task_set.path}: no task's answers are of the kind early_warning; name a set that has "
            "one with --task-set"
        )
    workers, happens = max(1, arguments.workers), TASKS.of_fact(CRASH)
    there = [
        split
        for split in SPLITS
        if happens and (arguments.data_dir / happens.annotation_file(split)).is_file()
    ]
    with writing(arguments.data_dir):
        for split in arguments.split or there or SPLITS[:1]:  # of none, the first says what is missing
            for task, kind in tasks:
                print(cut_split(arguments.data_dir, task, kind, split=split, workers=workers))


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("cut-warnings", __doc__)
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR", help="a data folder of the released form")
    add_task_set(parser)
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, help="only these splits (default: all that are there)"
    )
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    arguments = parser.parse_args(argv)
    return exit_code(lambda: cut(arguments))
