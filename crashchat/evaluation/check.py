"""What a data folder's files say about its videos, and what would break or falsify a run."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from crashchat.data.records import AnnotationError, parse_record, read_records
from crashchat.data.tables import as_text
from crashchat.parts import file_of, span_of, whole_name
from crashchat.tasks import TASKS, task_of_prompt
from crashchat.tasks.context import taken_by
from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.quantities import Moment, Timed
from crashchat.tasks.task import CRASH, CRASH_INTERVAL
from crashchat.video.pool import each_video
from crashchat.video.source import VideoError

ERROR, NOTE = "error", "note"
# Every kind of finding and its level, in the order of the report.
KINDS = {
    "missing or unusable file": ERROR,
    "unusable record": ERROR,
    "not the file's prompt": ERROR,
    "contradicting answers": ERROR,
    "duplicated question": ERROR,
    "tasks disagree": ERROR,
    "video in two splits": ERROR,
    "missing video": ERROR,
    "unreadable video": ERROR,
    "time past the video's end": ERROR,
    "time just past the video's end": NOTE,
    "start not before end": NOTE,
    "pre-crash time not before the crash": NOTE,  # metrics leave such records out
    "crash without localization": NOTE,
    "missing answer": NOTE,
    "missing context": NOTE,
}
PROBE_FPS = 100  # so much a second: a clip's length is known to 0.01 s
ROUNDING = 0.06  # seconds: annotations have one decimal, the length is rounded down to 1/PROBE_FPS
FAR_PAST = 0.5  # seconds past the end from which a time is wrong, not merely rounded


@dataclass
class Video:
    """What one split's files say about a video. answers: task -> answer; truth: task -> {gt field: value}."""

    source: str | None
    answers: dict[str, str] = field(default_factory=dict)
    truth: dict[str, dict] = field(default_factory=dict)


