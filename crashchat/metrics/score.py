"""A prediction file to its scores: the dispatcher, the table, the files, and the command of the six metric scripts."""

import argparse
import csv
import io
import sys
from pathlib import Path

from crashchat.annotations import AnnotationError, load_annotations
from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.metrics.localization import crash_localization, pre_crash_localization, video_name
from crashchat.metrics.recognition import recognition
from crashchat.metrics.text import text
from crashchat.predictions import PredictionError, prediction_path, read_predictions, results_folder
from crashchat.tasks import TASKS

STRICT = "strict_"


def score(task_name: str, records: list[dict], crash_starts: dict[str, float] | None = None) -> dict:
    """{metric: value} of one task's records (as read_predictions gives them); see crashchat.metrics for the keys.

    crash_starts: {video file name: seconds}, for pre-crash records that carry no crash_start. Raises KeyError for an
    unknown task.
    """
    task = TASKS[task_name]
    if task_name == "crash_recognition":
        return recognition(records)
    if task_name == "crash_localization":
        return crash_localization(records)
    if task_name == "pre_crash_localization":
        return pre_crash_localization(records, crash_starts)
    return text(records, task.gt_fields[0], task.pred_fields[0])


def score_table(metrics: dict) -> str:
    """The scores as a terminal table: what was counted, then a line a metric, released and strict side by side."""
    width = max(len(key.removeprefix(STRICT)) for key in metrics)
    counts = [key for key in metrics if key.startswith("num_") or key.endswith("_count")]
    lines = [f"{key:{width}}  {metrics[key]:>12}" for key in counts]
    lines += ["", f"{'metric':{width}}  {'released':>12}  {'strict':>12}"]
    for key, value in metrics.items():
        if key in counts or key.startswith(STRICT) or isinstance(value, dict):
            continue
        strict = _shown(metrics[STRICT + key]) if STRICT + key in metrics else ""
        lines.append(f"{key:{width}}  {_shown(value):>12}  {strict:>12}".rstrip())
    for truth, row in metrics.get("confusion", {}).items():
        lines.append(f"truth {truth}: answered " + ", ".join(f"{answer} {count}" for answer, count in row.items()))
    return "\n".join(lines)


def _shown(value: float | int | None) -> str:
    if value is None:
        return "not computed"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def write_scores(metrics: dict, out: str | Path) -> tuple[Path, Path]:
    """Write `out` (a .json path) and the same scores beside it as .csv (metric,value); returns both paths.

    An inner dict becomes dotted names in the CSV (confusion.Yes.No); None is an empty cell there and null in JSON.
    """
    json_path = Path(out).with_suffix(".json")
    csv_path = json_path.with_suffix(".csv")
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("metric", "value"))
    writer.writerows(_flat(metrics))
    write_json_atomic(json_path, metrics)
    write_text_atomic(csv_path, table.getvalue())
    return json_path, csv_path


def _flat(metrics: dict, prefix: str = "") -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = []
    for key, value in metrics.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(prefix + key, value)]
    return rows


def read_crash_starts(path: str | Path) -> dict[str, float]:
    """{video file name: annotated crash start in seconds} of an annotation file with crash_localization questions.

    Raises AnnotationError when the file cannot be used, PredictionError when it gives one file name two crash starts.
    """
    task = TASKS["crash_localization"]
    starts: dict[str, float] = {}
    # The folder of the videos is of no matter here: they are joined by file name and never opened.
    for video in load_annotations([path], data_dir=".", tasks=[task.name]):
        name, start = video_name(video.name), task.ground_truth(video.answer_of(task.name))["gt_start"]
        if starts.setdefault(name, start) != start:
            raise PredictionError(f"{path}: two videos are called {name}, with crash starts {starts[name]} and {start}")
    return starts


def newest_predictions(task_name: str, output_dir: str | Path = "outputs") -> Path:
    """The newest prediction file of a task under `output_dir`. Raises PredictionError, saying what was looked for."""
    folder = results_folder(output_dir, task_name)
    pattern = prediction_path(output_dir, task_name, "*", split="*").relative_to(folder)
    found = sorted(folder.glob(str(pattern)), key=lambda path: path.stat().st_mtime)
    if not found:
        raise PredictionError(
            f"no prediction file: looked for {folder / pattern} in {Path.cwd()}; "
            f"run scripts/eval/eval_video_{task_name}.sh first, or give --predictions FILE"
        )
    return found[-1]


def _arguments(task_name: str, argv: list[str] | None) -> argparse.Namespace:
    script = f"scripts/eval/compute_{task_name}_metrics.py"
    parser = argparse.ArgumentParser(
        description=f"Scores {task_name} predictions: the released scripts' numbers (which drop answers that do not "
        f"parse) and beside them strict ones, in which every question counts. Prints a table, writes JSON and CSV.",
        epilog=f"example: python {script} --predictions {prediction_path('outputs', task_name, 'my_model')}",
    )
    folder = results_folder("outputs", task_name)
    parser.add_argument("--predictions", type=Path, metavar="FILE", help=f"prediction file (default: the newest in {folder}/*/)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR_OR_FILE",
        help="a folder, or a file ending in .json (default: <predictions>_metrics.json beside the predictions); "
        "the .csv goes beside it",
    )
    if task_name == "pre_crash_localization":
        parser.add_argument(
            "--crash-annotations",
            type=Path,
            metavar="FILE",
            help="crash_localization annotations of the same videos, for predictions that carry no crash_start",
        )
    return parser.parse_args(argv)


def _run(task_name: str, argv: list[str] | None) -> None:
    arguments = _arguments(task_name, argv)
    predictions = arguments.predictions or newest_predictions(task_name)
    records = read_predictions(predictions, task_name)
    annotations = getattr(arguments, "crash_annotations", None)
    crash_starts = read_crash_starts(annotations) if annotations else None
    metrics = score(task_name, records, crash_starts)
    if metrics.get("missing_video_count") == len(records):
        raise PredictionError(
            f"{predictions}: no record has a crash start, so nothing can be scored; "
            + (f"{annotations} names none of its videos" if annotations else "give --crash-annotations FILE")
        )
    out = arguments.out or predictions.parent
    if out.suffix not in (".json", ".csv"):
        out = out / f"{predictions.stem}_metrics.json"
    written = write_scores(metrics, out)
    print(f"{task_name}: {predictions}\n\n{score_table(metrics)}\n\nwritten: {written[0]}, {written[1]}")


def main(task_name: str, argv: list[str] | None = None) -> int:
    """The command of scripts/eval/compute_<task>_metrics.py; returns its exit code."""
    try:
        _run(task_name, argv)
    except (PredictionError, AnnotationError, OSError) as fault:
        print(f"error: {fault}", file=sys.stderr)
        return 1
    return 0
