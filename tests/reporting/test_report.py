"""The report: figures of several rows side by side, from real prediction files and clips."""

import csv
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from crashchat.config import ROOT
from crashchat.data.datasets import DatasetUse
from crashchat.data.predictions import Records, prediction_path
from crashchat.data.truth import Annotations, read_crash_starts
from crashchat.evaluation.score import scores
from crashchat.files import write_json_atomic
from crashchat.metrics.blind import BLIND, MEAN_TIMES, METADATA, MOST_FREQUENT, MOTION, NO_ACCIDENT, SOURCE
from crashchat.metrics.bootstrap import wilson
from crashchat.reporting.about import DRAWN_NOTE, annotations_hash
from crashchat.reporting.clip_cards import clip_cards
from crashchat.reporting.columns import best_rows
from crashchat.reporting.compare import loss_picture, main, write_report
from crashchat.reporting.comparison import make_comparison, sum_rows
from crashchat.reporting.published import NOT_PUBLISHED_NOTE, published_tables, read_published
from crashchat.reporting.runs import ReportError, collect, parse_rows
from crashchat.reporting.table_text import as_markdown, as_text
from crashchat.reporting.tables import (
    DETECTABLE,
    breakdown_tables,
    difference_tables,
    strategy_tables,
)
from crashchat.tasks import TASKS
from tests.helpers.predictions import write_row


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
    words = [f"{name}={','.join(map(str, folders))}" for name, folders in one_run(rows).items()]
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


def one_run(rows: dict[str, Path | list[Path]]) -> dict[str, list[Path]]:
    """Rows with one run each, but for those with a list of them."""
    return {name: folder if isinstance(folder, list) else [folder] for name, folder in rows.items()}


def read(rows: dict[str, Path], data: Path) -> Records:
    runs = collect(one_run(rows), Annotations(data, "test"))
    return {name: {task: file.records for task, file in run.items()} for name, (run,) in runs.items()}


def scored(rows: dict[str, Path], data: Path) -> dict:
    records = read(rows, data)
    return {name: {task: scores(one) for task, one in row.items()} for name, row in sum_rows(records).items()}