class Check:
    """A data folder's videos (split -> name -> Video), records of each (split, task), files,
    and what was found wrong.
    """

    def __init__(self, data_dir: Path):
        self.data_dir, self.title = data_dir, str(data_dir)
        self.findings: list[dict[str, str]] = []
        self.videos: dict[str, dict[str, Video]] = {}
        self.records: Counter = Counter()
        self.files = 0

    def add(self, kind: str, split: str, where: str, message: str) -> None:
        """Note a finding of a kind in KINDS. where: a file and record, or a video."""
        # A name may hold characters (lone surrogates) that neither a terminal nor a file can take.
        where, message = (text.encode("utf-8", "backslashreplace").decode() for text in (where, message))
        self.findings.append(
            {"kind": kind, "level": KINDS[kind], "split": split, "where": where, "message": message}
        )

    def read_split(self, split: str, required: bool) -> None:
        """Read a split's files: the tasks', and the multi-task ones that are there,
        the misspelt one included.
        """
        single = {task.annotation_file(split): name for name, task in TASKS.items()}
        present = {path.name for path in self.data_dir.glob(f"{TASKS.file_prefix}_*_{split}.json")}
        for name in sorted(single.keys() - present) if present or required else ():
            self.add(
                "missing or unusable file", split, name, "not there; a run on this task and split needs it"
            )
        self.videos[split] = {}
        for name in [*(n for n in single if n in present), *sorted(present - single.keys())]:
            self.files += 1
            self._read_file(self.data_dir / name, split, single.get(name))

    def _read_file(self, path: Path, split: str, own_task: str | None) -> None:
        try:
            records = read_records(path)
        except AnnotationError as error:
            return self.add("missing or unusable file", split, path.name, str(error))
        seen = set()
        for index, record in enumerate(records):
            where = f"{path.name}, record {index}"
            try:
                name, text, answer, source = parse_record(record)
                task = task_of_prompt(text)
                truth = task.ground_truth(answer) if task else {}
                told = {column: as_text(record.get(column)) for column in TASKS.task_set.context}
                TASKS.task_set.told(task.name if task else None, told)
            except ValueError as error:
                self.add("unusable record", split, where, str(error))
                continue
            if task is None or (own_task and task.name != own_task):
                self.add(
                    "not the file's prompt",
                    split,
                    where,
                    f"found {text[:60]!r}…, expected that of {own_task or 'a task'}",
                )
                continue
            video = self.videos[split].setdefault(name, Video(source))
            known = video.answers.setdefault(task.name, answer)
            video.truth.setdefault(task.name, truth)
            if known != answer:
                self.add(
                    "contradicting answers",
                    split,
                    where,
                    f"{name}, {task.name}: {answer!r}, elsewhere {known!r}",
                )
            elif (name, task.name) in seen:
                self.add(
                    "duplicated question", split, where, f"{name}, {task.name}: asked before in this file"
                )
            seen.add((name, task.name))
            for column in taken_by(TASKS.task_set.context, task.name):
                if not told[column]:
                    self.add("missing context", split, where, f"{name}, {task.name}: no {column}")
            if own_task:  # Multi-task files repeat the others' records.
                self.records[split, task.name] += 1

    def compare(self) -> None:
        """What the files together say: times that cannot be, tasks that disagree or are missing,
        videos in two splits.
        """
        files = {split: set(map(whole_name, videos)) for split, videos in self.videos.items()}
        for split, videos in self.videos.items():
            asked = [task for task in TASKS if any(task in video.truth for video in videos.values())]
            for name, video in videos.items():
                self._compare_tasks(split, name, video.truth, asked)
            for file in sorted(files[split]):
                splits = [other for other, held in files.items() if file in held]
                if len(splits) > 1 and split == splits[0]:  # Said once.
                    self.add(
                        "video in two splits",
                        split,
                        file,
                        f"in {', '.join(splits)}: what is learned is tested",
                    )

    def _compare_tasks(self, split: str, name: str, truth: dict[str, dict], asked: list[str]) -> None:
        # {task: whether its answer says that a crash happens}; of tasks that can tell
        says = {}
        for task, values in truth.items():
            if TASKS[task].negative_answer is not None:
                says[task] = not TASKS[task].says_nothing(str(next(iter(values.values()))))
            elif TASKS[task].asked_if:
                says[task] = True
        if len(set(says.values())) > 1:
            crash, calm = (
                ", ".join(task for task in says if says[task] is happens) for happens in (True, False)
            )
            self.add("tasks disagree", split, name, f"a crash happens by {crash}; none by {calm}")
        # A task with no answer at all is a missing file, said once and not once a video.
        recognition = TASKS.of_fact(CRASH)
        happens = any(says.values())
        if recognition and recognition.name in says:
            happens = says[recognition.name]
        for task in asked:
            if isinstance(TASKS[task].answer, EarlyWarning) != (span_of(name) is not None):
                continue  # warnings are asked of parts, all else of whole videos
            crash_only = bool(TASKS[task].asked_if)
            if task not in truth and (not crash_only or happens):
                kind = "crash without localization" if crash_only else "missing answer"
                self.add(kind, split, name, f"no answer to {task}")
        self._compare_times(split, name, truth)

    def _compare_times(self, split: str, name: str, truth: dict[str, dict]) -> None:
        for task, values in truth.items():
            if TASKS[task].fact == CRASH_INTERVAL:
                start, end = values.values()
                if start >= end:
                    self.add("start not before end", split, name, f"crash from {start} to {end} s")
            if isinstance(TASKS[task].answer, Moment) and (before := TASKS[task].before) in truth:
                (cue,), (start, *_) = values.values(), truth[before].values()
                if cue >= start:
                    message = f"first sign at {cue} s, crash from {start} s"
                    self.add("pre-crash time not before the crash", split, name, message)

    def probe_videos(self, workers: int) -> None:
        """Open every video once, and hold the annotated times against its length."""
        paths = sorted({self.data_dir / name for videos in self.videos.values() for name in videos})
        results = dict(zip(paths, each_video(end_of, paths, workers, "videos"), strict=True))
        for split, videos in self.videos.items():
            for name, video in videos.items():
                path = self.data_dir / name
                if isinstance(result := results[path], VideoError):
                    kind = "unreadable video" if file_of(path).exists() else "missing video"
                    self.add(kind, split, name, str(result))
                    continue
                for task in (task for task in video.truth if isinstance(TASKS[task].answer, Timed)):
                    if (past := max(video.truth[task].values()) - result) > ROUNDING:
                        kind = (
                            "time past the video's end"
                            if past >= FAR_PAST
                            else "time just past the video's end"
                        )
                        self.add(
                            kind,
                            split,
                            name,
                            f"{task}: {video.answers[task]!r}, the video ends at {result:.2f} s",
                        )


def end_of(path: Path) -> float:
    """A video's length in seconds, rounded down to 1/PROBE_FPS. Raises VideoError.

    Decodes its first and last frame.
    """
    # Here: torch takes seconds to import, --no-videos needs none of it.
    from crashchat.video.decode import read_clip

    # The last sampled frame stands one step before the end, whatever the number that is kept.
    return read_clip(path, fps=PROBE_FPS, max_frames=2).seconds[-1] + 1 / PROBE_FPS


def label_of(truth: dict[str, dict]) -> str | None:
    """Whether a crash is annotated, Yes or No; None where it was not asked."""
    task = TASKS.of_fact(CRASH)
    values = truth.get(task.name) if task else None
    return None if values is None else next(iter(values.values()))
