"""Look through a data folder for whatever would break or falsify a run, before the run does.

    crashchat check-data data/crashchat                     every annotation file and every video they name
    crashchat check-data data/crashchat --split val test --no-videos --json findings.json
    crashchat check-data data/crashchat --audit             also: what gives the labels away
    crashchat check-data --config mine.yaml                 the sources of a config (`data:`), not a folder

An error would break or falsify a run: a video missing, unreadable or in two splits, an unusable record, a
contradiction. A note is an oddity that runs cope with. Exit code: 0 without errors, 1 with some, 2 where
there are no annotation files. The audit changes no exit code: what to make of it is for a person to say.
"""

import argparse
import os
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.config import load_config
from crashchat.data.records import AnnotationError, parse_record, read_records
from crashchat.data.tables import as_text
from crashchat.errors import exit_code
from crashchat.files import write_json_atomic
from crashchat.parts import file_of, span_of, whole_name
from crashchat.settings import Settings
from crashchat.tasks import SPLITS, TASKS, task_of_prompt
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
EXAMPLES = 3
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


def _print_sources(split: str, known: list[tuple[str, str]]) -> None:
    """How many crashes each source has, and what the source gives away. known: (source, label) of videos."""
    lines = [
        f"{split:5}  source {source}: {n} {label}" for (source, label), n in sorted(Counter(known).items())
    ]
    print(*lines, sep="\n")
    usual = {source: label for (source, label), _ in reversed(Counter(known).most_common())}
    by_source = sum(label == usual[source] for source, label in known) / len(known)
    by_majority = Counter(label for _, label in known).most_common(1)[0][1] / len(known)
    print(
        f"{split:5}  the source alone predicts recognition for {by_source:.1%} of {len(known)} videos "
        f"(always the commonest label: {by_majority:.1%})"
    )


def print_report(check: Check, show_all: bool) -> None:
    """What the folder holds, and the findings by kind."""
    print(f"{check.title}: {check.files} annotation files\n\nsplit  videos  {'  '.join(TASKS)}  (records)")
    for split, videos in check.videos.items():
        print(
            f"{split:5}  {len(videos):6}  "
            + "  ".join(f"{check.records[split, name]:{len(name)}}" for name in TASKS)
        )
    for split, videos in check.videos.items():
        known = [(str(video.source), label) for video in videos.values() if (label := label_of(video.truth))]
        if known:
            _print_sources(split, known)
    print("\nlevel  count  finding")
    for kind, level in KINDS.items():
        found = [finding for finding in check.findings if finding["kind"] == kind]
        if found:
            print(f"{level:5}  {len(found):5}  {kind}")
        for finding in found if show_all else found[:EXAMPLES]:
            print(f"{'':14}{finding['split']}: {finding['where']}: {finding['message']}")
        if len(found) > EXAMPLES and not show_all:
            print(f"{'':14}… and {len(found) - EXAMPLES} more (--all lists them)")
    levels = Counter(finding["level"] for finding in check.findings)
    print(f"\n{levels[ERROR]} errors, {levels[NOTE]} notes")


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("check-data", __doc__)
    parser.add_argument(
        "data_dir",
        type=Path,
        nargs="?",
        metavar="DATA_DIR",
        help="folder of the annotation files and videos/",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="instead: a YAML file of `data:`, and `data_dir:`"
    )
    add_task_set(parser)
    parser.add_argument(
        "--split", nargs="+", choices=SPLITS, help="only these splits (default: all that are there)"
    )
    parser.add_argument("--no-videos", action="store_true", help="look at the annotation files only")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)"
    )
    parser.add_argument(
        "--all", action="store_true", help=f"list every finding, not the first {EXAMPLES} of a kind"
    )
    parser.add_argument(
        "--audit",
        action="store_true",
        help="look for near-duplicates across splits and for what gives the recognition label away (source, "
        "size, frame rate, length, overlays); decodes a few frames of every video, up to a second of one "
        "core for each in full size",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all findings, and the audit, there")
    arguments = parser.parse_args(argv)
    if (arguments.data_dir is None) == (arguments.config is None):
        parser.error("give either DATA_DIR or --config")
    if arguments.audit and arguments.no_videos:
        parser.error("--audit looks at videos, --no-videos at none; leave one out")
    return exit_code(lambda: run(arguments), failed=2)


def run(arguments: argparse.Namespace) -> int:
    """Check and report; returns the exit code. Raises OSError where the findings cannot be written."""
    splits = list(dict.fromkeys(arguments.split or SPLITS))
    check = Check(arguments.data_dir or Path())
    if arguments.config is not None:
        from crashchat.evaluation.check_sources import read_sources  # here: it is made of this module's Check

        check.title = str(arguments.config)
        words = [f"task_set={arguments.task_set}"] if arguments.task_set else []
        config = load_config(Settings, arguments.config, words)
        read_sources(check, config, splits, required=arguments.split is not None)
    for split in splits if arguments.config is None else ():
        check.read_split(split, required=arguments.split is not None)
    if not check.files:
        wanted = f"{TASKS.file_prefix}_*_SPLIT.json with SPLIT {' or '.join(check.videos)}"
        print(
            f"error: no annotation file {wanted} in {arguments.data_dir}; put the released files there",
            file=sys.stderr,
        )
        return 2
    check.compare()
    if not arguments.no_videos:
        check.probe_videos(max(1, arguments.workers))
    print_report(check, arguments.all)
    audited = None
    if arguments.audit:
        from crashchat.evaluation.audit import audit, report  # here: torch and scikit-learn take seconds

        audited = audit(check.data_dir, check.videos, max(1, arguments.workers))
        print(report(audited, arguments.all))
    if arguments.json:
        found = {"findings": check.findings, "audit": asdict(audited) if audited else None}
        write_json_atomic(arguments.json, found)
    return 1 if any(finding["level"] == ERROR for finding in check.findings) else 0
