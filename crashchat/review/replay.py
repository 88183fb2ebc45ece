"""What a model learnt before, mixed into what people corrected, so that it is not forgotten."""

import random
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from crashchat.data.annotations import VideoQAs, load_annotations
from crashchat.provenance import file_hash
from crashchat.review.labels import ReviewError
from crashchat.tasks import TASKS, VIDEO_TAG

FOLDER = "replay"  # of the replayed videos, below the data folder that is written
LEARNT = ("train", "val")


def annotated(data_dir: Path, split: str) -> list[VideoQAs]:
    """The annotated videos of a data folder's split, of all tasks whose file is there.

    Raises ReviewError where there is none.
    """
    files = [path for task in TASKS.values() if (path := data_dir / task.annotation_file(split)).is_file()]
    if not files:
        raise ReviewError(
            f"{data_dir}: no annotation file of the {split} split; expected the data that the model learnt on"
        )
    return load_annotations(files, data_dir)


def replayed(data_dir: Path, share: float, seed: int) -> dict[str, list[VideoQAs]]:
    """{split: a random share of its videos, one at least} of what a model learnt on. Raises ReviewError."""
    if not 0 < share <= 1:
        raise ReviewError(f"--replay-share {share:g}: expected a share above 0, up to 1")
    found = {}
    for split in LEARNT:
        videos = annotated(data_dir, split)
        drawn = random.Random(f"{seed}/{split}").sample(
            range(len(videos)), max(1, round(share * len(videos)))
        )
        found[split] = [videos[index] for index in sorted(drawn)]
    return found


def records_of(video: VideoQAs) -> dict[str, dict]:
    """{task: annotation record} of a replayed video, in the released form."""
    return {
        question.task: {
            "video": [f"{FOLDER}/{video.name}"],
            "conversations": [
                {"from": "human", "value": f"{VIDEO_TAG}\n{question.text}"},
                {"from": "gpt", "value": question.answer},
            ],
            **({"source": video.source} if video.source else {}),
        }
        for question in video.questions
        if question.task
    }


def copies(videos: Iterable[Path], others: Iterable[Path]) -> dict[Path, Path]:
    """{video: a file among `others` with the same content}; only files of one size are read."""
    sizes: dict[int, list[Path]] = defaultdict(list)
    for path in others:
        if path.is_file():
            sizes[path.stat().st_size].append(path)
    hashes: dict[Path, str] = {}
    found = {}
    for video in videos:
        for other in sizes.get(video.stat().st_size, []) if video.is_file() else []:
            if file_hash(video) == hashes.setdefault(other, file_hash(other)):
                found[video] = other
    return found
