"""Synthetic dashcam clips as real H.264 files, with annotations in the released format
that are exact by construction.

    crashchat synthesize --out data/demo                        240 train, 40 val, 100 test clips, six tasks
    crashchat synthesize --out data/general --pretraining 3000  clips with general questions
    crashchat synthesize --out data/night --skies night rain    by night, or in the rain

Half of the clips are crashes; the others are near misses of every kind and plain driving, drawn by the same
code. The same seed gives the same scenes and annotations, whatever the number of processes.
"""

import hashlib
import json
import multiprocessing
import os
from functools import partial
from pathlib import Path

import av
import numpy as np
from tqdm import tqdm

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.data.annotations import VideoQAs
from crashchat.data.datasets import DatasetCard, write_dataset_card
from crashchat.data.warnings import warning_records, warning_tasks
from crashchat.errors import exit_code, writing
from crashchat.files import owned, write_json_atomic
from crashchat.synthetic.drawing import HEIGHT, WIDTH, draw_scene
from crashchat.synthetic.scenes import (
    CALM_CYCLE,
    CRASH_CYCLE,
    FPS,
    OTHER_SKIES,
    ROADSIDES,
    SKIES,
    USUAL,
    Look,
    Scene,
)
from crashchat.synthetic.stories import make_scene
from crashchat.synthetic.texts import facts, general_questions, task_answers, telematics
from crashchat.tasks import CRASHCHAT, TASKS, VIDEO_TAG

MANIFEST = "manifest.json"
CARD = DatasetCard(
    name="CrashChat synthetic",
    drawn=True,
    description="Drawn road scenes, made by crashchat synthesize: no footage, no real cars, no real crashes.",
)
SOURCE = "synthetic"
# First number of a scene's seed: no scene of one split, or of pre-training, is one of another.
SPLIT_SEEDS = {"train": 0, "val": 1, "test": 2, "general": 3}


