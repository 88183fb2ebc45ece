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
from dataclasses import asdict
from pathlib import Path

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.config import load_config
from crashchat.errors import exit_code
from crashchat.evaluation.check import ERROR, KINDS, NOTE, Check, label_of
from crashchat.evaluation.check_sources import read_sources
from crashchat.files import write_json_atomic
from crashchat.settings import Settings
from crashchat.tasks import SPLITS, TASKS

EXAMPLES = 3


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
