"""The report: figures of several rows side by side, from real prediction files and clips."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.files import write_json_atomic
from crashchat.plots import clip_cards
from crashchat.predictions import make_record, prediction_path
from crashchat.report import (
    NO_ACCIDENT,
    ReportError,
    best_rows,
    collect,
    comparison_table,
    loss_picture,
    main,
    parse_rows,
    score_rows,
    write_report,
)
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


def run(rows: dict[str, Path], data: Path, out: Path, *more) -> subprocess.CompletedProcess:
    """The command as a user gives it."""
    words = [word for name, folder in rows.items() for word in ("--row", f"{name}={folder}")]
    command = [sys.executable, "-m", "crashchat.report", "--data-dir", data, "--split", "test", *words, "--out", out, *more]
    return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)


def test_the_command_writes_figures_and_a_page_that_asks_no_other_host(rows, tiny_data, tmp_path):
    checkpoint = tmp_path / "train" / "checkpoint-2"
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.6}]
    write_json_atomic(checkpoint / "trainer_state.json", {"log_history": history})
    out = tmp_path / "out"
    done = run(rows, tiny_data, out, "--losses", checkpoint.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(str(out / "report.html"))

    figures = json.loads((out / "metrics.json").read_text())
    assert list(figures) == ["mute", NO_ACCIDENT, "perfect", "partial"]
    assert figures["perfect"]["crash_recognition"]["strict_macro_f1"] == 1
    assert figures["perfect"]["pre_crash_localization"]["strict_mIoU"] == 1
    assert figures["mute"]["crash_localization"]["strict_mIoU"] == 0
    assert figures["mute"]["crash_localization"]["num_unparsed"] == 2
    assert figures[NO_ACCIDENT]["crash_recognition"]["strict_Accuracy"] == 0.5
    assert set(figures["partial"]) == {"crash_localization", "pre_crash_localization"}

    page = (out / "report.html").read_text()
    assert not re.search(r"(src|href)\s*=\s*[\"'](?!data:)|url\(|@import|<script|<link", page) and "http" not in page
    assert page.count("data:image/jpeg") == 4 and page.count("data:image/png") == 1
    # The first table: a line a row, fifteen figures each.
    lines = re.findall(r"<tr[^>]*><th>(.*?)</th>\n(.*?)</tr>", page.split("<tbody>")[1].split("</tbody>")[0], re.DOTALL)
    cells = {name: re.findall(r"<td[^>]*>(.*?)</td>", line) for name, line in lines}
    assert list(cells) == list(figures)
    # Corpus BLEU-4 of very short texts stays below 1 even where all are right: two words hold no four in a row.
    bleu = f"<b>{figures['perfect']['crash_description']['strict_BLEU']:.3f}</b>"
    assert cells["perfect"] == ["<b>1.000</b>", bleu, *["<b>1.000</b>"] * 13]
    assert cells["partial"] == ["—"] * 7 + ["<b>1.000</b>"] * 8
    assert cells["mute"] == ["0.000"] * 15

    table = done.stdout.splitlines()
    assert max(map(len, table)) <= 120 or str(out) in max(table, key=len)
    perfect = [line for line in table if line.startswith("perfect")]
    assert [line.count("*") for line in perfect] == [7, 8]
    assert [line.count("1.000*") for line in table if line.startswith("partial")] == [8]


def test_a_row_that_lacks_some_tasks_of_a_table_has_dashes_there(rows, tiny_data, tmp_path):
    one = write_row(tmp_path / "one", tiny_data, lambda task, truth: truth, ["crash_recognition"])
    table = comparison_table(score_rows(collect({"mute": rows["mute"], "one": one})))
    line = next(line for line in table.splitlines() if line.startswith("one"))
    assert line.split() == ["one", "│", "1.000*", "0", *["│", "—", "—", "—"] * 3]


def test_the_best_is_marked_only_where_there_is_a_better_and_a_worse():
    figures = {
        "TTA_MAE": (0.5, 0.2),
        "mTTA_pred": (1.0, 2.0),
        "strict_mIoU": (0.3, 0.3),
        "mIoU": (None, 0.3),
        "AP@30": (0.1, 0.4),
    }
    task = "pre_crash_localization"
    scores = {row: {task: {key: pair[at] for key, pair in figures.items()}} for at, row in enumerate("ab")}
    best = {key: best_rows(scores, task, key) for key in figures}
    assert best == {"TTA_MAE": {"b"}, "mTTA_pred": set(), "strict_mIoU": set(), "mIoU": set(), "AP@30": {"b"}}


def test_clips_are_drawn_by_seed_and_answers_shown_as_text(rows, tiny_data, tmp_path):
    odd = write_row(tmp_path / "odd", tiny_data, lambda task, truth: "<b>maybe</b> 1.0 - 2.0" if "local" in task.name else "No")
    records = collect({"mute": rows["mute"], "odd": odd})
    del records[NO_ACCIDENT]
    cards, judged = clip_cards(records, tiny_data)
    assert judged == "odd" and [card.crash for card in cards] == [True, True, False, False]
    assert cards == clip_cards(records, tiny_data)[0]
    crash = cards[0]
    assert [lane.name for lane in crash.lanes] == ["annotated", "mute", "odd"]
    assert (crash.lanes[2].start, crash.lanes[2].end, crash.lanes[1].start) == (1.0, 2.0, None)
    assert crash.lanes[1].verdicts == [("no answer", False), ("no interval", False), ("no first sign", False)]
    write_report({"odd": odd}, tiny_data, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;maybe" in page and "<b>maybe" not in page


def test_a_clip_that_failed_in_evaluation_is_shown_as_such_and_a_lost_one_is_an_error(rows, tmp_path, capsys):
    path = prediction_path(rows["mute"], "crash_recognition", "model")
    records = [record | {"video_path": f"gone/{Path(record['video_path']).name}"} for record in json.loads(path.read_text())]
    only = tmp_path / "only"
    write_json_atomic(prediction_path(only, "crash_recognition", "model"), records)
    words = ["--row", f"lost={only}", "--data-dir", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert main(words) == 1
    told = capsys.readouterr().err
    assert "no such file" in told and "--data-dir" in told
    assert not (tmp_path / "out").exists()

    records = [record | {"error": f"{record['video_path']}: no such file"} for record in records]
    write_json_atomic(prediction_path(only, "crash_recognition", "model"), records)
    scores = write_report({"failed": only}, tmp_path / "nowhere", tmp_path / "out")
    assert scores["failed"]["crash_recognition"]["num_failed"] == 4
    assert (tmp_path / "out" / "report.html").read_text().count("This clip could not be read: gone/") == 4


def test_crash_starts_come_from_the_annotations_where_predictions_carry_none(rows, tiny_data):
    path = prediction_path(rows["perfect"], "pre_crash_localization", "model")
    released = [{key: value for key, value in record.items() if key != "crash_start"} for record in json.loads(path.read_text())]
    write_json_atomic(path, released)
    records = collect({"perfect": rows["perfect"]})
    annotations = tiny_data / TASKS["crash_localization"].annotation_file("test")
    assert score_rows(records)["perfect"]["pre_crash_localization"]["missing_video_count"] == 2
    assert score_rows(records, annotations)["perfect"]["pre_crash_localization"]["strict_mIoU"] == 1


def test_what_cannot_be_compared_is_refused(rows, tiny_data, tmp_path):
    with pytest.raises(ReportError, match="no prediction files of the test split in"):
        collect({"empty": tmp_path / "nowhere"})
    with pytest.raises(ReportError, match="no prediction files of the val split in"):
        collect({"mute": rows["mute"]}, "val")
    with pytest.raises(ReportError, match="already"):
        parse_rows(["a=x", "a=y"])
    with pytest.raises(ReportError, match="NAME=FOLDER, found 'x'"):
        parse_rows(["x"])
    with pytest.raises(ReportError, match="--losses"):
        loss_picture(tmp_path)
    path = prediction_path(rows["perfect"], "crash_recognition", "model")
    write_json_atomic(path, json.loads(path.read_text())[:-1])
    with pytest.raises(ReportError, match="row perfect: crash_recognition was asked about other videos"):
        collect(rows)
    path.unlink()
    write_row(rows["perfect"], tiny_data, lambda task, truth: truth)
    another = prediction_path(rows["mute"], "crash_recognition", "another")
    write_json_atomic(another, json.loads(path.read_text()))
    with pytest.raises(ReportError, match="2 prediction files for crash_recognition"):
        collect({"mute": rows["mute"]})
    prediction_path(rows["mute"], "crash_recognition", "model").unlink()
    with pytest.raises(ReportError, match="mixes the models another, model"):
        collect({"mute": rows["mute"]})
