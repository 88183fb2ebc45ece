"""The comparison: several models' scores side by side, as terminal tables, Markdown, CSV, metrics.json and a self-contained page.

    python -m crashchat.report compare base=outputs/demo/base heterogeneous=outputs/demo/heterogeneous \
        --data-dir data/demo --losses outputs/demo/train/heterogeneous --out outputs/demo

A row is the output folder of an evaluation, or one prediction file, with a name in front or its own; it may hold fewer than
six tasks. The first row is what the others are compared with, the base model as a rule. Answers that are made without looking
at the videos (see crashchat.metrics.lookfree) are added as rows.
"""

import argparse
import json
import sys
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from crashchat.annotations import AnnotationError, load_annotations
from crashchat.cards import clip_cards, data_uri
from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.metrics.bootstrap import paired
from crashchat.metrics.lookfree import METADATA, NO_ACCIDENT, Metadata, Training, guesses, read_metadata
from crashchat.metrics.meteor import MetricError
from crashchat.metrics.score import add_extras, extras_of, is_count, read_crash_starts, scores, task_sums
from crashchat.metrics.sums import Sums
from crashchat.metrics.text import NO_EXTRAS, Extras
from crashchat.plots import Records, losses_png, thresholds_png, time_errors_png
from crashchat.predictions import (
    PredictionError,
    prediction_path,
    read_predictions,
    results_folder,
    task_of_record,
    unasked,
    video_name,
)
from crashchat.tables import (
    HIGHER,
    LOOKFREE,
    LOWER,
    TITLES,
    Scores,
    as_csv,
    as_markdown,
    as_text,
    best_rows,
    breakdown_tables,
    difference_tables,
    interval_text,
    kind_of,
    published_tables,
    shown,
    strategy_tables,
)
from crashchat.tasks import SPLITS, TASKS
from crashchat.video import VideoError

NOTE = (
    "On the released annotations every crash video comes from MM-AU and every other one from Nexar or D2City: the source of a "
    "video alone gives recognition away. Read recognition scores on that set with this in mind."
)
PUBLISHED_NOTE = (
    "Published: arXiv 2512.18878, on the released test split (1,839 videos); comparable only with answers to that split. The "
    "models' own figures are in the released scripts' terms here, because the published ones are: what does not parse is left "
    "out. The paper does not say whether its ROUGE is ROUGE-1 or ROUGE-L; SimpleTAD and WSAL are read off a plot."
)


class ReportError(Exception):
    """A report that cannot be made; the message names the row or file, the cause, and what to do."""


# ------------------------------------------------------------------------------------------------------ what is compared


def parse_rows(texts: list[str]) -> dict[str, Path]:
    """[NAME=]FOLDER or [NAME=]FILE of the command line as {name: path}. Raises ReportError for a name given twice."""
    rows: dict[str, Path] = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals or Path(text).exists():
            path = Path(text)
            name = path.resolve().parent.name if path.suffix == ".json" else path.resolve().name
        if not name or not str(path):
            raise ReportError(f"a row is [NAME=]FOLDER or [NAME=]FILE, found {text!r}")
        if name in rows or name in LOOKFREE:
            raise ReportError(f"row {text}: there is a row {name!r} already; give it another name, as NAME={path}")
        rows[name] = Path(path)
    return rows


def read_row(name: str, path: Path, split: str = "test") -> dict[str, list[dict]]:
    """{task: records} of one model's answers in a folder, or of one prediction file.

    Raises ReportError for none, or for those of several models.
    """
    if path.is_file():
        records = read_predictions(path)
        return {task_of_record(records[0]) or "": records}
    found, models = {}, set()
    for task in TASKS:
        paths = sorted(results_folder(path, task).glob(f"*/{prediction_path('', task, '', split).name}"))
        if len(paths) > 1:
            raise ReportError(f"row {name}: {path} holds {len(paths)} prediction files for {task}; name a folder of one model")
        if paths:
            found[task] = read_predictions(paths[0], task)
            models.add(paths[0].parent.name)
    if not found:
        raise ReportError(
            f"row {name}: no prediction files of the {split} split in {path}; "
            f"expected {prediction_path('', '<task>', '<model>', split)} there; evaluate with output_dir={path} first"
        )
    if len(models) > 1:
        raise ReportError(f"row {name}: {path} mixes the models {', '.join(sorted(models))}; name a folder of one model")
    return found


