r"""The comparison: several models' scores side by side, as tables in the terminal, Markdown, CSV,
JSON and a page.

    crashchat compare base=outputs/demo/base heterogeneous=outputs/demo/heterogeneous \
        --data-dir data/demo --losses outputs/demo/train/heterogeneous --out outputs/demo
    crashchat compare ours=outputs/ours --data-dir data --out outputs/ours \
        --second data/others ours=outputs/ours_on_others        the same model on another data set

A row is the output folder of an evaluation, or one prediction file, with a name in front or its own; it may
hold fewer than six tasks. Several folders with commas between them are the runs of one row, one seed each.
The first row is what the others are compared with, the base model as a rule.
Blind baselines, which never see a video (see crashchat.metrics.blind), are added as rows.
"""

import json
from collections.abc import Mapping, Sequence
from functools import partial as partial_of
from pathlib import Path

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.errors import exit_code, writing
from crashchat.evaluation.extras import add_extras, extras_of
from crashchat.evaluation.score import add_partial
from crashchat.evaluation.strata import FEWEST
from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.html import TEMPLATES, data_uri
from crashchat.metrics.text import NO_EXTRAS, Extras
from crashchat.reporting.about import DRAWN_NOTE, about_lines, annotations_hash
from crashchat.reporting.by_column import COLUMN_NOTE, column_tables
from crashchat.reporting.clip_cards import clip_cards
from crashchat.reporting.comparison import Comparison, make_comparison
from crashchat.reporting.judged_rows import judged_tables
from crashchat.reporting.metric_tables import metric_tables
from crashchat.reporting.plots import probabilities_png, thresholds_png, time_errors_png
from crashchat.reporting.published import (
    NOT_PUBLISHED_NOTE,
    PUBLISHED_NOTE,
    is_published_split,
    published_tables,
)
from crashchat.reporting.runs import ReportError, parse_rows
from crashchat.reporting.stability import as_stability_csv, stability_tables
from crashchat.reporting.table_text import as_csv, as_markdown, as_text, wrapped
from crashchat.reporting.tables import (
    Scores,
    Table,
    breakdown_tables,
    difference_tables,
    kind_of,
    p_note,
    strategy_tables,
)
from crashchat.tasks import SPLITS, TASKS
from crashchat.tasks.task import CRASH
from crashchat.training.losses import losses_png


