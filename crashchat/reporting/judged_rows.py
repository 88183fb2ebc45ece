"""What judges said of the rows' texts, as `crashchat score TASK --judge …` left it beside the prediction
files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from crashchat.data.prediction_files import PredictionFile
from crashchat.evaluation.score import metrics_path
from crashchat.json_files import read_json
from crashchat.provenance import file_hash
from crashchat.reporting.runs import ReportError, Run
from crashchat.reporting.tables import Scores, Table, filled
from crashchat.tasks import TASKS

COLUMNS = (("judged_corrected", "corrected"), ("judged_raw", "raw"))
Verdicts = dict[Path, dict]  # {prediction file: what crashchat score wrote under "judge"}


def read_verdicts(runs: Mapping[str, Sequence[Run]]) -> tuple[Verdicts, list[str]]:
    """What judges said of the rows' files, and what a reader must know of it, a sentence each.

    Scores of a prediction file that was written anew since are left out, and the notes say so. Raises
    ReportError for scores that cannot be read.
    """
    found: Verdicts = {}
    notes = []
    for name, of_row in runs.items():
        for task, file in (pair for run in of_row for pair in run.items()):
            judged, stale = _verdict(file)
            if stale:
                notes.append(
                    f"{name}, {TASKS[task].title}: a judge's figures in {metrics_path(file.path)} are not "
                    "shown: the prediction file is another one since; score it again."
                )
            elif judged:
                found[file.path] = judged
                passing = [control for control, row in judged["controls"].items() if row["passes"]]
                if passing:
                    notes.append(
                        f"{name}, {TASKS[task].title}: the judge lets pass what must not score well "
                        f"({', '.join(passing)})."
                    )
    return found, notes


def _verdict(file: PredictionFile) -> tuple[dict | None, bool]:
    """What a judge said of a file, None without one; and whether it was said of another content."""
    path = metrics_path(file.path)
    if not path.is_file():
        return None, False
    scored = read_json(path, ReportError, "the scores of a prediction file")
    if not isinstance(scored, dict) or not isinstance(scored.get("judge"), dict):
        return None, False
    return scored["judge"], scored.get("predictions_sha256") != file_hash(file.path)


def judged_tables(runs: Mapping[str, Sequence[Run]], verdicts: Verdicts) -> list[Table]:
    """A table a judge: figures of another judge, rubric or set of labels are no comparison. Each run of a
    row is a line of its own.
    """
    by_judge: dict[str, Scores] = {}
    for name, of_row in runs.items():
        for number, run in enumerate(of_row, start=1):
            line = name if len(of_row) == 1 else f"{name} (run {number})"
            for task, file in run.items():
                if judged := verdicts.get(file.path):
                    by_judge.setdefault(_judge_of(judged), {}).setdefault(line, {})[task] = _figures(judged)
    tables = []
    for judge, scores in by_judge.items():
        columns = [
            (TASKS[task].title, heading, task, metric)
            for task in TASKS
            if any(task in row for row in scores.values())
            for metric, heading in COLUMNS
        ]
        tables.append(filled(Table(f"texts judged right by {judge}", columns), scores))
    return tables


def _judge_of(judged: dict) -> str:
    """The judge's name, with what its figures depend on."""
    who = " ".join(judged["judge"][key] for key in ("model", "address") if key in judged["judge"])
    return f"{who}, rubric {judged['rubric'][:12]}, labels {judged['labels']['sha256'][:12]}"


def _figures(judged: dict) -> dict:
    answers = judged["answers"]
    return {
        "judged_corrected": answers["corrected"],
        "judged_raw": answers["raw"],
        "intervals": {"judged_corrected": answers["intervals"]["corrected"]},
    }
