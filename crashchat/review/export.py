"""What people decided, as annotation files to train and evaluate with, and as tables.

    crashchat export-labels outputs/analysis --out data/reviewed
    crashchat export-labels outputs/analysis --out data/reviewed --group '(drive\\d+)_' --splits 70 10 20
    crashchat check-data data/reviewed

Writes the six tasks' annotation files of each split in the released form, videos/ with links to the clips (or
copies: --copy), findings.csv, .parquet and .xlsx with a line a clip, and statistics.json: the fleet's figures
from the random share, and how far reviewers agree. All clips of one recording go to one split: what of a
file's path names its recording, --group says; files with the same content count as one anyhow. A recording's
split depends on its name and the seed alone, so that a later export moves none. Clips that people disagree
about are left out until a lead settles them, and counted. Exit code: 0 all written, 1 nothing was.
"""

import hashlib
import os
import re
import shutil
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

from crashchat.analysis.result_tables import write_findings
from crashchat.command import make_parser
from crashchat.data.datasets import DatasetCard, write_dataset_card
from crashchat.errors import exit_code, listed, writing
from crashchat.files import new_folder, write_bytes_atomic, write_json_atomic
from crashchat.json_files import as_line
from crashchat.provenance import file_hash
from crashchat.review.agreement import Fleet, Share, agreements, fleet
from crashchat.review.findings import COLUMNS, finding, workbook
from crashchat.review.folder import Reviewed, read_folder
from crashchat.review.labels import Labels, ReviewError
from crashchat.review.standing import Standing
from crashchat.review.store import FILE, Store
from crashchat.tasks import SPLITS, TASKS, VIDEO_TAG

SOURCE = "review"
SHARES = (80.0, 10.0, 10.0)  # percent of the recordings, in the order of SPLITS


def answers_of(labels: Labels) -> dict[str, str]:
    """{task: annotated answer} of labels that say crash or no crash; what was left empty is not asked."""
    if not labels.crash:
        return {name: task.negative_answer for name, task in TASKS.items() if task.negative_answer}
    answers = {
        "crash_recognition": "Yes",
        "crash_description": _one_line(labels.description),
        "causal_reasoning": _one_line(labels.cause),
        "prevention_reasoning": _one_line(labels.prevention),
    }
    if labels.start is not None and labels.end is not None:
        answers["crash_localization"] = f"{labels.start:.1f} - {labels.end:.1f} seconds"
    if labels.first_sign is not None:
        answers["pre_crash_localization"] = f"{labels.first_sign:.1f} seconds"
    return {name: answer for name, answer in answers.items() if answer}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def recordings(clips: list[Reviewed], group: str | None = None) -> dict[str, str]:
    """{clip: the recording it is of}: what `group`, a regular expression, finds of its path (its first group,
    or all that it matches; the whole path where it finds nothing), and one for files with the same content.
    """
    try:
        pattern = re.compile(group) if group is not None else None
    except re.error as error:
        raise ReviewError(f"--group {group!r}: no regular expression ({error})") from error
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    keys = {}
    sizes: dict[int, list[Reviewed]] = defaultdict(list)
    for clip in clips:
        found = pattern.search(clip.result.path) if pattern else None
        keys[clip.name] = (
            root(found[found.re.groups and 1] or clip.result.path) if found else root(clip.result.path)
        )
        sizes[clip.video.stat().st_size].append(clip)
    for same in sizes.values():
        contents: dict[str, str] = {}
        for clip in same if len(same) > 1 else []:
            mine = root(keys[clip.name])
            other = root(contents.setdefault(file_hash(clip.video), mine))
            parents[max(mine, other)] = min(mine, other)
    return {name: root(key) for name, key in keys.items()}


