"""A prediction file to its scores: the files, and the command of the metric scripts."""

import argparse
import csv
import io
import sys
from pathlib import Path

from crashchat.command import add_task_set, make_parser, with_task_set
from crashchat.data.manifests import read_manifest
from crashchat.data.prediction_files import PredictionFile, read_prediction_file
from crashchat.data.predictions import (
    PredictionError,
    newest_predictions,
    prediction_path,
    results_folder,
    split_of,
)
from crashchat.data.truth import Annotations
from crashchat.errors import exit_code
from crashchat.evaluation.controls import control_scores, control_table
from crashchat.evaluation.extras import add_extras, extras_of
from crashchat.evaluation.judge import add_judge, judged_scores
from crashchat.evaluation.score_tables import difference_table, score_table
from crashchat.evaluation.skipping import skip_scores, skip_table, thresholds
from crashchat.evaluation.strata import strata
from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.metrics.bootstrap import corrected, intervals, paired
from crashchat.metrics.by_kind import task_sums
from crashchat.metrics.sums import PROTOCOLS, Sums
from crashchat.tasks import TASKS
from crashchat.tasks.kinds import Text
from crashchat.tasks.task import CRASH


def scores(sums: Sums, protocol: str = "strict") -> dict:
    """{metric: value} in one protocol, `intervals` {metric: [low, high]},
    and under the other protocol's name the same in it.
    """
    (other,) = set(PROTOCOLS) - {protocol}
    return with_intervals(sums, protocol) | {other: with_intervals(sums, other)}


def with_intervals(sums: Sums, protocol: str) -> dict:
    """{metric: value} in one protocol, and `intervals`, {metric: [low, high]}; of several runs also
    `num_runs` and `spread`, {metric: standard deviation over the runs}.
    """
    ranges = {name: list(interval) for name, interval in intervals(sums, protocol).items()}
    several = {"num_runs": sums.num_runs} if sums.num_runs > 1 else {}
    spread = {"spread": sums.spread(protocol)} if sums.num_runs > 1 else {}
    return {**several, **sums.metrics(protocol), "intervals": ranges, **spread}


def write_scores(scored: dict, out: str | Path) -> tuple[Path, Path]:
    """Write `out` (a .json path) and the same scores beside it as .csv (metric,value,low,high);
    returns both paths.

    An inner dict becomes dotted names in the CSV (confusion.Yes.No); None is an empty cell there and null in
    JSON.
    """
    json_path = Path(out).with_suffix(".json")
    csv_path = json_path.with_suffix(".csv")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("metric", "value", "low", "high"))
    writer.writerows(_flat(scored))
    write_json_atomic(json_path, scored)
    write_text_atomic(csv_path, table.getvalue())
    return json_path, csv_path


def metrics_path(predictions: Path) -> Path:
    """Where the scores of a prediction file lie, unless told otherwise."""
    return predictions.with_name(f"{predictions.stem}_metrics.json")


def _flat(metrics: dict, prefix: str = "") -> list[tuple]:
    rows: list[tuple] = []
    for key, value in metrics.items():
        if isinstance(value, dict) and key != "intervals":
            rows += _flat(value, f"{prefix}{key}.")
        elif key != "intervals":
            rows.append((prefix + key, value, *metrics.get("intervals", {}).get(key, ("", ""))))
    return rows


def _arguments(task_name: str, argv: list[str]) -> argparse.Namespace:
    task = TASKS[task_name]
    parser = make_parser(
        f"score {task_name}",
        f"Scores {task_name} predictions, with 95% intervals: every question counts;\n"
        "and the released scripts' numbers, which drop answers that do not parse. Writes JSON and CSV.",
        f"example: crashchat score {task_name} --predictions "
        f"{prediction_path('outputs', task_name, 'my_model')}",
    )
    folder = results_folder("outputs", task_name)
    parser.add_argument(
        "--predictions",
        type=Path,
        metavar="FILE",
        help=f"prediction file (default: the newest in {folder}/*/)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR_OR_FILE",
        help="a folder, or a file ending in .json (default: <predictions>_metrics.json beside the "
        "predictions); the .csv goes beside it",
    )
    parser.add_argument(
        "--protocol",
        choices=PROTOCOLS,
        default="strict",
        help="strict: every question counts (default); released: without the answers that do not parse, as "
        "the released scripts",
    )
    parser.add_argument(
        "--annotations",
        type=Path,
        metavar="FILE",
        help="the questions that were asked and their answers (default: in --data-dir, of the split that the "
        "prediction file's name says): a record that differs from them is an error",
    )
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path("data"),
        metavar="FOLDER",
        help="where the annotation files are looked for (default data)",
    )
    parser.add_argument(
        "--by",
        metavar="NAMES",
        help="also the figures by each value of these columns of the annotations, with commas: source, or "
        "any that is kept with the data (docs/data.md); numbers of many values in thirds",
    )
    add_partial(parser)
    add_task_set(parser)
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="another model's predictions: differences with p-values"
    )
    parser.add_argument(
        "--card",
        type=Path,
        metavar="FOLDER",
        help="write the scores into the card of the model or adapter that answered, in this folder",
    )
    add_extras(parser)
    if isinstance(task.answer, Text):
        parser.add_argument(
            "--controls",
            action="store_true",
            help="also score what must not score well: empty, constant, swapped and padded answers",
        )
        add_judge(parser)
    if task.fact == CRASH:
        parser.add_argument(
            "--skip-below",
            type=thresholds,
            metavar="P,…",
            help="also say which crashes `crashchat analyze --skip-below P` would pass over",
        )
    if task.before:
        parser.add_argument(
            "--crash-annotations",
            type=Path,
            metavar="FILE",
            help=f"{task.before} annotations of the same videos, which say when crashes begin (default: "
            "beside the questions)",
        )
    arguments = parser.parse_args(argv)
    if isinstance(task.answer, Text) and bool(arguments.judge) != bool(arguments.labels):
        parser.error("--judge needs --labels, and --labels --judge: a judge's figure alone says nothing")
    return arguments


