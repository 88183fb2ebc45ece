"""What people decided, as annotation files to train and evaluate with, and as tables.

    crashchat export-labels outputs/analysis --out data/reviewed
    crashchat export-labels outputs/analysis --out data/reviewed --group '(drive\\d+)_' --splits 70 10 20
    crashchat export-labels outputs/analysis --out data/next --hold-out-random --replay data
    crashchat check-data data/reviewed

Writes the six tasks' annotation files of each split in the released form, videos/ with links to the clips (or
copies: --copy), findings.csv, .parquet and .xlsx with a line a clip, and statistics.json: the fleet's figures
from the random share, and how far reviewers agree. All clips of one recording go to one split: what of a
file's path names its recording, --group says; files with the same content count as one anyhow. A recording's
split depends on its name and the seed alone, so that a later export moves none. Clips that people disagree
about are left out until a lead settles them, and counted. Where a model's answer was corrected, pairs/ holds
both, for crashchat prefer. Exit code: 0 all written, 1 nothing was.

To learn again (scripts/train/Continue_from_review.sh): --hold-out-random makes the random share the test
split and leaves out other clips of its recordings; --replay mixes a share of what the model learnt before
into train and val.
"""

import os
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from crashchat.analysis.result_tables import write_findings
from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.data.datasets import DatasetCard, write_dataset_card
from crashchat.errors import exit_code, listed, writing
from crashchat.files import new_folder, write_bytes_atomic, write_json_atomic
from crashchat.json_files import as_line
from crashchat.parts import whole_name
from crashchat.review.agreement import agreements, fleet, fleet_lines
from crashchat.review.findings import COLUMNS, finding, workbook
from crashchat.review.folder import Reviewed, read_folder
from crashchat.review.labels import CORRECT, Labels, ReviewError
from crashchat.review.rejected import rejected_answers
from crashchat.review.replay import FOLDER, LEARNT, annotated, copies, records_of, replayed
from crashchat.review.splits import SHARES, TEST, splits_of
from crashchat.review.standing import Decision, Standing
from crashchat.review.store import FILE, Store
from crashchat.tasks import SPLITS, TASKS, VIDEO_TAG
from crashchat.tasks.task import CAUSE, CRASH, CRASH_INTERVAL, DESCRIPTION, FIRST_SIGN, PREVENTION

SOURCE = "review"
FACTS = (CRASH, DESCRIPTION, CAUSE, PREVENTION, CRASH_INTERVAL, FIRST_SIGN)
PAIRS = "pairs"  # folder of the pairs of answers


def answers_of(labels: Labels) -> dict[str, str]:
    """{task: annotated answer} of labels that say crash or no crash, of the tasks that ask for what was
    labelled; what was left empty is not asked.
    """
    told: dict[str | None, object] = {
        CRASH: "Yes",
        DESCRIPTION: _one_line(labels.description),
        CAUSE: _one_line(labels.cause),
        PREVENTION: _one_line(labels.prevention),
        FIRST_SIGN: labels.first_sign,
    }
    if labels.start is not None and labels.end is not None:
        told[CRASH_INTERVAL] = [labels.start, labels.end]
    answers = {}
    for name, task in TASKS.items():
        if not labels.crash and task.fact in FACTS and task.negative_answer:
            answers[name] = task.negative_answer
        elif labels.crash and told.get(task.fact) not in (None, ""):
            answers[name] = task.answer.write(told[task.fact])
    return answers


def _one_line(text: str) -> str:
    return " ".join(text.split())


@dataclass(frozen=True)
class Options:
    """What of a review is exported, and how.

    videos: what relative paths of clips start from. group: what of a path names its recording. shares: of
    recordings in each of SPLITS, percent. copy: copy videos instead of linking to them. drawn: whether they
    are drawings of traffic. skip_missing: leave out decided clips whose video is not there. hold_out_random:
    make the random share the test split. replay: a data folder of which replay_share is mixed in.
    """

    videos: Path | None = None
    group: str | None = None
    shares: tuple[float, ...] = SHARES
    seed: int = 0
    copy: bool = False
    drawn: bool = False
    skip_missing: bool = False
    hold_out_random: bool = False
    replay: Path | None = None
    replay_share: float = 0.1


