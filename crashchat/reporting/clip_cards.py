"""Test clips as film strips, with timelines of what was annotated and what was said,
and links to the clips.
"""

import os
import random
from dataclasses import dataclass, field
from pathlib import Path

from crashchat.data.predictions import Records, video_name
from crashchat.data.record_faults import is_number
from crashchat.html import data_uri, link
from crashchat.metrics.by_kind import per_question_score
from crashchat.metrics.localization import first_sign_score, interval_iou
from crashchat.metrics.sums import Sums
from crashchat.parts import file_of, whole_name
from crashchat.tasks import TASKS, Task
from crashchat.tasks.kinds import Text
from crashchat.tasks.quantities import Interval, Moment
from crashchat.tasks.task import CRASH, CRASH_INTERVAL, FIRST_SIGN
from crashchat.video.decode import read_clip
from crashchat.video.film_strip import STRIP_FRAMES, film_strip
from crashchat.video.source import VideoError

BEST, WORST, RANDOM = 2, 2, 2  # clips of each
RIGHT = 0.5  # overlap from which an interval is marked right, and score from which a first sign is


@dataclass
class Lane:
    """One line below a film strip: what one row (or the annotation) says of the clip.

    Times in seconds, None where none.
    """

    name: str
    start: float | None
    end: float | None
    sign: float | None
    # (what was said, whether it is right).
    verdicts: list[tuple[str, bool | None]] = field(default_factory=list)


@dataclass
class ClipCard:
    """One test clip in the page. why: best, worst or random. link: the clip's address, seen from the page.

    strip: a picture as a data URI; it and link are None where the clip could not be read (fault says why).
    answers: (task, annotated answer, [(answer, the rows that gave it)]).
    """

    name: str
    why: str
    link: str | None
    seconds: float
    strip: str | None
    fault: str | None
    crash: bool
    lanes: list[Lane]
    answers: list[tuple[str, str, list[tuple[str, list[str]]]]]


def _lane(row: str, answers: dict[str, dict]) -> Lane:
    """What a row says of a clip; answers: {task: its record}."""
    lane = Lane(row, None, None, None)
    for name, record in answers.items():
        task = TASKS[name]
        truth, said = ([record[key] for key in keys] for keys in (task.gt_fields, task.pred_fields))
        if task.fact == CRASH_INTERVAL:
            lane.start, lane.end = said
        elif task.fact == FIRST_SIGN:
            (lane.sign,) = said
        if isinstance(task.answer, Text):
            continue  # the words stand below
        if isinstance(task.answer, Interval):
            lane.verdicts.append(_overlap(truth, said))
        elif isinstance(task.answer, Moment):
            lane.verdicts.append(_distance(task, record, answers))
        else:
            shown = task.answer.shown(dict(zip(task.fields, said, strict=True))) if None not in said else ""
            lane.verdicts.append((shown or "no answer", said == truth))
    return lane


def _overlap(truth: list, said: list) -> tuple[str, bool]:
    if not all(map(is_number, said)):
        return "no interval", False
    iou = interval_iou((truth[0], truth[1]), (said[0], said[1]))
    return f"IoU {iou:.2f}", iou >= RIGHT


def _distance(task: Task, record: dict, answers: dict[str, dict]) -> tuple[str, bool | None]:
    """How far a moment is from the truth; whether it is right where that is known: before a crash."""
    truth, said = record[task.gt_fields[0]], record[task.pred_fields[0]]
    called = "sign" if task.fact == FIRST_SIGN else task.title
    if not is_number(said) or not is_number(truth):
        return f"no {task.title}", False
    crash = record.get("crash_start")
    if crash is None and task.before in answers:
        crash = answers[task.before][TASKS[task.before].gt_fields[0]]
    right = None
    if is_number(crash) and crash > truth:
        right = first_sign_score(crash, truth, said) >= RIGHT
    return f"{called} {said - truth:+.1f} s", right


