"""What a data set gives away without its events being understood: the audit of `crashchat check-data`.

Three questions. Is a test clip nearly the same as a training clip? Is something burnt into the pictures of a
source or of a label: a logo, a clock, a border? Can the recognition label be guessed from where a clip comes
from, from its size, frame rate, length or codec, or from what is burnt in?
"""

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.tree import DecisionTreeClassifier

from crashchat.evaluation.check import Video, label_of
from crashchat.metrics.blind import TREE
from crashchat.video.decode import read_clip
from crashchat.video.motion import small_grey
from crashchat.video.pool import each_video
from crashchat.video.source import VideoError, probe

FRAMES = 8  # of a clip, evenly spaced from its first to its last
DENSE = 100.0  # frames a second that they are chosen among
SMALL = (8, 9)  # rows and columns of mean grey that clips are compared by
NEAR = 0.15  # of 1: of the demo's drawn clips, compressed and cropped copies are 0.11 apart, others 0.26
FLAT = 4.0  # grey levels: a frame whose parts differ by less has no pattern to compare
STILL = 2.0  # grey levels: a part of the picture that varies less over time stands still
ALIKE = 6.0  # grey levels: still parts that differ by less from what is usual look alike
MOST = 0.9  # of a group's clips
FEWEST = 10  # clips of a group of which something can be said
FOLDS = 5
BLOCK = 1024  # clips compared at a time
SHOWN = 10


@dataclass(frozen=True)
class Look:
    """What one video looks like. pictures: uint8[FRAMES or fewer, H, W], grey; seconds: its length."""

    width: int
    height: int
    fps: float
    seconds: float
    codec: str
    pictures: np.ndarray


@dataclass(frozen=True)
class Clip:
    """A clip as annotated, and what it looks like.

    label: its recognition answer, None where it is not asked.
    """

    split: str
    name: str
    source: str
    label: str | None
    look: Look


@dataclass(frozen=True)
class NearDuplicate:
    """Two clips of different splits. distance: 0 for the same, about 1 for unrelated ones."""

    distance: float
    first: str
    second: str


@dataclass(frozen=True)
class Overlay:
    """What stands still and looks alike in MOST clips of a source or a label.

    share: of the picture; left, top, right, bottom: what encloses it, as shares of the width and height.
    """

    group: str
    clips: int
    share: float
    left: float
    top: float
    right: float
    bottom: float


@dataclass(frozen=True)
class Audit:
    """What was found.

    clips: how many could be read; unreadable: how many could not; flat: how many are too dark or even to be
    compared.
    predictors: {what is known of a clip: balanced accuracy of guessing its label from it}, cross-validated;
    empty where there are not two clips of each label.
    """

    clips: int
    unreadable: int
    flat: int
    near_duplicates: list[NearDuplicate]
    overlays: list[Overlay]
    predictors: dict[str, float]


def audit(data_dir: Path, videos: dict[str, dict[str, Video]], workers: int) -> Audit:
    """Look at FRAMES frames of each video, in `workers` processes, and compare them.

    videos: {split: {name: what is annotated}}. What cannot be read is left out.
    """
    names = sorted({name for split in videos.values() for name in split})
    paths = [data_dir / name for name in names]
    looks = dict(zip(names, each_video(look_at, paths, workers, "audit"), strict=True))
    clips = []
    for split, named in videos.items():
        for name, video in named.items():
            look, label = looks[name], label_of(video.truth)
            if not isinstance(look, VideoError):
                clips.append(Clip(split, name, source=str(video.source), label=label, look=look))
    patterned = [clip for clip in clips if _has_pattern(clip.look)]
    burnt_in, there = overlays(clips)
    return Audit(
        clips=len(clips),
        unreadable=sum(isinstance(look, VideoError) for look in looks.values()),
        flat=len(clips) - len(patterned),
        near_duplicates=near_duplicates(patterned),
        overlays=burnt_in,
        predictors=predictors(clips, there),
    )


def look_at(path: Path) -> Look:
    """Raises VideoError."""
    source = probe(path)
    clip = read_clip(path, DENSE, FRAMES, resize=small_grey, source=source)
    # Where packets carry no times, the decoded frames' own say how long it is.
    seconds = source.timeline.end if source.timeline else clip.seconds[-1] + 1 / DENSE
    return Look(
        width=source.width,
        height=source.height,
        fps=round(len(source.packets) / seconds, 2),
        seconds=seconds,
        codec=source.codec,
        pictures=clip.frames[:, 0].round().byte().numpy(),
    )


def _has_pattern(look: Look) -> bool:
    return (look.pictures.std(axis=(1, 2)) >= FLAT).mean() > 0.5