def table_lines(page: str, number: int) -> dict[str, list[str]]:
    """{row: its figures} of a table of the page, bold ones in their tags."""
    lines = re.findall(
        r"<tr class[^>]*><th[^>]*>(.*?)</th>\n(.*?)</tr>",
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


def test_a_row_that_lacks_some_tasks_of_a_table_has_dashes_there(rows, tiny_data, tmp_path):
    one = write_row(tmp_path / "one", tiny_data, lambda task, truth: truth, ["crash_recognition"])
    (table, _) = strategy_tables(scored({"mute": rows["mute"], "one": one}, tiny_data))
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


def test_published_figures_stand_beside_ours_and_are_marked(rows, tiny_data, shared):
    assert read_published() == json.loads((shared / "published_results.json").read_text())
    linguistic, perception = published_tables(scored({"perfect": rows["perfect"]}, tiny_data))
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


def test_differences_and_breakdowns(rows, tiny_data):
    from crashchat.metrics.bootstrap import paired

    sums = sum_rows(read(rows, tiny_data))
    between = {"perfect": {task: paired(sums["mute"][task], sums["perfect"][task]) for task in TASKS}}
    table = difference_tables(between, "mute")[0]
    assert (
        # Four videos prove nothing, however large the difference.
        table.rows[0].cells[2].text == "+1.000" and table.rows[0].cells[2].behind == "[0.500–1.000] p 1.000"
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
        comparison = make_comparison(one_run(rows), data)
        return comparison.blind, [
            note for note in comparison.notes if "anifest" not in note and "Truth" not in note
        ]

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


def annotate(folder: Path, videos: dict[str, tuple[str, str]], split: str = "test") -> None:
    """Recognition annotations of {video: (source, label)}."""
    task = TASKS["crash_recognition"]
    records = [
        {
            "video": [f"videos/{name}"],
            "source": source,
            "conversations": [
                {"from": "human", "value": f"<video>\n{task.prompt}"},
                {"from": "gpt", "value": label},
            ],
        }
        for name, (source, label) in videos.items()
    ]
    write_json_atomic(folder / task.annotation_file(split), records)


def of_recognition(folder: Path, data: Path) -> dict[str, list[Path]]:
    """One row that is always right about recognition."""
    write_row(folder, data, lambda task, truth: truth, ["crash_recognition"])
    return {"model": [folder]}


def test_published_figures_and_notes_stand_only_where_they_are_true(tmp_path):
    sources = {"MM-AU-CAP": "Yes", "MM-AU-DADA": "Yes", "D2City": "No", "Nexar": "No"}
    kinds = list(sources.items())
    videos = {f"{index}.mp4": kinds[index % 4] for index in range(1839)}
    released, other = tmp_path / "released", tmp_path / "other"
    annotate(released, videos)
    # As many videos, but one of another collection, and one of a source that has both.
    annotate(other, videos | {"7.mp4": ("dashcams", "Yes"), "8.mp4": ("MM-AU-CAP", "No")})
    for data, shown in ((released, True), (other, False)):
        out = tmp_path / f"out_{data.name}"
        text = write_report(of_recognition(tmp_path / f"row_{data.name}", data), data, out)
        page, markdown = ((out / name).read_text() for name in ("report.html", "comparison.md"))
        assert ("CrashChat-7B heterogeneous (published)" in page) == shown
        assert ("CrashChat-7B heterogeneous (published)" in markdown.replace("\\", "")) == shown
        assert (NOT_PUBLISHED_NOTE in unescape(page)) != shown
        crashes, calm = "MM-AU-CAP (460), MM-AU-DADA (460)", "D2City (460), Nexar (459)"
        note = f"all videos of {crashes} are crashes, none of {calm} is"
        assert all((note in one) == shown for one in (unescape(page), markdown, " ".join(text.split())))
        assert DRAWN_NOTE not in page + markdown + text
        assert text.startswith(f"{data.name}: test split, 1,839 videos")
    part = tmp_path / "part"
    annotate(part, dict(list(videos.items())[:100]))
    write_report(of_recognition(tmp_path / "row_part", part), part, tmp_path / "out_part")
    assert "(published)" not in (tmp_path / "out_part" / "report.html").read_text()


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


def test_best_worst_and_random_clips_with_answers_as_text(rows, tiny_data, tmp_path):
    odd = write_row(
        tmp_path / "odd",
        tiny_data,
        lambda task, truth: "<b>maybe</b> 1.0 - 2.0" if "local" in task.name else "No",
    )
    records = read({"mute": rows["mute"], "odd": odd}, tiny_data)
    sums = sum_rows(records)
    cards, judged = clip_cards(records, sums, tiny_data, tmp_path / "out")
    assert judged == "odd" and [card.why for card in cards] == ["best", "worst", "random", "random"]
    assert [card.crash for card in cards[:2]] == [True, True]
    assert cards == clip_cards(records, sums, tiny_data, tmp_path / "out")[0]
    crash = cards[0]
    assert [lane.name for lane in crash.lanes] == ["annotated", "mute", "odd"]
    assert (crash.lanes[2].start, crash.lanes[2].end, crash.lanes[1].start) == (1.0, 2.0, None)
    assert crash.lanes[1].verdicts == [("no answer", False), ("no interval", False), ("no first sign", False)]
    write_report({"odd": [odd]}, tiny_data, tmp_path / "out")
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
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert list(figures) == ["about", "model", NO_ACCIDENT] and figures["about"]["dataset"] is None
    assert "no annotation files of the test split in" in page


def test_crash_starts_come_from_the_annotations_where_predictions_carry_none(rows, tiny_data):
    path = prediction_path(rows["perfect"], "pre_crash_localization", "model")
    released = [
        {key: value for key, value in record.items() if key != "crash_start"}
        for record in json.loads(path.read_text())
    ]
    write_json_atomic(path, released)
    records = read({"perfect": rows["perfect"]}, tiny_data)
    annotations = tiny_data / TASKS["crash_localization"].annotation_file("test")
    assert sum_rows(records)["perfect"]["pre_crash_localization"].metrics()["missing_video_count"] == 2
    assert (
        sum_rows(records, read_crash_starts(annotations))["perfect"]["pre_crash_localization"].metrics()[
            "mIoU"
        ]
        == 1
    )


def test_what_cannot_be_compared_is_refused(rows, tiny_data, tmp_path):
    asked = Annotations(tiny_data, "test")
    with pytest.raises(ReportError, match="no prediction files of the test split in"):
        collect(one_run({"empty": tmp_path / "nowhere"}), asked)
    with pytest.raises(ReportError, match="no prediction files of the val split in"):
        collect(one_run({"mute": rows["mute"]}), Annotations(tiny_data, "val"))
    with pytest.raises(ReportError, match="already"):
        parse_rows(["a=x", "a=y"])
    with pytest.raises(ReportError, match="already"):
        parse_rows([f"{SOURCE}=x"])
    with pytest.raises(ReportError, match=r"\[NAME=\]FOLDER or \[NAME=\]FILE, found '=x'"):
        parse_rows(["=x"])
    assert parse_rows(["a=x", str(tmp_path / "b"), str(tmp_path / "c" / "p.json")]) == {
        "a": [Path("x")],
        "b": [tmp_path / "b"],
        "c": [tmp_path / "c" / "p.json"],
    }
    assert parse_rows(["a=x,y"]) == {"a": [Path("x"), Path("y")]}
    with pytest.raises(ReportError, match="the runs of a row are different folders, found 'x,x'"):
        parse_rows(["a=x,x"])
    with pytest.raises(ReportError, match="there is a row 'about' already"):
        parse_rows(["about=x"])
    with pytest.raises(ReportError, match="--losses"):
        loss_picture(tmp_path)
    path = prediction_path(rows["perfect"], "crash_recognition", "model")
    write_json_atomic(path, json.loads(path.read_text())[:-1])
    with pytest.raises(ReportError, match="row perfect: crash_recognition was asked about other videos"):
        collect(one_run(rows), asked, partial=True)
    path.unlink()
    write_row(rows["perfect"], tiny_data, lambda task, truth: truth)
    another = prediction_path(rows["mute"], "crash_recognition", "another")
    write_json_atomic(another, json.loads(path.read_text()))
    with pytest.raises(ReportError, match="2 prediction files for crash_recognition"):
        collect(one_run({"mute": rows["mute"]}), asked)
    prediction_path(rows["mute"], "crash_recognition", "model").unlink()
    with pytest.raises(ReportError, match="mixes the models another, model"):
        collect(one_run({"mute": rows["mute"]}), asked)
