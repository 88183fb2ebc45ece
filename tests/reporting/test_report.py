"""The command: figures of several rows side by side, from real prediction files and clips."""

import csv
import json
import re
import shutil
from html import unescape
from pathlib import Path

import pytest

from crashchat.data.datasets import DatasetUse
from crashchat.data.predictions import prediction_path
from crashchat.files import write_json_atomic
from crashchat.metrics.blind import BLIND, MEAN_TIMES, METADATA, MOST_FREQUENT, MOTION, NO_ACCIDENT, SOURCE
from crashchat.metrics.bootstrap import wilson
from crashchat.reporting.about import DRAWN_NOTE, annotations_hash
from crashchat.reporting.compare import main
from crashchat.reporting.published import NOT_PUBLISHED_NOTE
from crashchat.reporting.tables import (
    DETECTABLE,
)
from crashchat.tasks import TASKS
from tests.helpers.comparisons import run, table_lines
from tests.helpers.predictions import write_row


def test_the_command_writes_figures_and_a_page_that_asks_no_other_host(rows, tiny_data, tmp_path):
    checkpoint = tmp_path / "train" / "checkpoint-2"
    history = [{"step": 1, "loss": 2.0}, {"step": 2, "loss": 1.5}, {"step": 2, "eval_loss": 1.6}]
    write_json_atomic(checkpoint / "trainer_state.json", {"log_history": history})
    out = tmp_path / "out"
    done = run(rows, tiny_data, out, "--losses", checkpoint.parent, "--motion")
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith(str(out / "report.html"))

    figures = json.loads((out / "metrics.json").read_text())
    about = figures.pop("about")
    assert list(figures) == ["mute", "perfect", "partial", *BLIND]
    assert figures["perfect"]["crash_recognition"]["macro_f1"] == 1
    assert figures["perfect"]["pre_crash_localization"]["mIoU"] == 1
    assert figures["perfect"]["pre_crash_localization"]["intervals"]["mIoU"] == list(wilson(1.0, 2))
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
    links = re.findall(r'href="([^"#]*)"', page)
    assert len(links) == 4 and all((out / link).resolve().is_file() for link in links)
    # What it is of: drawings, which nobody can overlook; the paper's figures are of other videos.
    title = "CrashChat synthetic (drawings): test split, 4 videos"
    assert f"<h1>{title}</h1>" in page and page.count(DRAWN_NOTE) == 1
    assert done.stdout.startswith(title) and DRAWN_NOTE in done.stdout
    assert "MM-AU" not in page + done.stdout and "CrashChat-7B" not in page
    assert NOT_PUBLISHED_NOTE in unescape(page)
    assert about["dataset"]["annotations"].keys() == {task.annotation_file("test") for task in TASKS.values()}
    assert about["command"].startswith("crashchat compare mute=") and about["versions"]["crashchat"]
    assert [row["name"] for row in about["rows"]] == ["mute", "perfect", "partial"]
    digests = [row["predictions_sha256"] for row in about["rows"]]
    assert len(set(digests)) == 3 and all(digest[:16] in page for digest in digests)
    assert annotations_hash(DatasetUse(**about["dataset"]))[:16] in page

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
        re.search(r"\| perfect \| \*\*1\.000\*\* \[0\.342–1\.000\] ", markdown)
        and markdown.startswith(f"# {title}\n")
        and "published)" not in markdown
    )
    lines = list(csv.DictReader((out / "comparison.csv").open()))
    (line,) = [
        at
        for at in lines
        if (at["table"], at["row"], at["metric"]) == ("perception tasks", "perfect", "AP@70")
    ][:1]
    assert (line["value"], line["high"], line["best"], line["kind"]) == ("1.0", "1.0", "1", "model")
    assert float(line["low"]) == wilson(1.0, 2)[0]
    assert {at["kind"] for at in lines} == {"model", "blind", "power"}
    tested = [at for at in lines if at["p"]]
    assert tested and all(float(at["p_holm"]) >= float(at["p"]) for at in tested)
    tables = done.stdout.partition("linguistic tasks\n")[2].partition("\n* best")[0]
    terminal = [line for line in done.stdout.splitlines() if line.startswith("perfect")]
    assert terminal[0].count("1.000*") == 3 and max(map(len, tables.splitlines())) <= 150


def test_a_second_data_set_is_out_of_domain(rows, tiny_data, tmp_path):
    """Its answers have tables of their own, and blind baselines that learnt on the first set."""
    second, out = tmp_path / "second", tmp_path / "out"
    shutil.copytree(tiny_data, second, ignore=shutil.ignore_patterns("*_train.json", "train_*"))
    write_json_atomic(second / "dataset.json", {"name": "Elsewhere"})
    away = write_row(tmp_path / "away", second, lambda task, truth: truth)
    words = ["--second", second, f"ours={away}"]
    done = run({"mute": rows["mute"]}, tiny_data, out, *words)
    assert done.returncode == 0, done.stderr
    figures = json.loads((out / "metrics.json").read_text())
    elsewhere = figures["out of domain"]
    assert elsewhere["about"]["dataset"]["name"] == "Elsewhere" and "ours" not in figures
    assert elsewhere["ours"]["crash_recognition"]["macro_f1"] == 1
    assert elsewhere[MOST_FREQUENT]["crash_recognition"] is not None  # learnt where there is a training split
    title = "linguistic tasks, out of domain: Elsewhere: test split, 4 videos"
    assert title in done.stdout and title in (out / "comparison.md").read_text()
    assert title in unescape((out / "report.html").read_text())
    assert {"mute", "ours"} <= {line["row"] for line in csv.DictReader((out / "comparison.csv").open())}
    assert run({"mute": rows["mute"]}, tiny_data, out, "--second", second).returncode == 2


def test_runs_of_a_row_are_shown_as_one(rows, tiny_data, tmp_path):
    other = write_row(
        tmp_path / "other", tiny_data, lambda task, truth: "No" if truth in ("Yes", "No") else truth
    )
    together = {"mute": rows["mute"], "seeds": [rows["perfect"], other]}
    done = run(together, tiny_data, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    seeds = figures["seeds"]["crash_recognition"]
    assert (seeds["num_runs"], seeds["Accuracy"]) == (2, 0.75)
    assert seeds["spread"]["Accuracy"] == pytest.approx(0.5 / 2**0.5)
    assert "spread" not in figures["mute"]["crash_recognition"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "2 runs; predictions" in page and "± 0.354" in page and "± 0.354" in done.stdout
    lines = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    assert {line["row"] for line in lines} == {"mute", "seeds", DETECTABLE, *BLIND} - {MOTION}
    fewer = write_row(tmp_path / "fewer", tiny_data, lambda task, truth: truth, ["crash_recognition"])
    done = run({"seeds": [rows["perfect"], fewer]}, tiny_data, tmp_path / "none")
    assert done.returncode == 1 and "row seeds: its runs were not asked the same tasks" in done.stderr


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
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(figures) == ["about", "model", NO_ACCIDENT] and figures["about"]["dataset"] is None
    assert "no annotation files of the test split in" in page