def fingerprint(look: Look) -> np.ndarray:
    """float32[K] of unit length: a clip's edges, and what changes over it, one as weighty as the other.

    Edges alone would find clips of one camera alike, by the car's own bonnet. Of a clip with fewer than
    FRAMES, frames repeat.
    """
    count, height, width = look.pictures.shape
    rows, columns = SMALL
    small = look.pictures.reshape(count, rows, height // rows, columns, width // columns).mean(axis=(2, 4))
    small = small[np.linspace(0, count - 1, FRAMES).astype(int)]
    edges = np.concatenate([np.diff(small, axis=1).ravel(), np.diff(small, axis=2).ravel()])
    changes = (small - small.mean(axis=0)).ravel()
    # Noise in a clip that stands still is no change.
    parts = [part / max(np.linalg.norm(part), STILL * np.sqrt(part.size)) for part in (edges, changes)]
    whole = np.concatenate(parts)
    return (whole / np.linalg.norm(whole)).astype(np.float32)


def near_duplicates(clips: list[Clip]) -> list[NearDuplicate]:
    """The pairs of clips of different splits and names that are nearer than NEAR, nearest first.

    Frames are compared in order: a clip that was cut otherwise, or mirrored, is not found.
    """
    prints = np.array([fingerprint(clip.look) for clip in clips])
    splits = np.array([clip.split for clip in clips])
    found = []
    for one, other in combinations(dict.fromkeys(splits.tolist()), 2):
        first, second = np.flatnonzero(splits == one), np.flatnonzero(splits == other)
        for start in range(0, len(first), BLOCK):
            block = first[start : start + BLOCK]
            distances = 1 - prints[block] @ prints[second].T
            for row, column in np.argwhere(distances < NEAR):
                a, b = clips[block[row]], clips[second[column]]
                if a.name != b.name:  # a video in two splits is an error of its own
                    distance = max(0.0, float(distances[row, column]))
                    found.append(NearDuplicate(distance, f"{a.split}: {a.name}", f"{b.split}: {b.name}"))
    return sorted(found, key=lambda pair: (pair.distance, pair.first, pair.second))


def overlays(clips: list[Clip]) -> tuple[list[Overlay], np.ndarray]:
    """What stands still and looks alike in MOST clips of a source or label that has FEWEST or more;
    and how much of each of these K overlays is in each clip, float64[clips, K], 0 to 1.
    """
    parts = np.array([_still_parts(clip.look) for clip in clips])
    groups = [(f"source {clip.source}", f"label {clip.label}") for clip in clips]
    found, there = [], [np.zeros((len(clips), 0))]
    for group in sorted({name for pair in groups for name in pair} - {"label None"}):
        inside = np.array([group in pair for pair in groups])
        if inside.sum() < FEWEST:
            continue
        usual = np.median(parts[inside], axis=0)
        alike = (np.abs(parts - usual) < ALIKE) & (parts >= 0)
        burnt = alike[inside].mean(axis=0) >= MOST
        if burnt.any():
            rows, columns = np.nonzero(burnt)
            height, width = burnt.shape
            overlay = Overlay(
                group=group,
                clips=int(inside.sum()),
                share=float(burnt.mean()),
                left=float(columns.min() / width),
                top=float(rows.min() / height),
                right=float((columns.max() + 1) / width),
                bottom=float((rows.max() + 1) / height),
            )
            found.append(overlay)
            there.append(alike[:, burnt].mean(axis=1, keepdims=True))
    return found, np.concatenate(there, axis=1)


def _still_parts(look: Look) -> np.ndarray:
    """float64[H, W]: the grey of what stands still over the clip, -1 for what moves."""
    pictures = look.pictures.astype(float)
    return np.where(pictures.std(axis=0) < STILL, pictures.mean(axis=0), -1.0)


def predictors(clips: list[Clip], burnt_in: np.ndarray) -> dict[str, float]:
    """Balanced accuracy of a shallow tree that guesses the label from one thing alone, cross-validated.

    burnt_in: as `overlays` gives it.
    """
    asked = [clip for clip in clips if clip.label is not None]
    labels = [str(clip.label) for clip in asked]
    fewest = min((labels.count(label) for label in set(labels)), default=0)
    if len(set(labels)) < 2 or fewest < 2:
        return {}
    looks = [clip.look for clip in asked]
    known = {
        "source": _one_hot([clip.source for clip in asked]),
        "picture size": np.array([[look.width, look.height] for look in looks]),
        "frame rate": np.array([[look.fps] for look in looks]),
        "length": np.array([[look.seconds] for look in looks]),
        "codec": _one_hot([look.codec for look in looks]),
        "overlays": burnt_in[[clip.label is not None for clip in clips]],
    }
    tree = DecisionTreeClassifier(**TREE, class_weight="balanced")
    folds = StratifiedKFold(min(FOLDS, fewest), shuffle=True, random_state=0)
    return {
        name: float(balanced_accuracy_score(labels, cross_val_predict(tree, features, labels, cv=folds)))
        for name, features in known.items()
        if features.shape[1]
    }


def _one_hot(values: list[str]) -> np.ndarray:
    return np.array(values)[:, None] == np.unique(values)[None]


def report(found: Audit, show_all: bool) -> str:
    """The audit as text."""
    lines = [f"\naudit of {found.clips} clips, {FRAMES} frames of each"]
    lines += [f"{found.unreadable} clips could not be read"] if found.unreadable else []
    lines += [f"{found.flat} clips are too dark or even to be compared"] if found.flat else []
    pairs = found.near_duplicates
    lines.append(f"\nnear-duplicates across splits (less than {NEAR:g} of 1 apart): {len(pairs)}")
    shown = pairs if show_all else pairs[:SHOWN]
    lines += [f"{pair.distance:7.3f}  {pair.first}   {pair.second}" for pair in shown]
    if len(shown) < len(pairs):
        lines.append(f"         … and {len(pairs) - len(shown)} more (--all lists them)")
    lines.append(
        f"\noverlays: what stands still and looks alike in {MOST:.0%} of the clips of a source or label"
    )
    for overlay in found.overlays:
        place = f"between {overlay.left:.0%} and {overlay.right:.0%} of the width, "
        place += f"{overlay.top:.0%} and {overlay.bottom:.0%} of the height"
        lines.append(
            f"{overlay.share:7.1%}  of the picture, {place}: {overlay.group} ({overlay.clips} clips)"
        )
    if not found.overlays:
        lines.append("         none")
    lines.append("\nwhat gives the recognition label away (balanced accuracy, cross-validated; chance: 50%)")
    lines += [f"{share:7.1%}  {name}" for name, share in found.predictors.items()]
    if not found.predictors:
        lines.append("         not computed: it takes two clips of each label")
    return "\n".join(lines)