def collect(rows: dict[str, Path], split: str = "test") -> Records:
    """The records of all rows. Raises ReportError when a row cannot be read, or two were not asked the same of a task."""
    records = {name: read_row(name, path, split) for name, path in rows.items()}
    asked: dict[str, list[dict]] = {}
    for name, row in records.items():
        for task, answered in row.items():
            if _questions(answered) != _questions(asked.setdefault(task, answered)):
                raise ReportError(f"row {name}: {task} was asked about other videos than in another row; evaluate all rows alike")
    return records


def _questions(answered: list[dict]) -> set:
    return {(record["data_id"], video_name(record["video_path"])) for record in answered}


def asked_tasks(records: Records) -> dict[str, list[dict]]:
    """{task: records of one row that was asked}; what they are about is the same in every row."""
    return {
        task: next(row[task] for row in records.values() if task in row)
        for task in TASKS
        if any(task in r for r in records.values())
    }


def look_free(records: Records, data_dir: Path, split: str) -> tuple[Records, list[str]]:
    """The rows that do not look, and notes on what could not be made of them and why."""
    asked, notes = asked_tasks(records), []
    files = [data_dir / TASKS[task].annotation_file("train") for task in asked]
    files = [file for file in files if file.is_file()]
    videos = load_annotations(files, data_dir, list(asked)) if files else []
    if not videos:
        notes.append(f"No training annotations in {data_dir}: of the rows that do not look only the {NO_ACCIDENT} can be made.")
    sources = {video.name: video.source for video in videos}
    sources_asked = described(records, data_dir, split, "source")
    paths = {video_name(record["video_path"]): Path(record["video_path"]) for answered in asked.values() for record in answered}
    paths = {name: path if path.is_file() else data_dir / "videos" / name for name, path in paths.items()}
    headers = _headers({video.name: video.path for video in videos}, notes)
    headers_asked = _headers(paths, notes) if headers else None
    rows: Records = {}
    for task, answered in asked.items():
        trained = [video for video in videos if video.answer_of(task) is not None]
        names = [video_name(record["video_path"]) for record in answered]
        training = Training(
            answers=[video.answer_of(task) or "" for video in trained],
            sources=_all_known(sources, [video.name for video in trained]),
            metadata=_all_known(headers or {}, [video.name for video in trained]),
        )
        known = _all_known(sources_asked, names), _all_known(headers_asked or {}, names)
        for name, guessed in guesses(TASKS[task], answered, training if trained else None, *known).items():
            rows.setdefault(name, {})[task] = guessed
    return {name: rows[name] for name in LOOKFREE if name in rows}, list(dict.fromkeys(notes))


def _headers(paths: dict[str, Path], notes: list[str]) -> dict[str, Metadata] | None:
    found = read_metadata(list(paths.values()))
    if found is None:
        notes.append(f"Not every video can be opened in {next(iter(paths.values())).parent}: no row {METADATA!r}.")
    return found and dict(zip(paths, found, strict=True))


def _all_known(facts: dict, names: list[str]) -> list | None:
    """The facts of the named videos, None where one is not known."""
    found = [facts.get(name) for name in names]
    return None if None in found else found


def described(records: Records, data_dir: Path, split: str, what: str) -> dict[str, str]:
    """{video: its source, or its kind} as records or the annotations in data_dir tell; a video without is left out.

    what: `source` or `kind`, the annotated description of what happens.
    """
    task = TASKS["crash_description" if what == "kind" else "crash_recognition"]
    found: dict[str, str] = {}
    file = data_dir / task.annotation_file(split)
    for video in load_annotations([file], data_dir, [task.name]) if file.is_file() else []:
        told = video.answer_of(task.name) if what == "kind" else video.source
        if told:
            found[video_name(video.name)] = told
    for answered in asked_tasks(records).values():
        for record in answered:
            told = record.get("gt_caption" if what == "kind" else "source")
            if told:
                found[video_name(record["video_path"])] = told
    return found