def loss_picture(folder: Path) -> bytes:
    """loss.png of a training run's output folder, or drawn from its newest checkpoint.

    Raises ReportError without either.
    """
    if (folder / "loss.png").is_file():
        return (folder / "loss.png").read_bytes()
    states = sorted(folder.glob("checkpoint-*/trainer_state.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        raise ReportError(
            f"{folder}: neither loss.png nor checkpoint-*/trainer_state.json; --losses names a training's "
            "output_dir"
        )
    try:
        return losses_png(json.loads(states[-1].read_text(encoding="utf-8"))["log_history"])
    except (ValueError, KeyError) as error:
        raise ReportError(
            f"{states[-1]}: no log_history of a training in it ({error!r}); delete that checkpoint"
        ) from error


def out_of_domain(comparison: Comparison) -> list[Table]:
    """The main tables of a second data set, which no row learnt on."""
    tables = strategy_tables(comparison.scores)
    comparison.mark_partial(tables)
    for table in tables:
        table.title += f", out of domain: {comparison.about.title}"
    return tables


def confusions(scored: Scores) -> dict[str, dict[str, dict]]:
    """{task: {row: its confusion}} of the tasks whose answers are few enough to be set against each other."""
    return {
        task: found
        for task in TASKS
        if (
            found := {
                name: row[task]["confusion"]
                for name, row in scored.items()
                if "confusion" in row.get(task, {})
            }
        )
    }


def _written(comparison: Comparison) -> dict:
    return {"about": comparison.about.as_json(), **comparison.written()}


def write_report(
    rows: Mapping[str, Sequence[Path]],
    data_dir: Path,
    out: Path,
    losses: Path | None = None,
    split: str = "test",
    extras: Extras = NO_EXTRAS,
    partial: bool = False,
    motion: bool = False,
    second: tuple[Path, Mapping[str, Sequence[Path]]] | None = None,
    by: Sequence[str] = (),
) -> str:
    """Write report.html, metrics.json, comparison.md and comparison.csv to `out`, and stability.csv where a
    row has several runs; returns the terminal tables.

    rows: {name: a folder or file a run}, the first of which the others are compared with; losses: a
    training's output folder; partial: take rows that answered only a part of the annotated questions; motion:
    with the blind row that takes frame differences, for which every video is decoded; second: another data
    folder, and rows that were asked about it, out of domain for all that learnt on the first; by: columns of
    the annotations whose values have figures of their own.
    Raises ReportError, PredictionError, AnnotationError or MetricError for what cannot be used; then nothing
    is written.
    """
    make = partial_of(make_comparison, split=split, extras=extras, partial=partial, motion=motion)
    comparison = make(rows, data_dir, by=by)
    elsewhere = make(second[1], second[0], training_dir=data_dir) if second else None
    scored, sums = comparison.scores, comparison.sums
    main = strategy_tables(scored)
    away = out_of_domain(elsewhere) if elsewhere else []
    notes = comparison.notes + (
        [f"{elsewhere.about.title}: {note}" for note in elsewhere.notes] if elsewhere else []
    )
    against = difference_tables(comparison.differences, comparison.base)
    shown = is_published_split(comparison.about.dataset, comparison.sources, comparison.answered)
    published = published_tables(scored) if shown else []
    by_source = breakdown_tables(sums, comparison.sources, "source")
    by_kind = breakdown_tables(sums, comparison.kinds, "crash kind")
    by_column = {column: column_tables(comparison, column) for column in by}
    columns = [table for tables in by_column.values() for table in tables]
    judges, steady = (
        judged_tables(comparison.runs, comparison.verdicts),
        stability_tables(comparison.stability),
    )
    tables = [*main, *judges, *steady, *against, *published, *by_source, *by_kind, *columns]
    comparison.mark_partial(tables)
    tables += away
    curve = loss_picture(losses) if losses else None
    cards, judged = clip_cards(comparison.models, sums, data_dir, out)
    dashed = set(comparison.blind)
    pictures = {
        "loss": curve,
        "thresholds": thresholds_png(sums, dashed),
        "errors": time_errors_png(comparison.records, dashed),
        "probabilities": probabilities_png({name: comparison.records[name] for name in comparison.models}),
    }
    page = TEMPLATES.get_template("report.html").render(
        about=comparison.about,
        base=comparison.base,
        notes=notes,
        published_note=PUBLISHED_NOTE if shown else NOT_PUBLISHED_NOTE,
        p_note=p_note(against),
        drawn_note=DRAWN_NOTE,
        annotations_hash=annotations_hash(used) if (used := comparison.about.dataset) else "",
        main=[*main, *away],
        judges=judges,
        steady=steady,
        against=against,
        published=published,
        breakdowns=[("source", by_source), ("crash kind", by_kind), *by_column.items()],
        confusions=confusions(scored),
        crash_task=crash.name if (crash := TASKS.of_fact(CRASH)) else None,
        every=metric_tables(scored),
        partial={task: file.share for task, file in comparison.asked.items()},
        titles={name: task.title for name, task in TASKS.items()},
        kind_of=kind_of,
        pictures={name: data_uri(picture, "image/png") for name, picture in pictures.items() if picture},
        cards=cards,
        judged=judged,
    )
    markdown = [
        f"# {comparison.about.title}",
        about_lines(comparison.about),
        *notes,
        *map(as_markdown, [*main, *away, *judges, *steady]),
        *([p_note(against)] if against else []),
        *map(as_markdown, against),
        PUBLISHED_NOTE if shown else NOT_PUBLISHED_NOTE,
    ]
    markdown += map(as_markdown, [*published, *by_source, *by_kind, *columns])
    written = _written(comparison) | ({"out of domain": _written(elsewhere)} if elsewhere else {})
    write_json_atomic(out / "metrics.json", written)
    write_text_atomic(out / "comparison.csv", as_csv(tables))
    if comparison.stability:
        write_text_atomic(out / "stability.csv", as_stability_csv(comparison.stability))
    write_text_atomic(out / "comparison.md", "\n\n".join(markdown) + "\n")
    write_text_atomic(out / "report.html", page)
    legend = (
        "* best   — not asked   [ ] 95% interval   ± standard deviation over runs   "
        "unusable: unparsed or failed answers, counted as wrong"
    )
    parts = [
        comparison.about.title,
        wrapped(about_lines(comparison.about)),
        *map(as_text, [*main, *away, *judges, *steady]),
        *([wrapped(p_note(against))] if against else []),
        *map(as_text, [*against, *columns]),
        *([COLUMN_NOTE] if columns else []),
        legend,
        *map(wrapped, notes),
    ]
    return "\n\n".join(parts)


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("compare", __doc__)
    parser.add_argument(
        "rows",
        nargs="+",
        metavar="[NAME=]FOLDER[,FOLDER…]",
        help="evaluation output folders, or prediction files; several of one row are its runs (seeds), shown "
        "as one with mean and spread",
    )
    parser.add_argument(
        "--data-dir", type=Path, default=Path("data"), help="where clips and annotations are (default data)"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="which split was answered (default test)"
    )
    parser.add_argument(
        "--losses", type=Path, metavar="FOLDER", help="output folder of a training run, for its loss curve"
    )
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="for report.html, metrics.json, comparison.*",
    )
    add_partial(parser)
    add_task_set(parser)
    parser.add_argument(
        "--motion",
        action="store_true",
        help="add the blind row 'motion alone', from frame differences; decodes every training and test "
        "video, about a second of one core for each in full size",
    )
    parser.add_argument(
        "--second",
        nargs="+",
        metavar=("DATA_DIR", "[NAME=]FOLDER"),
        help="another data folder, and rows' answers to its questions, for tables out of domain; the blind "
        "baselines there learn on --data-dir, too",
    )
    parser.add_argument(
        "--by",
        metavar="COLUMNS",
        help="columns of the annotations with commas between them: each task's main figure for each of their "
        f"values; of one with fewer than {FEWEST} videos it says so",
    )
    add_extras(parser)
    arguments = parser.parse_intermixed_args(argv)
    if arguments.second and len(arguments.second) < 2:
        parser.error("--second takes a data folder and at least one row")

    def compared() -> None:
        rows, extras = parse_rows(arguments.rows), extras_of(arguments)
        second = None
        if arguments.second:
            second = Path(arguments.second[0]), parse_rows(arguments.second[1:])
        with writing(arguments.out):
            print(
                write_report(
                    rows,
                    arguments.data_dir,
                    out=arguments.out,
                    losses=arguments.losses,
                    split=arguments.split,
                    extras=extras,
                    partial=arguments.partial,
                    motion=arguments.motion,
                    second=second,
                    by=arguments.by.split(",") if arguments.by else (),
                )
            )
        for name in ("comparison.md", "comparison.csv", "metrics.json", "report.html"):
            print(arguments.out / name)

    return exit_code(compared)