def add_partial(parser: argparse.ArgumentParser) -> None:
    """The option that has a part of the questions scored."""
    parser.add_argument(
        "--partial",
        action="store_true",
        help="take predictions that lack some of the annotated questions (an error otherwise), and say so "
        "wherever a figure stands",
    )


def _run(task_name: str, argv: list[str]) -> None:
    arguments, task = _arguments(task_name, argv), TASKS[task_name]
    predictions = arguments.predictions or newest_predictions(task_name)
    crash_file = getattr(arguments, "crash_annotations", None)
    split = split_of(predictions) or (split_of(arguments.annotations) if arguments.annotations else None)
    columns = arguments.by.split(",") if arguments.by else []
    annotations = Annotations(
        arguments.data_dir, split, arguments.annotations, crash_file=crash_file, keep=tuple(columns)
    )
    crash_starts = annotations.starts(task, read_manifest(predictions))
    extras = extras_of(arguments)

    def read(path: Path) -> PredictionFile:
        return read_prediction_file(path, annotations, task_name, arguments.partial)

    def summed(file: PredictionFile) -> Sums:
        found = task_sums(task, file.records, crash_starts, extras)
        if found.counts.get("missing_video_count") == len(file.records):
            raise PredictionError(
                f"{file.path}: no record has a crash start, so nothing can be scored; "
                + (
                    f"{crash_file} names none of its videos"
                    if crash_file
                    else "give --crash-annotations FILE"
                )
            )
        return found

    out = arguments.out or predictions.parent
    if out.suffix not in (".json", ".csv"):
        out = out / metrics_path(predictions).name
    file = read(predictions)
    other = read(arguments.against) if arguments.against else None
    if arguments.card:
        from crashchat.evaluation.card_scores import check_card, write_scores_into_card  # imports torch

        check_card(arguments.card, file)
    judged, judged_text = {}, ""
    if getattr(arguments, "judge", None):  # first: what is wrong with it, nobody should wait for
        judged["judge"], words = judged_scores(arguments, file, out.parent)
        judged_text = f"\n\n{words}"
    sums = summed(file)
    scored = {"task": task_name, "protocol": arguments.protocol, **scores(sums, arguments.protocol)}
    table = score_table(scored, arguments.protocol)
    scored |= file.facts()
    text = "\n".join([f"{task_name}: {predictions}", *file.remarks(), "", table])
    if columns:
        found = [strata(file, sums, column, arguments.protocol) for column in columns]
        text += "".join(f"\n\n{one.table()}" for one in found)
        scored["by"] = {one.column: one.as_json() for one in found}
    if below := getattr(arguments, "skip_below", None):
        scored["skip_below"] = skip_scores(file.records, below, task.gt_fields[0])
        text += f"\n\n{skip_table(scored['skip_below'])}"
    if other:
        try:
            alone = paired(summed(other), sums, arguments.protocol)
        except ValueError as error:
            raise PredictionError(f"{predictions}, {arguments.against}: {error}") from error
        differences = dict(zip(alone, corrected(list(alone.values())), strict=True))
        remarks = [f"{arguments.against}: {remark}" for remark in other.remarks()]
        text += "\n\n" + "\n".join([*remarks, difference_table(differences, arguments.against)])
        scored["against"] = {**other.facts(), **{name: vars(found) for name, found in differences.items()}}
    if getattr(arguments, "controls", False):
        scored["controls"] = control_scores(task, file.records, extras)
        text += f"\n\ncontrols\n\n{control_table(sums.metrics(), scored['controls'])}"
    written = write_scores(scored | judged, out)
    print(f"{text}{judged_text}\n\nwritten: {written[0]}, {written[1]}")
    if arguments.card:
        count = write_scores_into_card(arguments.card, file, sums)
        print(f"{arguments.card}: {count} scores in its card")


@with_task_set
def main(argv: list[str]) -> int:
    """Command line: a task's name, and its options; returns the exit code."""
    if not argv or argv[0] not in TASKS:
        asked = bool(argv) and argv[0] in ("-h", "--help")
        found = f"error: found {argv[0]!r}, expected a task\n" if argv and not asked else ""
        print(
            f"{found}usage: crashchat score TASK … [--task-set FILE], TASK being one of {', '.join(TASKS)}",
            file=sys.stdout if asked else sys.stderr,
        )
        return 0 if asked else 2
    return exit_code(lambda: _run(argv[0], argv[1:]))
