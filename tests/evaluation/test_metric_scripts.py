"""The six metric scripts, run as users run them: what they find, what they print and write,
what they refuse.
"""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.config import ROOT
from crashchat.data.predictions import make_record, newest_predictions, prediction_path
from crashchat.evaluation.score import main
from crashchat.tasks import TASKS
from tests.metrics.test_metrics import CRASHES, expected, golden


def run_script(
    task_name: str, *arguments: str | Path, cwd: Path, **changed: str
) -> subprocess.CompletedProcess:
    script = ROOT / "scripts/eval" / f"compute_{task_name}_metrics.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | changed
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def some_predictions(task_name: str, answer: str | None = None) -> list[dict]:
    """Three records, wholly right unless another `answer` is given."""
    task = TASKS[task_name]
    times = {"crash_localization": "1.5 - 1.5 seconds", "pre_crash_localization": "1.5 seconds"}
    right = times.get(task_name, "No" if task_name == "crash_recognition" else "car hits a car")
    return [
        make_record(
            task,
            n,
            video_path=f"data/videos/{n}.mp4",
            prompt=task.prompt,
            raw_response=right if answer is None else answer,
            answer=right,
            crash_start=3.0,
        )
        for n in range(3)
    ]


@pytest.mark.parametrize("task_name", TASKS)
def test_script_finds_the_newest_predictions(task_name, tmp_path, monkeypatch, capsys):
    for age, model in enumerate(("new", "old")):
        path = prediction_path(tmp_path / "outputs", task_name, model)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(some_predictions(task_name)))
        os.utime(path, (1e9 - age, 1e9 - age))
    monkeypatch.chdir(tmp_path)
    assert main([task_name, "--no-meteor"]) == 0
    told = capsys.readouterr().out
    newest = prediction_path(tmp_path / "outputs", task_name, "new")
    written = newest.with_name(f"{newest.stem}_metrics.json")
    metrics = json.loads(written.read_text())
    assert metrics["num_records"] == metrics["num_scored"] == 3
    rows = list(csv.reader(written.with_suffix(".csv").open()))
    assert rows[0] == ["metric", "value", "low", "high"] and ["num_records", "3", "", ""] in rows
    assert "released" in told and "strict" in told
    # The scores beside the predictions are not taken for predictions.
    assert newest_predictions(task_name, tmp_path / "outputs") == newest