def split_of(recording: str, shares: tuple[float, ...] = SHARES, seed: int = 0) -> str:
    """A recording's split, which depends on nothing else."""
    digest = hashlib.sha256(f"{seed}/{recording}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares)
    for split, share in zip(SPLITS, shares, strict=True):
        if place < share:
            return split
        place -= share
    return next(split for split, share in zip(SPLITS, shares, strict=True) if share)


def export(
    folder: Path,
    out: Path,
    videos: Path | None = None,
    group: str | None = None,
    shares: tuple[float, ...] = SHARES,
    seed: int = 0,
    copy: bool = False,
    drawn: bool = False,
    skip_missing: bool = False,
) -> list[str]:
    """Write annotation files, tables and statistics to `out`, all or nothing; returns what to tell.

    shares: of recordings in each of SPLITS. drawn: whether the videos are drawings of traffic. skip_missing:
    leave out decided clips whose video is not there. Raises ReviewError.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or sum(shares) <= 0:
        raise ReviewError(f"--splits {shares}: expected the percent of {', '.join(SPLITS)}, 0 or more each")
    clips = read_folder(folder, videos)
    if not (folder / FILE).is_file():
        raise ReviewError(f"{folder / FILE}: not there; nothing was reviewed yet (crashchat review {folder})")
    store = Store(folder)
    store.sync(clips)
    rows, standings = store.clips(), store.standings()
    usable: dict[str, Labels] = {
        name: standing.final.after
        for name, standing in standings.items()
        if standing.final and standing.final.labelled
    }
    lost = [f"{folder / name}.json: reviewed, and no longer there" for name in usable if name not in clips]
    lost += [reason for name in usable if name in clips and (reason := clips[name].missing())]
    if lost and not skip_missing:
        raise ReviewError(
            f"{len(lost)} reviewed clip(s) are missing; put them back or give --skip-missing:{listed(lost)}"
        )
    kept = {name: clips[name] for name in usable if name in clips and not clips[name].missing()}
    if not kept:
        raise ReviewError(f"{folder}: no clip was confirmed or corrected; nothing to export")
    grouped = recordings(list(kept.values()), group)
    splits = {name: split_of(recording, shares, seed) for name, recording in grouped.items()}
    results = {name: clip.result for name, clip in clips.items()}
    estimate = fleet(results, rows, standings)
    findings = [
        finding(clip, rows[name], standings.get(name, Standing()), splits.get(name))
        for name, clip in clips.items()
    ]
    with new_folder(out) as made, writing(out):
        counts = _write_annotations(made, kept, usable=usable, splits=splits, copy=copy)
        write_findings(made, findings, COLUMNS)
        write_bytes_atomic(made / "findings.xlsx", workbook(findings))
        pairs = [asdict(pair) for pair in agreements(standings)]
        write_json_atomic(made / "statistics.json", {"fleet": estimate.as_json(), "agreement": pairs})
        told = f"Clips of {folder.resolve().name}, as people confirmed or corrected a model's answers."
        write_dataset_card(made, DatasetCard(name=as_line(out.resolve().name), drawn=drawn, description=told))
    return _told(standings, counts, splits=splits, lost=len(lost), estimate=estimate)


def _write_annotations(
    out: Path, clips: dict[str, Reviewed], usable: dict[str, Labels], splits: dict[str, str], copy: bool
) -> Counter[str]:
    """Write videos and annotation files; returns how many records each file that was written holds."""
    (out / "videos").mkdir()
    records: dict[str, list[dict]] = defaultdict(list)
    for name, clip in sorted(clips.items()):
        video = f"videos/{name}{clip.video.suffix}"
        if copy:
            shutil.copyfile(clip.video, out / video)
        else:
            os.symlink(clip.video.resolve(), out / video)
        for task, answer in answers_of(usable[name]).items():
            turns = [
                {"from": "human", "value": f"{VIDEO_TAG}\n{TASKS[task].prompt}"},
                {"from": "gpt", "value": answer},
            ]
            records[TASKS[task].annotation_file(splits[name])].append(
                {"video": [video], "conversations": turns, "source": SOURCE}
            )
    for file, held in records.items():
        write_json_atomic(out / file, held)
    return Counter({file: len(held) for file, held in records.items()})


def _told(
    standings: dict[str, Standing], counts: Counter[str], splits: dict[str, str], lost: int, estimate: Fleet
) -> list[str]:
    each = Counter(splits.values())
    lines = [
        f"{len(splits)} clips: " + ", ".join(f"{each[split]} {split}" for split in SPLITS),
        f"{counts.total()} questions in {len(counts)} annotation files",
    ]
    missing = [
        TASKS[task].annotation_file(split)
        for split in SPLITS
        for task in TASKS
        if not counts[TASKS[task].annotation_file(split)]
    ]
    if missing:
        lines.append(f"not written, as no clip has an answer for them: {', '.join(missing)}")
    disagreed = sum(standing.disagree for standing in standings.values())
    unlabelled = sum(bool(one.final and not one.final.labelled) for one in standings.values())
    for count, why in (
        (disagreed, "people disagree (a lead settles them in crashchat review)"),
        (unlabelled, "unsure or unusable"),
        (lost, "the video or its result is missing"),
    ):
        if count:
            lines.append(f"left out: {count}, {why}")
    return [*lines, *fleet_lines(estimate)]


def fleet_lines(estimate: Fleet) -> list[str]:
    """The fleet's figures in words."""
    lines = [f"random share: {estimate.decided} of {estimate.clips} clips decided"]
    for name in ("crash_rate", "precision", "recall"):
        share: Share = getattr(estimate, name)
        if share.value is not None:
            lines.append(
                f"  {name.replace('_', ' ')} {share.value:.3f}, 95% interval {share.low:.3f} to "
                f"{share.high:.3f} ({share.hits} of {share.number})"
            )
    if estimate.crash_mIoU is not None:
        lines.append(f"  crash mIoU {estimate.crash_mIoU:.3f}")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("export-labels", __doc__)
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
    parser.add_argument(
        "--drawn", action="store_true", help="the videos are drawings of traffic, not footage"
    )
    parser.add_argument("--skip-missing", action="store_true", help="leave out clips whose video is missing")
    arguments = parser.parse_args(argv)

    def work() -> None:
        told = export(
            arguments.folder,
            arguments.out,
            videos=arguments.videos,
            group=arguments.group,
            shares=tuple(arguments.splits),
            seed=arguments.seed,
            copy=arguments.copy,
            drawn=arguments.drawn,
            skip_missing=arguments.skip_missing,
        )
        print("\n".join([*told, f"written: {arguments.out}"]))

    return exit_code(work)