def _card(
    name: str, why: str, tasks: dict[str, dict[str, dict]], rows: list[str], data_dir: Path, page_dir: Path
) -> ClipCard:
    """tasks: {task: {row: record}} of one video."""
    records = [record for answered in tasks.values() for record in answered.values()]
    path = Path(records[0]["video_path"])
    path = path if file_of(path).is_file() else data_dir / "videos" / name
    strip, seconds, fault, address = None, 1.0, None, None
    try:
        clip = read_clip(path, fps=10, max_frames=2 * STRIP_FRAMES + 1)
        strip, seconds = data_uri(film_strip(clip.frames), "image/jpeg"), clip.seconds[-1] + 0.1
        address = link(os.path.relpath(path, page_dir))
    except VideoError as error:
        fault = next((record["error"] for record in records if record.get("error")), str(error))
        times = [
            record[key]
            for record in records
            for key in record
            if key.startswith(("gt_", "pred_")) and is_number(record[key])
        ]
        seconds = max([1.0, *times]) * 1.05  # the time axis, where the clip cannot tell its length
    truth = Lane("annotated", None, None, None)
    answers = []
    for task, answered in tasks.items():
        record = next(iter(answered.values()))
        annotated = {field: record[f"gt_{field}"] for field in TASKS[task].fields}
        match TASKS[task].fact:
            case "crash":
                truth.verdicts.append((annotated.popitem()[1] or "", None))
            case "crash_interval":
                truth.start, truth.end = annotated.values()
            case "first_sign":
                (truth.sign,) = annotated.values()
        given: dict[str, list[str]] = {}
        for row in rows:
            if row in answered:
                said = answered[row].get("error") or answered[row]["raw_response"].strip()
                given.setdefault(said or "(no answer)", []).append(row)
        shown = TASKS[task].answer.shown({field: record[f"gt_{field}"] for field in TASKS[task].fields})
        answers.append((task, shown, list(given.items())))
    lanes = [_lane(row, {task: tasks[task][row] for task in tasks if row in tasks[task]}) for row in rows]
    lanes = [lane for lane in lanes if lane.verdicts]
    return ClipCard(
        name=name,
        why=why,
        link=address,
        seconds=seconds,
        strip=strip,
        fault=fault,
        crash=_is_crash(tasks),
        lanes=[truth, *lanes],
        answers=answers,
    )


def clip_cards(
    records: Records, sums: dict[str, dict[str, Sums]], data_dir: Path, page_dir: Path, seed: int = 0
) -> tuple[list[ClipCard], str]:
    """The crash clips that the judged row answered best and worst, and some drawn by a seed from all others.

    Judged is the row that answered most tasks, the first (the base model) only where it is alone; its name
    comes second.
    page_dir: where the page will lie, for links to the clips.
    """
    rows = list(records)
    judged = max(rows[1:] or rows, key=lambda row: len(records[row]))
    videos: dict[str, dict[str, dict[str, dict]]] = {}
    for task in TASKS:
        for row in rows:
            for record in records[row].get(task, []):
                videos.setdefault(video_name(record["video_path"]), {}).setdefault(task, {})[row] = record
    grades: dict[str, list[float]] = {name: [] for name in videos}
    names_of: dict[str, list[str]] = {}  # {clip: itself or its parts}
    for name in videos:
        names_of.setdefault(whole_name(name), []).append(name)
    for task, answered in sums[judged].items():
        for video, grade in zip(answered.videos, per_question_score(TASKS[task], answered), strict=True):
            for name in names_of[video]:
                grades[name].append(float(grade))

    draw = random.Random(seed)
    names = draw.sample(sorted(videos), len(videos))  # so that chance decides among equally good ones
    crashes = [name for name in names if _is_crash(videos[name]) and grades[name]] or [
        name for name in names if grades[name]
    ]
    ranked = sorted(crashes, key=lambda name: -sum(grades[name]) / len(grades[name]))
    best = ranked[: min(BEST, (len(ranked) + 1) // 2)]
    worst = [name for name in ranked[::-1][:WORST] if name not in best]
    others = [name for name in names if name not in best + worst][:RANDOM]
    chosen = [("best", best), ("worst", worst), ("random", others)]
    return [
        _card(name, why, tasks=videos[name], rows=rows, data_dir=data_dir, page_dir=page_dir)
        for why, group in chosen
        for name in group
    ], judged


def _is_crash(tasks: dict[str, dict[str, dict]]) -> bool:
    """Whether a crash is annotated, or something that is asked of crashes alone."""
    task = TASKS.of_fact(CRASH)
    if task and task.name in tasks:
        return any(record[task.gt_fields[0]] == "Yes" for record in tasks[task.name].values())
    return any(TASKS[name].asked_if for name in tasks)