@pytest.mark.parametrize("task_name", TASKS)
def test_script_scores_a_released_file_in_the_released_terms(shared, task_name, tmp_path, capsys):
    out = tmp_path / "new" / "scores.json"
    words = ["--predictions", str(golden(shared, task_name)), "--out", str(out), "--no-meteor"]
    if task_name == "pre_crash_localization":
        assert main([task_name, *words]) == 1 and "give --crash-annotations FILE" in capsys.readouterr().err
        assert not out.exists()
        words += ["--crash-annotations", str(shared / CRASHES)]
    assert main([task_name, *words, "--protocol", "released"]) == 0
    released, found = expected(shared)[task_name], json.loads(out.read_text())
    assert found["protocol"] == "released"
    assert {key: found[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    assert out.with_suffix(".csv").exists()
    # Without the option every question counts; nothing is lost either way.
    assert main([task_name, *words]) == 0
    strict = json.loads(out.read_text())
    assert strict["protocol"] == "strict"
    assert {key: strict[key] for key in found["strict"]} == found["strict"]
    assert {key: found[key] for key in strict["released"]} == strict["released"]


def test_script_compares_two_models(tmp_path, capsys):
    records = some_predictions("crash_recognition")
    for name, answer in (("right", "No"), ("wrong", "Yes")):
        (tmp_path / f"{name}.json").write_text(json.dumps(some_predictions("crash_recognition", answer)))
    (tmp_path / "fewer.json").write_text(json.dumps(records[:2]))
    words = ["--predictions", str(tmp_path / "right.json"), "--out", str(tmp_path / "out.json"), "--against"]
    assert main(["crash_recognition", *words, str(tmp_path / "wrong.json")]) == 0
    found = json.loads((tmp_path / "out.json").read_text())["against"]["Accuracy"]
    # Three videos cannot show more than a coin thrown three times.
    shown = {"value": 1.0, "low": 1.0, "high": 1.0, "p": 0.25}
    assert {key: found[key] for key in shown} == shown and found["p_holm"] == 1 and not found["at_floor"]
    assert re.search(r"Accuracy +\+1\.0000 +\+1\.0000 – \+1\.0000 +1\.000", capsys.readouterr().out)
    assert main(["crash_recognition", *words, str(tmp_path / "fewer.json")]) == 1
    assert "1 videos are in only one of the two" in capsys.readouterr().err


def test_script_help_has_an_example(tmp_path):
    done = run_script("crash_recognition", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "crashchat score crash_recognition --predictions" in " ".join(
        done.stdout.split()
    )


def test_bad_use_is_an_error_exit(tmp_path, capsys):
    wrong = tmp_path / "wrong.json"
    wrong.write_text(json.dumps(some_predictions("crash_description")))
    done = run_script("crash_recognition", "--predictions", wrong, cwd=tmp_path)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "holds crash_description predictions, expected crash_recognition" in done.stderr
    assert list(tmp_path.iterdir()) == [wrong]
    done = run_script("crash_recognition", cwd=tmp_path)
    assert done.returncode == 1 and "looked for outputs/crash_recognition_evaluation_results" in done.stderr
    assert main(["crash_recognition", "--predictions", str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err
    good = tmp_path / "good.json"
    good.write_text(json.dumps(some_predictions("pre_crash_localization")))
    bad_annotations = ["--predictions", str(good), "--crash-annotations", str(wrong)]
    assert main(["pre_crash_localization", *bad_annotations]) == 1
    assert "cannot be used" in capsys.readouterr().err


def test_what_a_first_pass_would_lose_is_told(tmp_path, capsys):
    task = TASKS["crash_recognition"]
    crashes, others = (0.9, 0.03, 0.2), (0.01, 0.04, 0.6, 0.001)
    asked = [*(("Yes", likely) for likely in crashes), *(("No", likely) for likely in others)]
    records = [
        make_record(
            task,
            number,
            video_path=f"data/videos/{number}.mp4",
            prompt=task.prompt,
            raw_response="Yes" if likely > 0.5 else "No",
            answer=truth,
            crash_probability=likely,
        )
        for number, (truth, likely) in enumerate(asked)
    ]
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(records))
    words = [task.name, "--predictions", str(path), "--out", str(tmp_path / "scores.json")]
    assert main([*words, "--skip-below", "0.02,0.05"]) == 0
    found = json.loads((tmp_path / "scores.json").read_text())["skip_below"]
    assert found["0.02"] | {"recall_interval": None} == {
        "crashes": 3,
        "lost": 0,
        "recall": 1.0,
        "recall_interval": None,
        "others": 4,
        "passed_over": 0.5,
    }
    assert (found["0.05"]["lost"], found["0.05"]["passed_over"]) == (1, 0.75)
    low, high = found["0.05"]["recall_interval"]
    assert found["0.05"]["recall"] == pytest.approx(2 / 3) and low < 2 / 3 < high
    assert re.search(r"0\.05 +1 of 3 +0\.6667 .* 0\.7500", capsys.readouterr().out)
    with pytest.raises(SystemExit):
        main([*words, "--skip-below", "often"])
    assert "found 'often', expected probabilities as 0.01,0.05" in capsys.readouterr().err
    for record in records:
        del record["crash_probability"]
    path.write_text(json.dumps(records))
    assert main([*words, "--skip-below", "0.02"]) == 1
    assert "no record has a crash_probability" in capsys.readouterr().err
