r"""The comparison: several models' scores side by side, as tables in the terminal, Markdown, CSV,
JSON and a page.

    crashchat compare base=outputs/demo/base heterogeneous=outputs/demo/heterogeneous \
        --data-dir data/demo --losses outputs/demo/train/heterogeneous --out outputs/demo

A row is the output folder of an evaluation, or one prediction file, with a name in front or its own; it may
hold fewer than six tasks. The first row is what the others are compared with, the base model as a rule.
Blind baselines, which never see a video (see crashchat.metrics.blind), are added as rows.
"""

import json
from pathlib import Path

from crashchat.command import make_parser
from crashchat.errors import exit_code, writing
from crashchat.evaluation.score import add_extras, extras_of
from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.html import TEMPLATES, data_uri
from crashchat.metrics.text import NO_EXTRAS, Extras
from crashchat.reporting.clip_cards import clip_cards
from crashchat.reporting.columns import TITLES
from crashchat.reporting.comparison import make_comparison
from crashchat.reporting.metric_tables import metric_tables
from crashchat.reporting.plots import probabilities_png, thresholds_png, time_errors_png
from crashchat.reporting.runs import ReportError, parse_rows
from crashchat.reporting.table_text import as_csv, as_markdown, as_text
from crashchat.reporting.tables import (
    breakdown_tables,
    difference_tables,
    kind_of,
    published_tables,
    strategy_tables,
)
from crashchat.tasks import SPLITS
from crashchat.training.losses import losses_png

NOTE = (
    "On the released annotations every crash video comes from MM-AU and every other one from Nexar or "
    "D2City: the source of a "
    "video alone gives recognition away. Read recognition scores on that set with this in mind."
)
PUBLISHED_NOTE = (
    "Published: arXiv 2512.18878, on the released test split (1,839 videos); comparable only with answers "
    "to that split. The "
    "models' own figures are in the released scripts' terms here, because the published ones are: what does "
    "not parse is left "
    "out. The paper does not say whether its ROUGE is ROUGE-1 or ROUGE-L; SimpleTAD and WSAL are read off a "
    "plot."
)


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


def write_report(
    rows: dict[str, Path],
    data_dir: Path,
    out: Path,
    losses: Path | None = None,
    split: str = "test",
    extras: Extras = NO_EXTRAS,
    motion: bool = False,
) -> str:
    """Write report.html, metrics.json, comparison.md and comparison.csv to `out`;
    returns the terminal tables.

    motion: with the blind row that takes frame differences, for which every video is decoded.
    rows: {name: folder or file}, the first of which the others are compared with; losses: a training's output
    folder. Raises ReportError, PredictionError, AnnotationError or MetricError for what cannot be used; then
    nothing is written.
    """
    comparison = make_comparison(rows, data_dir, split, extras=extras, motion=motion)
    scored, sums = comparison.scores, comparison.sums
    main = strategy_tables(scored)
    against = difference_tables(comparison.differences, comparison.base)
    published = published_tables(scored)
    by_source = breakdown_tables(sums, comparison.sources, "source")
    by_kind = breakdown_tables(sums, comparison.kinds, "crash kind")
    curve = loss_picture(losses) if losses else None
    cards, judged = clip_cards(comparison.models, sums, data_dir, out)
    dashed = set(comparison.blind)
    pictures = {
        "loss": curve,
        "thresholds": thresholds_png(sums, TITLES, dashed),
        "errors": time_errors_png(comparison.records, dashed),
        "probabilities": probabilities_png(comparison.models),
    }
    page = TEMPLATES.get_template("report.html").render(
        split=split,
        base=comparison.base,
        notes=comparison.notes,
        recognition_note=NOTE,
        published_note=PUBLISHED_NOTE,
        main=main,
        against=against,
        published=published,
        breakdowns=[("source", by_source), ("crash kind", by_kind)],
        confusions={
            name: row["crash_recognition"]["confusion"]
            for name, row in scored.items()
            if "crash_recognition" in row
        },
        every=metric_tables(scored),
        titles=TITLES,
        kind_of=kind_of,
        pictures={name: data_uri(picture, "image/png") for name, picture in pictures.items() if picture},
        cards=cards,
        judged=judged,
    )
    tables = [*main, *against, *published, *by_source, *by_kind]
    asides = [*([NOTE] if "crash_recognition" in comparison.tasks else []), *comparison.notes]
    markdown = [
        f"# CrashChat on the {split} split",
        *asides,
        *map(as_markdown, [*main, *against]),
        PUBLISHED_NOTE,
    ]
    markdown += map(as_markdown, [*published, *by_source, *by_kind])
    write_json_atomic(out / "metrics.json", scored)
    write_text_atomic(out / "comparison.csv", as_csv(tables))
    write_text_atomic(out / "comparison.md", "\n\n".join(markdown) + "\n")
    write_text_atomic(out / "report.html", page)
    legend = (
        "* best   — not asked   [ ] 95% interval   unusable: unparsed or failed answers, counted as wrong"
    )
    return "\n\n".join([*map(as_text, main), *map(as_text, against), legend, *asides])


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("compare", __doc__)
    parser.add_argument(
        "rows", nargs="+", metavar="[NAME=]FOLDER", help="evaluation output folders, or prediction files"
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
    parser.add_argument(
        "--motion",
        action="store_true",
        help="add the blind row 'motion alone', from frame differences; decodes every training and test "
        "video, about a second of one core for each in full size",
    )
    add_extras(parser)
    arguments = parser.parse_intermixed_args(argv)

    def compared() -> None:
        rows, extras = parse_rows(arguments.rows), extras_of(arguments)
        with writing(arguments.out):
            print(
                write_report(
                    rows,
                    arguments.data_dir,
                    out=arguments.out,
                    losses=arguments.losses,
                    split=arguments.split,
                    extras=extras,
                    motion=arguments.motion,
                )
            )
        for name in ("comparison.md", "comparison.csv", "metrics.json", "report.html"):
            print(arguments.out / name)

    return exit_code(compared)