def partial_runs(records: Records, data_dir: Path, split: str) -> list[str]:
    """Notes on tasks whose questions in data_dir were not all asked."""
    notes = []
    for task, answered in asked_tasks(records).items():
        file = data_dir / TASKS[task].annotation_file(split)
        missing, unknown = unasked(answered, TASKS[task], file) if file.is_file() else ([], [])
        if missing:
            notes.append(f"A partial run: {len(missing)} {task} questions of {file.name} have no record (first: {missing[0]}).")
        if unknown:
            notes.append(f"{len(unknown)} videos of the {task} records are not in {file.name} (first: {unknown[0]}).")
    return notes


def sum_rows(records: Records, crash_annotations: Path | None = None, extras: Extras = NO_EXTRAS) -> dict[str, dict[str, Sums]]:
    """{row: {task: sums}} of all rows.

    crash_annotations: crash_localization annotations, for pre-crash answers that carry no crash start of their own.
    """
    pre_crash = [record for row in records.values() for record in row.get("pre_crash_localization", [])]
    starts = None
    if crash_annotations and crash_annotations.is_file() and any(record.get("crash_start") is None for record in pre_crash):
        starts = read_crash_starts(crash_annotations)
    return {
        name: {task: task_sums(task, answered, starts, extras) for task, answered in row.items()} for name, row in records.items()
    }


# -------------------------------------------------------------------------------------------------------------- the page


def loss_picture(folder: Path) -> bytes:
    """loss.png of a training run's output folder, or drawn from its newest checkpoint. Raises ReportError without either."""
    if (folder / "loss.png").is_file():
        return (folder / "loss.png").read_bytes()
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise ReportError(
            f"{folder}: neither loss.png nor checkpoint-*/trainer_state.json; --losses names a training's output_dir"
        )
    try:
        return losses_png(json.loads(states[-1].read_text(encoding="utf-8"))["log_history"])
    except (ValueError, KeyError) as error:
        raise ReportError(f"{states[-1]}: no log_history of a training in it ({error!r}); delete that checkpoint") from error


def every_metric(scored: Scores) -> dict[str, list[tuple[str, list[tuple[str, list[tuple[str, str, bool]]]]]]]:
    """{task: [(section, [(metric, [(text, interval, best) a row])])]}, a column a row that was asked."""
    tasks = {}
    for task in TASKS:
        rows = {name: row[task] for name, row in scored.items() if task in row}
        if not rows:
            continue
        first = next(iter(rows.values()))
        plain = [name for name, value in first.items() if not isinstance(value, dict) and not is_count(name)]
        counts = [name for name, value in first.items() if is_count(name)]
        sections = [
            ("strict: every question counts", plain, rows),
            ("released: only what parses counts", plain, {name: row["released"] for name, row in rows.items()}),
            ("counts", counts, rows),
        ]
        tasks[task] = [(title, [(metric, _cells(metric, of)) for metric in metrics]) for title, metrics, of in sections]
    return tasks


def _cells(metric: str, rows: dict[str, dict]) -> list[tuple[str, str, bool]]:
    best = best_rows({name: row[metric] for name, row in rows.items()}, metric)
    cells = []
    for name, row in rows.items():
        low, high = row.get("intervals", {}).get(metric, (None, None))
        interval = interval_text(low, high) if metric.startswith(HIGHER + LOWER) else ""
        cells.append((shown(row[metric]), interval, name in best))
    return cells


