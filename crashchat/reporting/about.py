"""What a comparison is of: the data set, the rows' files, and how and when it was made."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from crashchat.data.datasets import DatasetUse
from crashchat.json_files import Exact
from crashchat.metrics.bootstrap import PAIRED_RESAMPLES, RESAMPLES, SEED
from crashchat.provenance import command_line, file_hash, now, text_hash, versions
from crashchat.reporting.runs import Run

DRAWN_NOTE = (
    "These videos are drawings of traffic, not footage: what scores here says nothing about real roads."
)


class RowAbout(Exact):
    """One row: whose answers, from which files."""

    name: str
    """As the tables call it."""
    paths: list[str]
    """The folder or file of each of its runs."""
    models: list[str]
    """What its records or their folders call the model that answered."""
    weights: dict[str, str]
    """{folder of a checkpoint or adapter: SHA-256 of its content}, as the manifests say."""
    predictions_sha256: str
    """Over the SHA-256 of its prediction files, in their order."""


class About(Exact):
    """What heads a report, and stands in metrics.json under "about"."""

    title: str
    """Data set, split and number of videos."""
    data_dir: str
    """The data folder that truth, sources and blind baselines were taken from."""
    dataset: DatasetUse | None
    """The annotated split; none without annotation files in data_dir."""
    split: str
    """Which split was answered."""
    videos: int
    """How many videos were asked about."""
    rows: list[RowAbout]
    """The rows with answers of models."""
    made: str
    """When, in UTC."""
    command: str
    """The command that made it."""
    versions: dict[str, str]
    """Of this package and of what it computes with."""
    seed: int
    """Of the resamples."""
    resamples: int
    """Behind each interval."""
    paired_resamples: int
    """Behind each p-value."""


def make_about(
    rows: Mapping[str, Sequence[Path]],
    runs: Mapping[str, Sequence[Run]],
    used: DatasetUse | None,
    data_dir: Path,
    split: str,
    videos: int,
) -> About:
    """rows: {name: the folder or file of each run}; runs: their files; used: the annotated split; videos: how
    many were asked about.
    """
    what = used.name if used else "Answers without annotation files"
    drawn = " (drawings)" if used and used.drawn else ""
    return About(
        title=f"{what}{drawn}: {split} split, {videos:,} videos",
        data_dir=str(data_dir),
        dataset=used,
        split=split,
        videos=videos,
        rows=[_row_about(name, paths, runs[name]) for name, paths in rows.items()],
        made=now(),
        command=command_line(),
        versions=versions(),
        seed=SEED,
        resamples=RESAMPLES,
        paired_resamples=PAIRED_RESAMPLES,
    )


def _row_about(name: str, paths: Sequence[Path], runs: Sequence[Run]) -> RowAbout:
    files = [file.path for run in runs for file in run.values()]
    said = [record["model"] for file in runs[0].values() for record in file.records if record.get("model")]
    return RowAbout(
        name=name,
        paths=list(map(str, paths)),
        models=list(dict.fromkeys([*said, *(() if said else (file.parent.name for file in files))])),
        weights={
            Path(used.path).name: used.sha256
            for run in runs
            for file in run.values()
            if file.manifest
            for used in (file.manifest.checkpoint, file.manifest.adapter)
            if used
        },
        predictions_sha256=text_hash([file_hash(file) for file in files]),
    )


def about_lines(about: About) -> str:
    """What heads the terminal's and Markdown's tables, a line a fact."""
    lines = []
    if about.dataset:
        used = about.dataset
        lines.append(
            f"- data set: {used.name}, {used.split}: {used.videos:,} videos, {used.questions:,} questions; "
            f"annotations {annotations_hash(used)[:16]}, from {about.data_dir}"
        )
        if used.drawn:
            lines.append(f"- {DRAWN_NOTE}")
    else:
        lines.append(f"- data set: no annotation files of the {about.split} split in {about.data_dir}")
    for row in about.rows:
        runs = f", {len(row.paths)} runs" if len(row.paths) > 1 else ""
        lines.append(
            f"- {row.name}: answers of {', '.join(row.models)}{runs}; "
            + "".join(f"weights of {name} {digest[:16]}; " for name, digest in row.weights.items())
            + f"predictions {row.predictions_sha256[:16]}"
        )
    packages = ", ".join(f"{name} {version}" for name, version in about.versions.items())
    lines.append(
        f"- made {about.made} by `{about.command}`; {about.resamples:,} resamples behind intervals, "
        f"{about.paired_resamples:,} behind p-values, seed {about.seed}; {packages}"
    )
    return "\n".join(lines)


def annotations_hash(used: DatasetUse) -> str:
    """One SHA-256 for all annotation files that were read."""
    return text_hash([f"{name} {digest}" for name, digest in sorted(used.annotations.items())])