@dataclass
class _Written:
    """What goes into the data folder: {file: records}, {path in it: the video}."""

    records: dict[str, list[dict]] = field(default_factory=lambda: defaultdict(list))
    videos: dict[str, Path] = field(default_factory=dict)

    def add(self, split: str, task: str, record: dict) -> None:
        """One more annotation record."""
        self.records[TASKS[task].annotation_file(split)].append(record)

    def write(self, out: Path, copy: bool) -> None:
        """Write all of it to a new folder."""
        for file, held in self.records.items():
            (out / file).parent.mkdir(exist_ok=True)
            write_json_atomic(out / file, held)
        for name, video in self.videos.items():
            (out / name).parent.mkdir(parents=True, exist_ok=True)
            if copy:
                shutil.copyfile(video, out / name)
            else:
                os.symlink(video.resolve(), out / name)


def export(folder: Path, out: Path, options: Options = Options()) -> list[str]:
    """Write annotation files, tables and statistics to `out`, all or nothing; returns what to tell.

    Raises ReviewError.
    """
    clips = read_folder(folder, options.videos)
    if not (folder / FILE).is_file():
        raise ReviewError(f"{folder / FILE}: not there; nothing was reviewed yet (crashchat review {folder})")
    store = Store(folder)
    store.sync(clips)
    rows, standings = store.clips(), store.standings()
    usable = {
        name: standing.final
        for name, standing in standings.items()
        if standing.final and standing.final.labelled
    }
    lost = [f"{folder / name}.json: reviewed, and no longer there" for name in usable if name not in clips]
    lost += [reason for name in usable if name in clips and (reason := clips[name].missing())]
    if lost and not options.skip_missing:
        raise ReviewError(
            f"{len(lost)} reviewed clip(s) are missing; put them back or give --skip-missing:{listed(lost)}"
        )
    there = [clip for clip in clips.values() if not clip.missing()]
    drawn = [clip.name for clip in there if options.hold_out_random and rows[clip.name].random]
    splits = splits_of(there, options.group, options.shares, seed=options.seed, held_out=drawn)
    decided = [clip for clip in there if clip.name in usable]
    kept = {clip.name: clip for clip in decided if clip.name in splits}
    if not kept:
        raise ReviewError(f"{folder}: no clip was confirmed or corrected; nothing to export")
    splits = {name: splits[name] for name in kept}
    if options.hold_out_random:
        _check_held_out(folder, splits)
    written = _Written()
    for name, clip in sorted(kept.items()):
        _add_clip(written, clip, usable[name], splits[name])
    told = _told(standings, written, splits=splits, lost=len(lost), companions=len(decided) - len(kept))
    if options.replay:
        told.append(_add_replayed(written, options, options.replay, kept=kept, splits=splits))
    results = {name: clip.result for name, clip in clips.items()}
    estimate = fleet(results, rows, standings)
    findings = [
        finding(clip, rows[name], standings.get(name, Standing()), splits.get(name))
        for name, clip in clips.items()
    ]
    with new_folder(out) as made, writing(out):
        written.write(made, options.copy)
        write_findings(made, findings, COLUMNS)
        write_bytes_atomic(made / "findings.xlsx", workbook(findings))
        pairs = [asdict(pair) for pair in agreements(standings)]
        write_json_atomic(made / "statistics.json", {"fleet": estimate.as_json(), "agreement": pairs})
        about = f"Clips of {folder.resolve().name}, as people confirmed or corrected a model's answers."
        card = DatasetCard(name=as_line(out.resolve().name), drawn=options.drawn, description=about)
        write_dataset_card(made, card)
    return [*told, *fleet_lines(estimate)]


def _check_held_out(folder: Path, splits: dict[str, str]) -> None:
    for split in (TEST, *LEARNT):
        if split not in splits.values() and split != "val":
            what = "of the random share" if split == TEST else "to learn from, outside of the random share,"
            raise ReviewError(f"{folder}: no clip {what} was confirmed or corrected; review some more first")


def _add_clip(written: _Written, clip: Reviewed, decision: Decision, split: str) -> None:
    """A reviewed clip: its questions, and where an answer was corrected, both answers."""
    video = f"videos/{clip.name}{clip.video.suffix}"
    written.videos[video] = clip.video
    answers = answers_of(decision.after)
    rejected = rejected_answers(clip.result, answers) if decision.verdict == CORRECT else {}
    for task, answer in answers.items():
        turns = [
            {"from": "human", "value": f"{VIDEO_TAG}\n{TASKS[task].prompt}"},
            {"from": "gpt", "value": answer},
        ]
        record = {"video": [video], "conversations": turns, "source": SOURCE}
        told = dict.fromkeys(TASKS.task_set.context) | clip.result.context
        record |= {key: value for key, value in told.items() if key not in record}
        written.add(split, task, record)
        if task in rejected and split != TEST:
            written.records[f"{PAIRS}/{split}.json"].append(record | {"rejected": rejected[task]})