def write_clip(scene: Scene, path: Path) -> None:
    """Draw a scene into an H.264 mp4 of FPS frames a second, its first frame at time 0.

    Whole or not at all.
    """
    temporary = path.with_name(f".{path.name}")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        # x264's macroblock tree gives other bytes from run to run, even on one thread; without it they are
        # always the same.
        stream.options = {"crf": "18", "preset": "veryfast", "x264-params": "mbtree=0"}
        stream.thread_count = 1
        for frame in draw_scene(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    os.replace(temporary, path)


def scene_of(split: str, index: int, seed: int, look: Look = USUAL) -> Scene:
    """Scene `index` of a split: crashes and calm scenes in turn, their families in a fixed cycle."""
    crash, turn = index % 2 == 0, index // 2
    family = CRASH_CYCLE[turn % len(CRASH_CYCLE)] if crash else CALM_CYCLE[turn % len(CALM_CYCLE)]
    return make_scene((seed, SPLIT_SEEDS[split], index), crash, family, look=look)


def clip_name(split: str, index: int, seed: int) -> str:
    """A clip's annotated path. The number says nothing about what happens in it."""
    digest = hashlib.sha256(f"{seed}/{split}/{index}".encode()).hexdigest()[:8]
    return f"videos/{split}_{digest}.mp4"


def columns_of(scene: Scene) -> dict[str, str]:
    """What else is known of a scene, for figures by its values (`crashchat score --by`), and what the
    task set in use tells with its questions.
    """
    told = {name: value for name, value in telematics(scene).items() if name in TASKS.task_set.context}
    return told | {
        "family": scene.family,
        "ego": "yes" if scene.subject == "ego-car" else "no",
        "road_user": scene.object or scene.subject or "nobody",
        "sky": scene.sky,
        "seconds": f"{scene.duration:.1f}",
    }


def _record(video: str, question: str, answer: str, columns: dict[str, str]) -> dict:
    turns = [{"from": "human", "value": f"{VIDEO_TAG}\n{question}"}, {"from": "gpt", "value": answer}]
    return {"video": [video], "conversations": turns, "source": SOURCE, **columns}


def _make_clip(job: tuple[str, int], out: Path, seed: int, look: Look) -> Scene:
    """Write one clip unless it is there; returns its scene."""
    split, index = job
    scene = scene_of(split, index, seed, look)
    path = out / clip_name(split, index, seed)
    if not path.is_file():
        write_clip(scene, path)
    return scene


def _make_clips(
    out: Path, jobs: list[tuple[str, int]], seed: int, workers: int | None, look: Look = USUAL
) -> list[Scene]:
    """Write all clips, sharing the work among processes; returns their scenes in order."""
    (out / "videos").mkdir(parents=True, exist_ok=True)
    workers = workers or os.cpu_count() or 1
    make = partial(_make_clip, out=out, seed=seed, look=look)
    progress = partial(tqdm, total=len(jobs), desc=f"clips in {out}")
    if workers == 1:
        return list(progress(map(make, jobs)))
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        return list(progress(pool.imap(make, jobs, chunksize=8)))


def _already_made(out: Path, settings: dict, names: list[str]) -> bool:
    """Whether the folder holds exactly this set, with the clips of these names.

    Raises FileExistsError for a set made with other settings.
    """
    path = out / MANIFEST
    if not path.is_file():
        return False
    made = json.loads(path.read_text(encoding="utf-8"))
    if made != settings:
        raise FileExistsError(
            f"{out} holds a set made with {made}, not {settings}; remove it or name another folder"
        )
    missing = [name for name in names if not (out / name).is_file()]
    if missing:
        print(f"{out}: {len(missing)} clips are missing and will be made again")
        return False
    write_dataset_card(out, CARD)
    print(f"{out}: already made")
    return True


def make_demo_set(
    out: str | Path,
    train: int = 240,
    val: int = 40,
    test: int = 100,
    seed: int = 0,
    workers: int | None = None,
    look: Look = USUAL,
) -> None:
    """Clips and the annotation files of three splits, of all tasks in use that ask for what is known of
    scenes (Task.fact).

    Does nothing where the same set is there already.
    """
    out = Path(out)
    counts = {"train": train, "val": val, "test": test}
    kind = "six tasks" if TASKS.task_set is CRASHCHAT else f"task set {TASKS.task_set.sha256}"
    settings = {"kind": kind, "seed": seed, **counts}
    if look != USUAL:  # sets that were made before there were others stay as they are
        settings |= {"skies": list(look.skies), "roadsides": list(look.roadsides)}
    jobs = [(split, index) for split, count in counts.items() for index in range(count)]
    with owned(out):
        if not _already_made(out, settings, [clip_name(*job, seed) for job in jobs]):
            _make_demo_set(out, counts, jobs, settings=settings, workers=workers, look=look)


def _make_demo_set(
    out: Path,
    counts: dict[str, int],
    jobs: list[tuple[str, int]],
    *,
    settings: dict,
    workers: int | None,
    look: Look,
) -> None:
    seed = settings["seed"]
    scenes = dict(zip(jobs, _make_clips(out, jobs, seed, workers, look=look), strict=True))
    for split in counts:
        # In the order of their names, or the file would alternate between crash and calm.
        members = sorted(
            (clip_name(*job, seed), task_answers(scene), columns_of(scene))
            for job, scene in scenes.items()
            if job[0] == split
        )
        for name, task in TASKS.items():
            records = [
                _record(video, task.prompt or "", answers[name], columns)
                for video, answers, columns in members
                if name in answers
            ]
            if task.fact:  # of others nothing is known
                write_json_atomic(out / task.annotation_file(split), records)
        _ask_for_warnings(out, split, {clip_name(*job, seed): scenes[job] for job in jobs if job[0] == split})
    write_dataset_card(out, CARD)
    write_json_atomic(out / MANIFEST, settings)


def _ask_for_warnings(out: Path, split: str, scenes: dict[str, Scene]) -> None:
    """The annotation files of tasks that ask for a warning before the crash. scenes: by the clips' names."""
    for task, kind in warning_tasks():
        records = []
        for name, scene in sorted(scenes.items()):
            known = facts(scene)
            records += warning_records(
                task,
                VideoQAs(name, out / name, SOURCE),
                seconds=scene.duration,
                crash_start=known.get("crash_start"),
                reason=known.get("crash_kind") if kind.reasons else None,
                columns=columns_of(scene),
            )
        write_json_atomic(out / task.annotation_file(split), records)


def make_pretraining_set(out: str | Path, count: int, seed: int = 0, workers: int | None = None) -> None:
    """Clips with general questions, the last fiftieth for validation: general_train.json, general_val.json"""
    out = Path(out)
    settings = {"kind": "general questions", "seed": seed, "count": count}
    jobs = [("general", index) for index in range(count)]
    with owned(out):
        if not _already_made(out, settings, [clip_name(*job, seed) for job in jobs]):
            _make_pretraining_set(out, jobs, settings=settings, workers=workers)


def _make_pretraining_set(
    out: Path, jobs: list[tuple[str, int]], *, settings: dict, workers: int | None
) -> None:
    count, seed = settings["count"], settings["seed"]
    splits: dict[str, list[dict]] = {"train": [], "val": []}
    for job, scene in zip(jobs, _make_clips(out, jobs, seed, workers), strict=True):
        video = clip_name(*job, seed)
        questions = general_questions(scene, np.random.default_rng([seed, job[1]]))
        # A run of neighbours has every family; one clip in fifty would keep step with the families' cycles.
        split = "val" if job[1] >= count - max(2, count // 50) else "train"
        splits[split] += [_record(video, question, answer, {}) for question, answer in questions]
    for split, records in splits.items():
        write_json_atomic(out / f"general_{split}.json", records)
    write_dataset_card(out, CARD)
    write_json_atomic(out / MANIFEST, settings)


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("synthesize", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for videos and annotation files")
    parser.add_argument(
        "--pretraining", type=int, metavar="CLIPS", help="make so many clips with general questions instead"
    )
    parser.add_argument("--train", type=int, default=240, help="training clips (default 240)")
    parser.add_argument("--val", type=int, default=40, help="validation clips (default 40)")
    parser.add_argument("--test", type=int, default=100, help="test clips (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another set (default 0)")
    parser.add_argument(
        "--skies",
        nargs="+",
        choices=(*SKIES, *OTHER_SKIES),
        default=USUAL.skies,
        help=f"of a data set's scenes (default: {' '.join(USUAL.skies)})",
    )
    parser.add_argument(
        "--roadsides",
        nargs="+",
        choices=ROADSIDES,
        default=USUAL.roadsides,
        help="of a data set's scenes (default: all)",
    )
    add_task_set(parser)
    parser.add_argument("--workers", type=int, help="processes (default: one a core)")
    arguments = parser.parse_args(argv)

    def make() -> None:
        with writing(arguments.out):
            if arguments.pretraining:
                make_pretraining_set(arguments.out, arguments.pretraining, arguments.seed, arguments.workers)
            else:
                make_demo_set(
                    arguments.out,
                    arguments.train,
                    val=arguments.val,
                    test=arguments.test,
                    seed=arguments.seed,
                    workers=arguments.workers,
                    look=Look(tuple(arguments.skies), tuple(arguments.roadsides)),
                )

    return exit_code(make)
