"""Several runs of a row held against each other, and a judge's figures beside the rows that it judged."""

import csv
import json
from pathlib import Path

import pytest

from crashchat.data.predictions import prediction_path
from crashchat.evaluation.score import main as score
from crashchat.files import write_json_atomic
from crashchat.reporting.compare import main
from crashchat.tasks import TASKS
from tests.helpers.judging import serving
from tests.helpers.predictions import write_row


@pytest.fixture
def drawn(rows, tiny_data, tmp_path) -> list[Path]:
    """Three runs of one row: two are right, and one says No to every video."""

    def hasty(task, truth: str) -> str:
        return "No" if task.name == "crash_recognition" else truth

    again = write_row(tmp_path / "again", tiny_data, lambda task, truth: truth)
    return [rows["perfect"], again, write_row(tmp_path / "hasty", tiny_data, hasty)]


def compare(out: Path, data: Path, *words: str | Path) -> dict:
    assert main([*map(str, words), "--data-dir", str(data), "--out", str(out), "--no-meteor"]) == 0
    return json.loads((out / "metrics.json").read_text())


def test_runs_that_agree_and_runs_that_do_not(drawn, rows, tiny_data, tmp_path, capsys):
    figures = compare(tmp_path, tiny_data, f"drawn={','.join(map(str, drawn))}", f"mute={rows['mute']}")
    found = figures["drawn"]["crash_recognition"]["stability"]
    # Of four questions two are crashes, to which one run in three says No: one pair of three agrees there.
    assert found == {"agreement": pytest.approx((2 + 2 / 3) / 4), "unanimous": 0.5, "score_range": 0.5}
    for task in TASKS:
        if task != "crash_recognition":
            assert figures["drawn"][task]["stability"] == {"agreement": 1, "unanimous": 1, "score_range": 0}
    assert "stability" not in figures["mute"]["crash_recognition"]
    told, page = capsys.readouterr().out, (tmp_path / "report.html").read_text()
    assert "stability of answers over the runs" in told and 'id="stability"' in page
    lines = list(csv.DictReader((tmp_path / "stability.csv").open()))
    asked = [line for line in lines if line["task"] == "crash_recognition"]
    assert sorted(line["answers"] for line in asked) == ["1", "1", "2", "2"]
    assert {(line["low"], line["high"]) for line in asked if line["answers"] == "2"} == {("0.0", "1.0")}
    alone = compare(tmp_path / "alone", tiny_data, f"one={drawn[0]}")
    assert "stability" not in alone["one"]["crash_recognition"]
    assert not (tmp_path / "alone" / "stability.csv").exists()


def test_answers_that_do_not_parse_are_one_answer(tiny_data, tmp_path):
    runs = [
        write_row(
            tmp_path / str(number), tiny_data, lambda task, truth, word=word: word, ["crash_recognition"]
        )
        for number, word in enumerate(("who knows", "perhaps", "Yes"))
    ]
    figures = compare(tmp_path / "out", tiny_data, f"drawn={','.join(map(str, runs))}")
    assert figures["drawn"]["crash_recognition"]["stability"]["agreement"] == pytest.approx(1 / 3)


def test_a_judges_figures_are_carried_until_the_answers_are_others(rows, tiny_data, tmp_path, capsys):
    task = TASKS["crash_description"]
    path = prediction_path(rows["perfect"], task.name, "model")
    records = json.loads(path.read_text())
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["video", "task", "answer", "correct"])
        for number in range(20):
            record = records[number % len(records)]
            answer = f"{record['gt_caption']} {'' if number < 10 else 'wrong '}{number}"
            writer.writerow([Path(record["video_path"]).name, task.name, answer, int(number < 10)])
    words = [task.name, "--predictions", str(path), "--data-dir", str(tiny_data), "--no-meteor"]
    with serving(
        lambda prompt: "INCORRECT" if "wrong " in prompt.partition("<answer>")[2] else "CORRECT"
    ) as judge:
        asked = ["--judge", judge.address, "--judge-name", "ruled", "--labels", str(tmp_path / "labels.csv")]
        assert score([*words, *asked]) == 0
    figures = compare(tmp_path / "out", tiny_data, f"perfect={rows['perfect']}", f"mute={rows['mute']}")
    (file,) = figures["perfect"][task.name]["files"]
    assert file["judge"]["answers"]["raw"] == 1 and "judge" not in figures["mute"][task.name]["files"][0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "texts judged right by ruled" in page and "texts judged right by ruled" in capsys.readouterr().out
    lines = list(csv.DictReader((tmp_path / "out" / "comparison.csv").open()))
    corrected = [line for line in lines if line["metric"] == "judged_corrected"]
    assert [line["row"] for line in corrected] == ["perfect"] and float(corrected[0]["low"]) < 1
    write_json_atomic(path, records[::-1])
    figures = compare(tmp_path / "later", tiny_data, f"perfect={rows['perfect']}")
    assert "judge" not in figures["perfect"][task.name]["files"][0]
    assert "the prediction file is another one since; score it again" in " ".join(
        capsys.readouterr().out.split()
    )
