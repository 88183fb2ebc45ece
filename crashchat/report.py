"""The comparison: several models' scores side by side, as a terminal table, metrics.json and a self-contained HTML page.

    python -m crashchat.report --data-dir data/demo --row base=outputs/demo/base \
        --row heterogeneous=outputs/demo/heterogeneous --losses outputs/demo/train/heterogeneous --out outputs/demo

A row is a name and the output folder of an evaluation. The no-accident answer, given to every question, is added as a row.
"""

import argparse
import base64
import io
import random
import sys
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, select_autoescape
from PIL import Image

from crashchat.files import write_json_atomic, write_text_atomic
from crashchat.metrics.localization import video_name
from crashchat.metrics.score import score
from crashchat.predictions import PredictionError, constant_answer, read_predictions, results_folder
from crashchat.tasks import TASKS
from crashchat.video import VideoError, read_clip

NO_ACCIDENT = "no-accident answer"
# What a table shows first: {task: [(metric, its name)]}. Strict figures: every question counts.
HEADLINES = {
    "crash_recognition": [("strict_macro_f1", "macro F1")],
    "crash_description": [("strict_BLEU", "BLEU"), ("strict_rougeL_f", "ROUGE-L"), ("strict_exact_match", "exact")],
    "causal_reasoning": [("strict_BLEU", "BLEU"), ("strict_rougeL_f", "ROUGE-L")],
    "prevention_reasoning": [("strict_BLEU", "BLEU"), ("strict_rougeL_f", "ROUGE-L")],
    "crash_localization": [
        ("strict_mIoU", "mIoU"),
        ("strict_AP@30", "AP@30"),
        ("strict_AP@50", "AP@50"),
        ("strict_AP@70", "AP@70"),
    ],
    "pre_crash_localization": [
        ("strict_mIoU", "mIoU"),
        ("strict_AP@30", "AP@30"),
        ("strict_AP@50", "AP@50"),
        ("strict_AP@70", "AP@70"),
    ],
}
STRIP_FRAMES = 8  # pictures of a clip
STRIP_HEIGHT = 84  # pixels
CRASH_CLIPS, CALM_CLIPS = 4, 2

Scores = dict[str, dict[str, dict]]  # {row: {task: {metric: value}}}
Records = dict[str, dict[str, list[dict]]]  # {row: {task: prediction records}}


class ReportError(Exception):
    """A report that cannot be made; the message names the row or file and what to do."""


@dataclass
class ClipCard:
    """One test clip in the page. strip: a picture as a data URI; times in seconds; answers: (task, truth, {row: answer})."""

    name: str
    seconds: float
    strip: str
    truth: dict
    predictions: dict[str, dict]
    answers: list[tuple[str, str, dict[str, str]]]


def read_row(name: str, folder: Path) -> dict[str, list[dict]]:
    """{task: records} of one evaluation's output folder. Raises ReportError for none, or for several models' files."""
    found = {}
    for task in TASKS:
        paths = sorted(results_folder(folder, task).glob("*/*_predict.json"))
        if len(paths) > 1:
            raise ReportError(f"row {name}: {folder} holds {len(paths)} prediction files for {task}; name a folder of one model")
        if paths:
            found[task] = read_predictions(paths[0], task)
    if not found:
        raise ReportError(
            f"row {name}: no prediction files in {folder}; expected <task>_evaluation_results/<model>/…_predict.json"
        )
    return found


def collect(rows: dict[str, Path]) -> Records:
    """The records of all rows, and the no-accident answer to every question that any of them was asked."""
    records = {name: read_row(name, folder) for name, folder in rows.items()}
    asked = {task: row[task] for row in records.values() for task in row}
    for name, row in records.items():
        for task, answered in row.items():
            questions = {(record["data_id"], video_name(record["video_path"])) for record in answered}
            expected = {(record["data_id"], video_name(record["video_path"])) for record in asked[task]}
            if questions != expected:
                raise ReportError(f"row {name}: {task} was asked about other videos than in another row; evaluate all rows alike")
    constant = {task: constant_answer(TASKS[task], asked[task]) for task in TASKS if task in asked}
    first, *others = records
    return {first: records[first], NO_ACCIDENT: constant} | {name: records[name] for name in others}


def score_rows(records: Records) -> Scores:
    """{row: {task: {metric: value}}} of all rows."""
    return {name: {task: score(task, answered) for task, answered in row.items()} for name, row in records.items()}


def best_rows(scores: Scores, task: str, metric: str) -> set[str]:
    """The rows with the highest value of a metric."""
    values = {name: row[task][metric] for name, row in scores.items() if task in row and row[task].get(metric) is not None}
    return {name for name, value in values.items() if value == max(values.values())}


def shown(scores: Scores, row: str, task: str, metric: str) -> str:
    """A figure as text; `—` where the row was not asked, `not computed` where it cannot be computed."""
    if task not in scores[row]:
        return "—"
    value = scores[row][task].get(metric)
    if value is None:
        return "not computed"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def comparison_table(scores: Scores) -> str:
    """The headline figures as a terminal table, a block a task, a line a row; `*` marks the best."""
    width = max(map(len, scores))
    lines = []
    for task, metrics in HEADLINES.items():
        if not any(task in row for row in scores.values()):
            continue
        lines.append(
            f"{task:{max(width, 24)}}" + "".join(f"{label:>12}" for _, label in metrics) + f"{'unparsed':>12}{'failed':>8}"
        )
        for row in scores:
            if task not in scores[row]:
                continue
            cells = ""
            for metric, _ in metrics:
                mark = "*" if row in best_rows(scores, task, metric) else " "
                cells += f"{shown(scores, row, task, metric):>11}{mark}"
            counts = f"{scores[row][task]['num_unparsed']:>12}{scores[row][task]['num_failed']:>8}"
            lines.append(f"{row:{max(width, 24)}}" + cells + counts)
        lines.append("")
    return "\n".join(lines).rstrip()


