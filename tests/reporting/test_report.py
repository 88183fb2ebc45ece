"""The report: figures of several rows side by side, from real prediction files and clips."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.config import ROOT
from crashchat.data.predictions import make_record, prediction_path, read_crash_starts
from crashchat.evaluation.score import scores
from crashchat.files import write_json_atomic
from crashchat.metrics.blind import BLIND, MEAN_TIMES, METADATA, MOST_FREQUENT, MOTION, NO_ACCIDENT, SOURCE
from crashchat.reporting.clip_cards import clip_cards
from crashchat.reporting.columns import best_rows
from crashchat.reporting.compare import loss_picture, main, write_report
from crashchat.reporting.comparison import make_comparison, sum_rows
from crashchat.reporting.runs import ReportError, collect, parse_rows
from crashchat.reporting.table_text import as_markdown, as_text
from crashchat.reporting.tables import (
    breakdown_tables,
    difference_tables,
    published_tables,
    read_published,
    strategy_tables,
)
from crashchat.tasks import TASKS


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
                video_path=str(data / record["video"][0]),
                prompt=task.prompt,
                raw_response=answer(task, record["conversations"][1]["value"]),
                answer=record["conversations"][1]["value"],
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
    """The command as a user gives it, without METEOR, which test_metrics.py has."""
    words = [f"{name}={folder}" for name, folder in rows.items()]
    command = [
        sys.executable,
        "-m",
        "crashchat",
        "compare",
        *words,
        "--data-dir",
        data,
        "--out",
        out,
        "--no-meteor",
        *more,
    ]
    return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)


def scored(records: dict) -> dict:
    return {name: {task: scores(one) for task, one in row.items()} for name, row in sum_rows(records).items()}


def table_lines(page: str, number: int) -> dict[str, list[str]]:
    """{row: its figures} of a table of the page, bold ones in their tags."""
    lines = re.findall(
        r"<tr class[^>]*><th>(.*?)</th>\n(.*?)</tr>",
        page.split("<tbody>")[1 + number].split("</tbody>")[0],
        re.DOTALL,
    )
    return {name: re.findall(r"<td[^>]*>(.*?)(?:<small>.*?)?</td>", line) for name, line in lines}


def test_the_command_writes_figures_and_a_page_that_asks_no_other_host(rows, tiny_data, tmp_path):
    checkpoint = tmp_path / "train" / "checkpoint-2"
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.6}]
    write_json_atomic(checkpoint / "trainer_state.json", {"log_history": history})
    out = tmp_path / "out"
    done = run(rows, tiny_data, out, "--losses", checkpoint.parent, "--motion")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(str(out / "report.html"))

    figures = json.loads((out / "metrics.json").read_text())
    assert list(figures) == ["mute", "perfect", "partial", *BLIND]
    assert figures["perfect"]["crash_recognition"]["macro_f1"] == 1
    assert figures["perfect"]["pre_crash_localization"]["mIoU"] == 1
    assert figures["perfect"]["pre_crash_localization"]["intervals"]["mIoU"] == [1, 1]
    assert figures["mute"]["crash_localization"]["mIoU"] == 0
    assert figures["mute"]["crash_localization"]["released"]["mIoU"] is None
    assert figures["mute"]["crash_localization"]["num_unparsed"] == 2
    assert figures[NO_ACCIDENT]["crash_recognition"]["Accuracy"] == 0.5
    assert (
        set(figures["partial"])
        == set(figures[MEAN_TIMES])
        == {"crash_localization", "pre_crash_localization"}
    )
    assert all(set(figures[row]) == set(TASKS) for row in (SOURCE, METADATA, MOTION, MOST_FREQUENT))

    page = (out / "report.html").read_text()
    assert "http" not in page and not re.search(r"src\s*=\s*[\"'](?!data:)|url\(|@import|<script|<link", page)
    assert page.count("data:image/jpeg") == 4 and page.count("data:image/png") == 3
    links = re.findall(r'href="([^"]*)"', page)
    assert len(links) == 4 and all((out / link).resolve().is_file() for link in links)
    assert (
        "the source of a video alone gives recognition away" in page
        and "the source of a video alone" in done.stdout
    )

    linguistic, perception = table_lines(page, 0), table_lines(page, 1)
    assert list(linguistic) == ["mute", "perfect", *(name for name in BLIND if name != MEAN_TIMES)]
    assert list(perception) == list(figures)
    # Corpus BLEU-4 of very short texts stays below 1 even where all are right: two words hold no four in a
    # row.
    bleu = [f"<b>{figures['perfect'][task]['BLEU']:.3f}</b>" for task in list(TASKS)[1:4]]
    assert bleu[1:] == ["<b>1.000</b>"] * 2
    # ROUGE-L, facts and, of causes, which of the training causes it is.
    right = [["<b>1.000</b>"] * (3 if task == "causal_reasoning" else 2) for task in list(TASKS)[1:4]]
    assert linguistic["perfect"] == ["<b>1.000</b>"] * 3 + [
        "0",
        *[text for one, others in zip(bleu, right, strict=True) for text in (one, *others, "0")],
    ]
    zeros = [["0.000"] * len(others) for others in right]
    assert linguistic["mute"] == ["0.000"] * 3 + ["4"] + sum((["0.000", *zero, "4"] for zero in zeros), [])
    assert perception["partial"] == perception["perfect"] == (["<b>1.000</b>"] * 4 + ["0"]) * 2

    markdown = (out / "comparison.md").read_text()
    assert (
        re.search(r"\| perfect \| \*\*1\.000\*\* \[1\.000–1\.000\] ", markdown)
        and "*CrashChat-7B heterogeneous (published)*" in markdown
    )
    lines = list(csv.DictReader((out / "comparison.csv").open()))
    (line,) = [
        at
        for at in lines
        if (at["table"], at["row"], at["metric"]) == ("perception tasks", "perfect", "AP@70")
    ][:1]
    assert (line["value"], line["low"], line["high"], line["best"], line["kind"]) == (
        "1.0",
        "1.0",
        "1.0",
        "1",
        "model",
    )
    assert {at["kind"] for at in lines} == {"model", "blind", "published"}
    terminal = [line for line in done.stdout.splitlines() if line.startswith("perfect")]
    assert (
        terminal[0].count("1.000*") == 3
        and max(map(len, done.stdout.split("\n\n* best")[0].splitlines())) <= 150
    )


def test_a_row_that_lacks_some_tasks_of_a_table_has_dashes_there(rows, tiny_data, tmp_path):
    one = write_row(tmp_path / "one", tiny_data, lambda task, truth: truth, ["crash_recognition"])
    (table, _) = strategy_tables(scored(collect({"mute": rows["mute"], "one": one})))
    row = next(row for row in table.rows if row.name == "one")
    assert [cell.text for cell in row.cells] == ["1.000", "1.000", "1.000", "0"] + ["—"] * 12
    # In the terminal, where the tasks stand one below the other, it has a line only where it was asked.
    assert sum(line.startswith("one ") for line in as_text(table).splitlines()) == 1
    assert "| one | **1.000** [0.500–1.000] |" in as_markdown(table)


def test_the_best_is_marked_only_where_there_is_a_better_and_a_worse():
    figures = {
        "TTA_MAE": (0.5, 0.2),
        "mTTA_pred": (1.0, 2.0),
        "mIoU": (0.3, 0.3),
        "AP@50": (None, 0.3),
        "AP@30": (0.1, 0.4),
        "num_unparsed": (1, 2),
    }
    best = {key: best_rows(dict(zip("ab", pair, strict=True)), key) for key, pair in figures.items()}
    assert best == {
        "TTA_MAE": {"b"},
        "mTTA_pred": set(),
        "mIoU": set(),
        "AP@50": set(),
        "AP@30": {"b"},
        "num_unparsed": set(),
    }


def test_published_figures_stand_beside_ours_and_are_marked(rows, shared):
    assert read_published() == json.loads((shared / "published_results.json").read_text())
    linguistic, perception = published_tables(scored(collect({"perfect": rows["perfect"]})))
    kinds = {row.name: row.kind for row in perception.rows}
    assert (
        kinds.pop("perfect") == "model"
        and set(kinds.values()) == {"published"}
        and "WSAL (published)" in kinds
    )
    heterogeneous = next(
        row for row in linguistic.rows if row.name == "CrashChat-7B heterogeneous (published)"
    )
    assert [column[1] for column in linguistic.columns[:6]] == [
        "macro P",
        "macro R",
        "macro F1",
        "BLEU",
        "ROUGE-L",
        "BERTScore",
    ]
    assert [cell.value for cell in heterogeneous.cells[:6]] == [0.985, 0.9745, 0.9793, 0.4608, 0.8535, 0.9783]
    ours = next(row for row in linguistic.rows if row.name == "perfect")
    assert (
        ours.cells[2].best
        and ours.cells[2].interval == "0.500–1.000"
        and ours.cells[5].text == "not computed"
    )


def test_differences_and_breakdowns(rows):
    from crashchat.metrics.bootstrap import paired

    sums = sum_rows(collect(rows))
    between = {"perfect": {task: paired(sums["mute"][task], sums["perfect"][task]) for task in TASKS}}
    table = difference_tables(between, "mute")[0]
    assert (
        table.rows[0].cells[2].text == "+1.000" and table.rows[0].cells[2].behind == "[0.500–1.000] p 0.002"
    )
    videos = sums["mute"]["crash_recognition"].videos
    recognition, *_ = breakdown_tables(
        sums, dict(zip(videos, ["x", "x", "y", "z"], strict=True)), "letter", limit=2
    )
    assert [column[1] for column in recognition.columns] == ["x (2)", "others (2)"]
    assert {row.name: [cell.value for cell in row.cells] for row in recognition.rows} == {
        "mute": [0, 0],
        "perfect": [1, 1],
    }
    assert breakdown_tables(sums, dict.fromkeys(videos, "x"), "letter") == []


def test_rows_that_do_not_look_say_what_they_lack(rows, tiny_data, tmp_path):
    def blind_of(data: Path) -> tuple[dict, list[str]]:
        comparison = make_comparison(rows, data)
        return comparison.blind, [note for note in comparison.notes if "partial" not in note]

    blind, notes = blind_of(tiny_data)
    # Motion takes decoding, and is only there where it is asked for.
    assert list(blind) == [name for name in BLIND if name != MOTION] and notes == []
    blind, notes = blind_of(tmp_path)
    assert list(blind) == [NO_ACCIDENT] and "No training annotations in" in notes[0]
    for task in TASKS.values():
        shutil.copy(tiny_data / task.annotation_file("train"), tmp_path)
    # It names the sources.
    shutil.copy(tiny_data / TASKS["crash_recognition"].annotation_file("test"), tmp_path)
    blind, notes = blind_of(tmp_path)
    assert METADATA not in blind and SOURCE in blind and "Not every video can be read" in notes[0]


def test_partial_runs_are_named(rows, tiny_data):
    assert make_comparison(rows, tiny_data).notes == []
    for name in ("mute", "perfect"):
        path = prediction_path(rows[name], "crash_description", "model")
        write_json_atomic(path, json.loads(path.read_text())[:-1])
    (note,) = make_comparison(rows, tiny_data).notes
    assert note.startswith("A partial run: 1 crash_description questions")


def test_best_worst_and_random_clips_with_answers_as_text(rows, tiny_data, tmp_path):
    odd = write_row(
        tmp_path / "odd",
        tiny_data,
        lambda task, truth: "<b>maybe</b> 1.0 - 2.0" if "local" in task.name else "No",
    )
    records = collect({"mute": rows["mute"], "odd": odd})
    sums = sum_rows(records)
    cards, judged = clip_cards(records, sums, tiny_data, tmp_path / "out")
    assert judged == "odd" and [card.why for card in cards] == ["best", "worst", "random", "random"]
    assert [card.crash for card in cards[:2]] == [True, True]
    assert cards == clip_cards(records, sums, tiny_data, tmp_path / "out")[0]
    crash = cards[0]
    assert [lane.name for lane in crash.lanes] == ["annotated", "mute", "odd"]
    assert (crash.lanes[2].start, crash.lanes[2].end, crash.lanes[1].start) == (1.0, 2.0, None)
    assert crash.lanes[1].verdicts == [("no answer", False), ("no interval", False), ("no first sign", False)]
    write_report({"odd": odd}, tiny_data, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "&lt;b&gt;maybe" in page and "<b>maybe" not in page


def test_one_prediction_file_without_its_clips_is_compared(rows, tmp_path):
    path = prediction_path(rows["mute"], "crash_recognition", "model")
    records = [
        record | {"video_path": f"gone/{Path(record['video_path']).name}"}
        for record in json.loads(path.read_text())
    ]
    only = tmp_path / "model" / "predictions.json"
    write_json_atomic(only, records)
    words = [str(only), "--data-dir", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("This clip could not be read: ") == 4 and page.count("no such file") == 4
    assert "No training annotations in" in page
    assert list(json.loads((tmp_path / "out" / "metrics.json").read_text())) == ["model", NO_ACCIDENT]


def test_crash_starts_come_from_the_annotations_where_predictions_carry_none(rows, tiny_data):
    path = prediction_path(rows["perfect"], "pre_crash_localization", "model")
    released = [
        {key: value for key, value in record.items() if key != "crash_start"}
        for record in json.loads(path.read_text())
    ]
    write_json_atomic(path, released)
    records = collect({"perfect": rows["perfect"]})
    annotations = tiny_data / TASKS["crash_localization"].annotation_file("test")
    assert sum_rows(records)["perfect"]["pre_crash_localization"].metrics()["missing_video_count"] == 2
    assert (
        sum_rows(records, read_crash_starts(annotations))["perfect"]["pre_crash_localization"].metrics()[
            "mIoU"
        ]
        == 1
    )


def test_what_cannot_be_compared_is_refused(rows, tiny_data, tmp_path):
    with pytest.raises(ReportError, match="no prediction files of the test split in"):
        collect({"empty": tmp_path / "nowhere"})
    with pytest.raises(ReportError, match="no prediction files of the val split in"):
        collect({"mute": rows["mute"]}, "val")
    with pytest.raises(ReportError, match="already"):
        parse_rows(["a=x", "a=y"])
    with pytest.raises(ReportError, match="already"):
        parse_rows([f"{SOURCE}=x"])
    with pytest.raises(ReportError, match=r"\[NAME=\]FOLDER or \[NAME=\]FILE, found '=x'"):
        parse_rows(["=x"])
    assert parse_rows(["a=x", str(tmp_path / "b"), str(tmp_path / "c" / "p.json")]) == {
        "a": Path("x"),
        "b": tmp_path / "b",
        "c": tmp_path / "c" / "p.json",
    }
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
