"""The comparison: several models' scores side by side, as a terminal table, metrics.json and a self-contained HTML page.

    python -m crashchat.report --data-dir data/demo --row base=outputs/demo/base \
        --row heterogeneous=outputs/demo/heterogeneous --losses outputs/demo/train/heterogeneous --out outputs/demo

A row is a name and the output folder of an evaluation; it may hold fewer than six tasks. The no-accident answer, given to
every question, is added as a row.
"""

import argparse
import json
import sys
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape

from crashchat.annotations import AnnotationError
from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.metrics.score import STRICT, read_crash_starts, score
from crashchat.plots import ClipCard, Records, clip_cards, data_uri, losses_png
from crashchat.predictions import PredictionError, constant_answer, prediction_path, read_predictions, results_folder, video_name
from crashchat.tasks import GROUPS, SPLITS, TASKS
from crashchat.video import VideoError

NO_ACCIDENT = "no-accident answer"
_TEXT = [("strict_BLEU", "BLEU"), ("strict_rougeL_f", "ROUGE-L")]
_TIMES = [(f"strict_{name}", name) for name in ("mIoU", "AP@30", "AP@50", "AP@70")]
# What a table shows first: {task: [(metric, its name)]}. Strict figures: every question counts.
HEADLINES = {
    "crash_recognition": [("strict_macro_f1", "macro F1")],
    "crash_description": _TEXT,
    "causal_reasoning": _TEXT,
    "prevention_reasoning": _TEXT,
    "crash_localization": _TIMES,
    "pre_crash_localization": _TIMES,
}
TITLES = {
    "crash_recognition": "recognition",
    "crash_description": "description",
    "causal_reasoning": "causes",
    "prevention_reasoning": "prevention",
    "crash_localization": "crash interval",
    "pre_crash_localization": "first sign",
}
# Which figures are scores, by the start of their names; of the errors the lowest is best, of all else nothing is.
_HIGHER = ("Accuracy", "Precision", "Recall", "F1", "macro_", "BLEU", "rouge", "exact_match", "mIoU", "AP@", "BERTScore")
_LOWER = ("start_MAE", "end_MAE", "TTA_MAE")

Scores = dict[str, dict[str, dict]]  # {row: {task: {metric: value}}}


class ReportError(Exception):
    """A report that cannot be made; the message names the row or file, the cause, and what to do."""


def read_row(name: str, folder: Path, split: str = "test") -> dict[str, list[dict]]:
    """{task: records} of one model's answers in `folder`. Raises ReportError for none, or for those of several models."""
    found, models = {}, set()
    for task in TASKS:
        paths = sorted(results_folder(folder, task).glob(f"*/{prediction_path('', task, '', split).name}"))
        if len(paths) > 1:
            raise ReportError(f"row {name}: {folder} holds {len(paths)} prediction files for {task}; name a folder of one model")
        if paths:
            found[task] = read_predictions(paths[0], task)
            models.add(paths[0].parent.name)
    if not found:
        raise ReportError(
            f"row {name}: no prediction files of the {split} split in {folder}; "
            f"expected {prediction_path('', '<task>', '<model>', split)} there; evaluate with output_dir={folder} first"
        )
    if len(models) > 1:
        raise ReportError(f"row {name}: {folder} mixes the models {', '.join(sorted(models))}; name a folder of one model")
    return found


def collect(rows: dict[str, Path], split: str = "test") -> Records:
    """The records of all rows, and the no-accident answer to every question that any of them was asked.

    Raises ReportError when a row cannot be read, or two rows were not asked the same questions of a task.
    """
    records = {name: read_row(name, folder, split) for name, folder in rows.items()}
    asked: dict[str, list[dict]] = {}
    for name, row in records.items():
        for task, answered in row.items():
            if _questions(answered) != _questions(asked.setdefault(task, answered)):
                raise ReportError(f"row {name}: {task} was asked about other videos than in another row; evaluate all rows alike")
    constant = {task: constant_answer(TASKS[task], asked[task]) for task in TASKS if task in asked}
    first, *others = records
    return {first: records[first], NO_ACCIDENT: constant} | {name: records[name] for name in others}


def _questions(answered: list[dict]) -> set:
    return {(record["data_id"], video_name(record["video_path"])) for record in answered}


def score_rows(records: Records, crash_annotations: Path | None = None) -> Scores:
    """{row: {task: {metric: value}}} of all rows.

    crash_annotations: crash_localization annotations, for pre-crash answers that carry no crash start of their own.
    """
    pre_crash = [record for row in records.values() for record in row.get("pre_crash_localization", [])]
    starts = None
    if crash_annotations and crash_annotations.is_file() and any(record.get("crash_start") is None for record in pre_crash):
        starts = read_crash_starts(crash_annotations)
    return {name: {task: score(task, answered, starts) for task, answered in row.items()} for name, row in records.items()}


def best_rows(scores: Scores, task: str, metric: str) -> set[str]:
    """The rows with the best value of a metric; none where all are alike or the metric has no better and worse."""
    plain = metric.removeprefix(STRICT)
    values = {name: row[task].get(metric) for name, row in scores.items() if task in row}
    values = {name: value for name, value in values.items() if value is not None}
    if not plain.startswith(_HIGHER + _LOWER) or len(set(values.values())) < 2:
        return set()
    best = (max if plain.startswith(_HIGHER) else min)(values.values())
    return {name for name, value in values.items() if value == best}