def write_report(
    rows: dict[str, Path],
    data_dir: Path,
    out: Path,
    losses: Path | None = None,
    split: str = "test",
    extras: Extras = NO_EXTRAS,
) -> str:
    """Write report.html, metrics.json, comparison.md and comparison.csv to `out`; returns the terminal tables.

    rows: {name: folder or file}, the first of which the others are compared with; losses: a training's output folder.
    Raises ReportError, PredictionError, AnnotationError or MetricError for what cannot be used; then nothing is written.
    """
    models = collect(rows, split)
    blind, notes = look_free(models, data_dir, split)
    notes = partial_runs(models, data_dir, split) + notes
    records = models | blind
    sums = sum_rows(records, data_dir / TASKS["crash_localization"].annotation_file(split), extras)
    scored: Scores = {name: {task: scores(one) for task, one in row.items()} for name, row in sums.items()}
    base, *others = models
    differences = {
        name: {task: paired(sums[base][task], sums[name][task]) for task in models[name] if task in models[base]}
        for name in others
    }
    main = strategy_tables(scored)
    against = difference_tables(differences, base)
    published = published_tables(scored)
    by_source = breakdown_tables(sums, described(models, data_dir, split, "source"), "source")
    by_kind = breakdown_tables(sums, described(models, data_dir, split, "kind"), "crash kind")
    curve = loss_picture(losses) if losses else None
    try:
        cards, judged = clip_cards(models, sums, data_dir, out)
    except VideoError as error:
        raise ReportError(f"a clip of the predictions cannot be shown: {error}; check --data-dir ({data_dir})") from error
    dashed = set(blind)
    pictures = {
        "loss": curve,
        "thresholds": thresholds_png(sums, TITLES, dashed),
        "errors": time_errors_png(records, dashed),
    }
    environment = Environment(
        loader=PackageLoader("crashchat"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html").render(
        split=split,
        base=base,
        notes=notes,
        recognition_note=NOTE,
        published_note=PUBLISHED_NOTE,
        main=main,
        against=against,
        published=published,
        breakdowns=[("source", by_source), ("crash kind", by_kind)],
        confusions={name: row["crash_recognition"]["confusion"] for name, row in scored.items() if "crash_recognition" in row},
        every=every_metric(scored),
        scores=scored,
        titles=TITLES,
        kind_of=kind_of,
        pictures={name: data_uri(picture, "image/png") for name, picture in pictures.items() if picture},
        cards=cards,
        judged=judged,
    )
    tables = [*main, *against, *published, *by_source, *by_kind]
    asides = [NOTE] * ("crash_recognition" in asked_tasks(models)) + notes
    markdown = [f"# CrashChat on the {split} split", *asides, *map(as_markdown, [*main, *against]), PUBLISHED_NOTE]
    markdown += map(as_markdown, [*published, *by_source, *by_kind])
    write_json_atomic(out / "metrics.json", scored)
    write_text_atomic(out / "comparison.csv", as_csv(tables))
    write_text_atomic(out / "comparison.md", "\n\n".join(markdown) + "\n")
    write_text_atomic(out / "report.html", page)
    legend = "* best   — not asked   [ ] 95% interval   void: no usable answer (unparsed or failed), counted as wrong"
    return "\n\n".join([*map(as_text, main), *map(as_text, against), legend, *asides])


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m crashchat.report", description=__doc__, formatter_class=form)
    commands = parser.add_subparsers(required=True, metavar="compare")
    compare = commands.add_parser("compare", help="score runs side by side", description=__doc__, formatter_class=form)
    compare.add_argument("rows", nargs="+", metavar="[NAME=]FOLDER", help="evaluation output folders, or prediction files")
    compare.add_argument("--data-dir", type=Path, default=Path("data"), help="where clips and annotations are (default data)")
    compare.add_argument("--split", choices=SPLITS, default="test", help="which split was answered (default test)")
    compare.add_argument("--losses", type=Path, metavar="FOLDER", help="output folder of a training run, for its loss curve")
    compare.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for report.html, metrics.json, comparison.*")
    add_extras(compare)
    arguments = parser.parse_args(argv)
    try:
        rows, extras = parse_rows(arguments.rows), extras_of(arguments)
        told = write_report(rows, arguments.data_dir, arguments.out, arguments.losses, arguments.split, extras)
    except (ReportError, PredictionError, AnnotationError, MetricError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(told)
    for name in ("comparison.md", "comparison.csv", "metrics.json", "report.html"):
        print(arguments.out / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