def _film_strip(path: Path) -> tuple[str, float]:
    """A clip's frames side by side as a JPEG data URI, and the clip's length in seconds."""
    clip = read_clip(path, fps=10, max_frames=600)
    length = clip.seconds[-1] + 0.1
    picked = [round(index * (len(clip.frames) - 1) / (STRIP_FRAMES - 1)) for index in range(STRIP_FRAMES)]
    images = [Image.fromarray(clip.frames[index].permute(1, 2, 0).contiguous().numpy()) for index in picked]
    size = (round(images[0].width * STRIP_HEIGHT / images[0].height), STRIP_HEIGHT)
    strip = Image.new("RGB", (size[0] * STRIP_FRAMES, STRIP_HEIGHT))
    for index, image in enumerate(images):
        strip.paste(image.resize(size, Image.Resampling.BICUBIC), (index * size[0], 0))
    file = io.BytesIO()
    strip.save(file, "JPEG", quality=82)
    return _data_uri(file.getvalue(), "image/jpeg"), length


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def clip_cards(records: Records, data_dir: Path, seed: int = 0) -> list[ClipCard]:
    """A few clips of the first row's, drawn by a seed: crashes and calm ones, with every row's answers."""
    by_video: dict[str, dict[str, dict[str, dict]]] = {}
    for row, tasks in records.items():
        for task, answered in tasks.items():
            for record in answered:
                by_video.setdefault(video_name(record["video_path"]), {}).setdefault(task, {})[row] = record
    crashes = sorted(name for name, tasks in by_video.items() if "crash_localization" in tasks)
    calm = sorted(name for name in by_video if name not in crashes)
    draw = random.Random(seed)
    picked = draw.sample(crashes, min(CRASH_CLIPS, len(crashes))) + draw.sample(calm, min(CALM_CLIPS, len(calm)))
    cards = []
    for name in picked:
        tasks = by_video[name]
        some = next(iter(next(iter(tasks.values())).values()))
        path = Path(some["video_path"])
        path = path if path.is_file() else data_dir / "videos" / name
        try:
            strip, seconds = _film_strip(path)
        except VideoError as error:
            raise ReportError(f"a clip of the predictions cannot be shown: {error}; check --data-dir") from error
        predictions = {row: {} for row in records if row != NO_ACCIDENT}
        truth = {}
        for task in ("crash_localization", "pre_crash_localization"):
            for row, record in tasks.get(task, {}).items():
                truth |= {field: record[field] for field in TASKS[task].gt_fields}
                if row in predictions:
                    predictions[row] |= {field: record[field] for field in TASKS[task].pred_fields}
        answers = []
        for task in TASKS:
            if task in tasks:
                given = {row: record["raw_response"] for row, record in tasks[task].items() if row != NO_ACCIDENT}
                record = next(iter(tasks[task].values()))
                answers.append((task, " – ".join(str(record[field]) for field in TASKS[task].gt_fields), given))
        cards.append(ClipCard(name, seconds, strip, truth, predictions, answers))
    return cards


def render(scores: Scores, cards: list[ClipCard], loss_plot: Path | None) -> str:
    """The page, with everything it shows inside it."""
    environment = Environment(
        loader=PackageLoader("crashchat"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    every = {
        task: sorted(
            {metric for row in scores.values() for metric in row.get(task, {}) if metric != "confusion"},
            key=lambda metric: (metric.removeprefix("strict_"), metric),
        )
        for task in TASKS
    }
    return environment.get_template("report.html").render(
        scores=scores,
        headlines={task: metrics for task, metrics in HEADLINES.items() if every[task]},
        every={task: metrics for task, metrics in every.items() if metrics},
        shown=lambda row, task, metric: shown(scores, row, task, metric),
        best=lambda task, metric: best_rows(scores, task, metric),
        cards=cards,
        loss_plot=_data_uri(loss_plot.read_bytes(), "image/png") if loss_plot else None,
    )


def write_report(rows: dict[str, Path], data_dir: Path, out: Path, losses: Path | None = None) -> Scores:
    """Write metrics.json and report.html to `out`; returns the scores."""
    records = collect(rows)
    scores = score_rows(records)
    loss_plot = losses / "loss.png" if losses else None
    if loss_plot and not loss_plot.is_file():
        raise ReportError(f"no loss curve at {loss_plot}; --losses names the output folder of a training run")
    page = render(scores, clip_cards(records, data_dir), loss_plot)
    write_json_atomic(out / "metrics.json", scores)
    write_text_atomic(out / "report.html", page)
    return scores


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m crashchat.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", required=True, metavar="NAME=FOLDER", help="a model's evaluation output folder")
    parser.add_argument("--data-dir", type=Path, default=Path("data"), help="where the clips are (default data)")
    parser.add_argument("--losses", type=Path, help="output folder of a training run, for its loss curve")
    parser.add_argument("--out", type=Path, required=True, help="folder for report.html and metrics.json")
    arguments = parser.parse_args(argv)
    try:
        pairs = [row.partition("=") for row in arguments.row]
        if any(not equals or not folder for _, equals, folder in pairs):
            raise ReportError(f"--row is NAME=FOLDER, found {arguments.row}")
        rows = {name: Path(folder) for name, _, folder in pairs}
        scores = write_report(rows, arguments.data_dir, arguments.out, arguments.losses)
    except (ReportError, PredictionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(comparison_table(scores))
    print(f"\nreport: {arguments.out / 'report.html'}\nfigures: {arguments.out / 'metrics.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