def _add_replayed(
    written: _Written, options: Options, data_dir: Path, kept: dict[str, Reviewed], splits: dict[str, str]
) -> str:
    """A share of what the model learnt on; returns what to tell.

    Raises ReviewError where a clip to learn from is one of its held-out videos.
    """
    learnt = [clip.video for name, clip in kept.items() if splits[name] != TEST]
    asked = [clip.video for name, clip in kept.items() if splits[name] == TEST]
    if same := copies(learnt, [video.file for video in annotated(data_dir, TEST)]):
        lines = [f"{video} is {other}" for video, other in same.items()]
        raise ReviewError(
            f"{len(same)} reviewed clip(s) belong to the {TEST} split of {data_dir}, from which nothing may "
            f"be learnt; take them out of the analysis:{listed(lines)}"
        )
    count, left = 0, 0
    for split, videos in replayed(data_dir, options.replay_share, options.seed).items():
        known = copies([video.file for video in videos], asked)
        for video in videos:
            if video.file in known:
                left += 1
                continue
            count += 1
            written.videos[f"{FOLDER}/{whole_name(video.name)}"] = video.file
            for task, record in records_of(video).items():
                written.add(split, task, record)
    out = f"; {left} are in the random share and left out" if left else ""
    return f"{count} videos of {data_dir} replayed{out}"


def _told(
    standings: dict[str, Standing], written: _Written, splits: dict[str, str], lost: int, companions: int
) -> list[str]:
    each = Counter(splits.values())
    counts = {file: len(held) for file, held in written.records.items() if not file.startswith(PAIRS)}
    pairs = sum(map(len, written.records.values())) - sum(counts.values())
    lines = [
        f"{len(splits)} clips: " + ", ".join(f"{each[split]} {split}" for split in SPLITS),
        f"{sum(counts.values())} questions in {len(counts)} annotation files",
        f"{pairs} corrected answers in {PAIRS}/",
    ]
    files = [TASKS[task].annotation_file(split) for split in SPLITS for task in TASKS]
    if missing := [file for file in files if file not in counts]:
        lines.append(f"not written, as no clip has an answer for them: {', '.join(missing)}")
    disagreed = sum(standing.disagree for standing in standings.values())
    unlabelled = sum(bool(one.final and not one.final.labelled) for one in standings.values())
    for count, why in (
        (disagreed, "people disagree (a lead settles them in crashchat review)"),
        (unlabelled, "unsure or unusable"),
        (lost, "the video or its result is missing"),
        (companions, "of a recording in the random share, which is held out"),
    ):
        if count:
            lines.append(f"left out: {count}, {why}")
    return lines


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("export-labels", __doc__)
    add_task_set(parser)
    parser.add_argument("folder", type=Path, metavar="DIR", help="an analysis that was reviewed")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="a new data folder")
    parser.add_argument(
        "--videos", type=Path, metavar="FOLDER", help="what relative paths of clips start from"
    )
    parser.add_argument("--group", metavar="REGEX", help="what of a clip's path names its recording")
    parser.add_argument(
        "--splits",
        type=float,
        nargs=3,
        default=SHARES,
        metavar=("TRAIN", "VAL", "TEST"),
        help="percent of the recordings (default 80 10 10)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the splits (default 0)")
    parser.add_argument("--copy", action="store_true", help="copy the videos instead of linking to them")
    parser.add_argument("--drawn", action="store_true", help="the videos are drawings, not footage")
    parser.add_argument("--skip-missing", action="store_true", help="leave out clips whose video is missing")
    parser.add_argument(
        "--hold-out-random",
        action="store_true",
        help="the random share is the test split, all else train and val",
    )
    parser.add_argument(
        "--replay", type=Path, metavar="DATA_DIR", help="mix in what the model learnt on before"
    )
    parser.add_argument(
        "--replay-share", type=float, default=0.1, help="of its training and validation videos (default 0.1)"
    )
    arguments = vars(parser.parse_args(argv))
    folder, out, _ = arguments.pop("folder"), arguments.pop("out"), arguments.pop("task_set")
    options = Options(shares=tuple(arguments.pop("splits")), **arguments)
    return exit_code(lambda: print("\n".join([*export(folder, out, options), f"written: {out}"])))