def shown(scores: Scores, row: str, task: str, metric: str) -> str:
    """A figure as text; `—` where the row was not asked, `not computed` where it cannot be computed."""
    if task not in scores[row]:
        return "—"
    value = scores[row][task].get(metric)
    if value is None:
        return "not computed"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def comparison_table(scores: Scores) -> str:
    """The headline figures as two terminal tables, a line a row, as in the paper: the linguistic and the perception tasks.

    `*` marks the best, `—` a task that a row was not asked; `void` counts answers that do not parse and failed videos.
    """
    width = max(map(len, scores))
    blocks = []
    for group, tasks in GROUPS.items():
        tasks = [task for task in tasks if any(task in row for row in scores.values())]
        rows = [name for name, row in scores.items() if any(task in row for task in tasks)]
        if not rows:
            continue
        lines = [[f"{group:{width}}"], [" " * width]] + [[f"{name:{width}}"] for name in rows]
        for task in tasks:
            columns = []
            for metric, label in HEADLINES[task]:
                best = best_rows(scores, task, metric)
                cells = [shown(scores, name, task, metric) + ("*" if name in best else " ") for name in rows]
                columns.append([label, *cells])
            columns.append(["void", *(str(_void(scores[name][task])) if task in scores[name] else "—" for name in rows)])
            widths = [max(map(len, column)) for column in columns]
            block = [TITLES[task]]
            for cells in zip(*columns, strict=True):
                block.append(" ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True)))
            wide = max(map(len, block))
            for line, text in zip(lines, [f"{block[0]:^{wide}}", *(f"{text:>{wide}}" for text in block[1:])], strict=True):
                line.append(text)
        blocks.append("\n".join(" │ ".join(line).rstrip() for line in lines))
    return "\n\n".join(blocks)


def _void(metrics: dict) -> int:
    return metrics["num_unparsed"] + metrics["num_failed"]


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


def _flat_metrics(metrics: dict) -> dict:
    """Confusion counts beside the other figures: {metric: value} without inner dicts."""
    flat = {key: value for key, value in metrics.items() if not isinstance(value, dict)}
    for truth, counts in metrics.get("confusion", {}).items():
        flat |= {f"annotated {truth}, answered {answer}": count for answer, count in counts.items()}
    return flat


def render(scores: Scores, cards: list[ClipCard], judged: str, losses: bytes | None, split: str) -> str:
    """The page, with everything it shows inside it."""
    environment = Environment(
        loader=PackageLoader("crashchat"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    flat = {row: {task: _flat_metrics(metrics) for task, metrics in tasks.items()} for row, tasks in scores.items()}
    every = {}
    for task in TASKS:
        names = list(dict.fromkeys(name for row in flat.values() for name in row.get(task, {})))
        strict = [name for name in names if name.startswith(STRICT)]
        released = [name for name in names if STRICT + name in strict or name.startswith(_HIGHER + _LOWER)]
        counts = [name for name in names if name not in strict and name not in released]
        if names:
            every[task] = (
                ("strict: every question counts", strict),
                ("released: only what parses counts", released),
                ("counts", counts),
            )
    return environment.get_template("report.html").render(
        scores=scores,
        headlines={task: metrics for task, metrics in HEADLINES.items() if task in every},
        every=every,
        titles=TITLES,
        split=split,
        shown=lambda row, task, metric: shown(flat, row, task, metric),
        best=lambda task, metric: best_rows(flat, task, metric),
        cards=cards,
        judged=judged,
        no_accident=NO_ACCIDENT,
        loss_plot=data_uri(losses, "image/png") if losses else None,
    )


def write_report(rows: dict[str, Path], data_dir: Path, out: Path, losses: Path | None = None, split: str = "test") -> Scores:
    """Write metrics.json and report.html to `out`; returns the scores. rows: {name: folder}; losses: a training's output folder.

    Raises ReportError, PredictionError or AnnotationError for what cannot be used; then nothing is written.
    """
    records = collect(rows, split)
    scores = score_rows(records, data_dir / TASKS["crash_localization"].annotation_file(split))
    curve = loss_picture(losses) if losses else None
    try:
        cards, judged = clip_cards({name: row for name, row in records.items() if name != NO_ACCIDENT}, data_dir)
    except VideoError as error:
        raise ReportError(f"a clip of the predictions cannot be shown: {error}; check --data-dir ({data_dir})") from error
    page = render(scores, cards, judged, curve, split)
    write_json_atomic(out / "metrics.json", scores)
    write_text_atomic(out / "report.html", page)
    return scores


def parse_rows(texts: list[str]) -> dict[str, Path]:
    """NAME=FOLDER of the command line as {name: folder}. Raises ReportError for another form or a name given twice."""
    rows: dict[str, Path] = {}
    for text in texts:
        name, _, folder = text.partition("=")
        if not name or not folder:
            raise ReportError(f"--row is NAME=FOLDER, found {text!r}")
        if name in rows or name == NO_ACCIDENT:
            raise ReportError(f"--row {text}: there is a row {name!r} already; give it another name")
        rows[name] = Path(folder)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m crashchat.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", required=True, metavar="NAME=FOLDER", help="a model's evaluation output folder")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the clips and annotations are (default data)")
    parser.add_argument("--split", choices=SPLITS, default="test", help="which split was answered (default test)")
    parser.add_argument("--losses", type=Path, metavar="FOLDER", help="output folder of a training run, for its loss curve")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for report.html and metrics.json")
    arguments = parser.parse_args(argv)
    try:
        scores = write_report(parse_rows(arguments.row), arguments.data_dir, arguments.out, arguments.losses, arguments.split)
    except (ReportError, PredictionError, AnnotationError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(comparison_table(scores))
    print("\n* best   — not asked   void: answers that do not parse and videos that failed, counted as wrong")
    print(f"figures: {arguments.out / 'metrics.json'}\nreport:  {arguments.out / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
