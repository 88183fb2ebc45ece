"""The report: figures of several rows side by side, from real prediction files and clips."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.files import write_json_atomic
from crashchat.predictions import make_record, prediction_path
from crashchat.report import NO_ACCIDENT, ReportError, collect
from crashchat.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]


def write_row(folder: Path, data: Path, answer, tasks=tuple(TASKS)) -> Path:
    """Prediction files of a made-up model: answer(task, annotated answer) -> its answer."""
    for name in tasks:
        task = TASKS[name]
        records = json.loads((data / task.annotation_file("test")).read_text())
        starts = {}
        for record in json.loads((data / TASKS["crash_localization"].annotation_file("test")).read_text()):
            starts[record["video"][0]] = float(record["conversations"][1]["value"].split()[0])
        made = [
            make_record(
                task,
                index,
                str(data / record["video"][0]),
                task.prompt,
                answer(task, record["conversations"][1]["value"]),
                record["conversations"][1]["value"],
                crash_start=starts.get(record["video"][0]),
            )
            for index, record in enumerate(records)
        ]
        write_json_atomic(prediction_path(folder, name, "model"), made)
    return folder


@pytest.fixture
def rows(tiny_data, tmp_path) -> dict[str, Path]:
    """A model that is always right, one that says nothing that parses, and one that was asked two tasks."""
    return {
        "mute": write_row(tmp_path / "mute", tiny_data, lambda task, truth: ""),
        "perfect": write_row(tmp_path / "perfect", tiny_data, lambda task, truth: truth),
        "partial": write_row(tmp_path / "partial", tiny_data, lambda task, truth: truth, list(TASKS)[-2:]),
    }


def test_the_command_writes_figures_and_a_page_that_asks_no_other_host(rows, tiny_data, tmp_path):
    words = [word for name, folder in rows.items() for word in ("--row", f"{name}={folder}")]
    out = tmp_path / "out"
    command = [sys.executable, "-m", "crashchat.report", "--data-dir", tiny_data, *words, "--out", out]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert str(out / "report.html") in done.stdout and "macro F1" in done.stdout

    figures = json.loads((out / "metrics.json").read_text())
    assert list(figures) == ["mute", NO_ACCIDENT, "perfect", "partial"]
    assert figures["perfect"]["crash_recognition"]["strict_macro_f1"] == 1
    assert figures["perfect"]["pre_crash_localization"]["strict_mIoU"] == 1
    assert figures["mute"]["crash_localization"]["strict_mIoU"] == 0
    assert figures["mute"]["crash_localization"]["num_unparsed"] == 2
    assert figures[NO_ACCIDENT]["crash_recognition"]["strict_Accuracy"] == 0.5
    assert set(figures["partial"]) == {"crash_localization", "pre_crash_localization"}

    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)", page) and "http" not in page
    assert "<b>1.000</b>" in page and "—" in page
    assert page.count("data:image/jpeg") == 4 and "no-accident answer" in page


def test_what_cannot_be_compared_is_refused(rows, tiny_data, tmp_path):
    with pytest.raises(ReportError, match="no prediction files in"):
        collect({"empty": tmp_path / "nowhere"})
    path = prediction_path(rows["perfect"], "crash_recognition", "model")
    write_json_atomic(path, json.loads(path.read_text())[:-1])
    with pytest.raises(ReportError, match="asked about other videos"):
        collect(rows)
    write_json_atomic(prediction_path(rows["mute"], "crash_recognition", "another"), json.loads(path.read_text()))
    with pytest.raises(ReportError, match="2 prediction files for crash_recognition"):
        collect({"mute": rows["mute"]})
