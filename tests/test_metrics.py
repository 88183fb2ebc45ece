import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.metrics.localization import (
    crash_localization,
    first_sign_score,
    interval_iou,
    pre_crash_localization,
    video_name,
)
from crashchat.metrics.recognition import recognition
from crashchat.metrics.score import main, newest_predictions, read_crash_starts, score, score_table
from crashchat.metrics.text import text
from crashchat.predictions import PredictionError, constant_answer, prediction_path, read_predictions
from crashchat.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
CRASHES = "annotations/crashchat_dada_video_total_crash_localization_val.json"


def golden(shared: Path, task_name: str) -> Path:
    return shared / "golden/metrics" / f"{task_name}_predict.json"


def expected(shared: Path) -> dict:
    return json.loads((shared / "golden/metrics/expected.json").read_text())


@pytest.mark.parametrize("task_name", TASKS)
def test_agrees_with_the_released_scripts(shared, task_name):
    records = read_predictions(golden(shared, task_name), task_name)
    crash_starts = read_crash_starts(shared / CRASHES) if task_name == "pre_crash_localization" else None
    metrics = score(task_name, records, crash_starts)
    released = expected(shared)[task_name]
    assert {key: metrics[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    left_out = ("num_scored", "num_unparsed", "num_failed", "num_no_truth", "missing_video_count", "bad_gt_tta_count")
    assert sum(metrics.get(key, 0) for key in left_out) == metrics["num_records"] == len(records)


@pytest.mark.parametrize("task_name", ["crash_description", "causal_reasoning", "prevention_reasoning"])
def test_constant_answer_agrees_with_the_released_scripts(shared, task_name):
    released = expected(shared)[f"{task_name}_constant_answer"]
    task = TASKS[task_name]
    assert released.pop("answer") == task.negative_answer
    metrics = score(task_name, constant_answer(task, read_predictions(golden(shared, task_name))))
    assert {key: metrics[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    assert metrics["strict_BLEU"] == metrics["BLEU"]


def asked(count: int, truth: str, answer: str | None, **extra) -> list[dict]:
    return [{"gt_label": truth, "pred_label": answer, **extra}] * count


def test_recognition_macro_is_the_papers():
    # The paper's heterogeneous row is the macro scores of this table (SPEC.md, The paper's results).
    records = asked(1161, "Yes", "Yes") + asked(1, "Yes", "No") + asked(643, "No", "No") + asked(34, "No", "Yes")
    metrics = recognition(records)
    macro = [round(metrics[f"macro_{name}"], 4) for name in ("recall", "precision", "f1")]
    assert macro == [0.9745, 0.985, 0.9793]
    assert metrics["confusion"]["No"] == {"Yes": 34, "No": 643, "unparsed": 0, "failed": 0}


def test_recognition_refusals_count_as_wrong_only_in_strict():
    records = asked(3, "Yes", "Yes") + asked(1, "Yes", None) + asked(1, "No", "Maybe") + asked(2, "No", "No")
    records += asked(1, "No", None, error="no such file") + asked(1, "Perhaps", "Yes")
    metrics = recognition(records)
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth")
    assert [metrics[key] for key in counts] == [9, 5, 2, 1, 1]
    assert metrics["Accuracy"] == metrics["macro_f1"] == 1.0
    assert [metrics[f"strict_{key}"] for key in ("N", "TP", "TN", "FP", "FN")] == [8, 3, 2, 2, 1]
    assert metrics["strict_Accuracy"] == 5 / 8
    assert metrics["strict_Precision"] == 3 / 5 and metrics["strict_Recall"] == 3 / 4
    assert metrics["strict_macro_recall"] == (3 / 4 + 2 / 4) / 2
    assert metrics["confusion"]["No"] == {"Yes": 0, "No": 2, "unparsed": 1, "failed": 1}


def test_nothing_scored_is_none_not_zero():
    metrics = recognition(asked(2, "Yes", None))
    assert metrics["F1"] is None and metrics["strict_F1"] == 0.0
    metrics = text([{"gt": "a b", "pred": None}], "gt", "pred")
    assert metrics["BLEU"] is None and metrics["strict_BLEU"] == metrics["strict_rougeL_f"] == 0.0
    metrics = crash_localization([interval(1.0, 2.0, None, None)])
    assert metrics["mIoU"] is None and metrics["start_MAE"] is None and metrics["strict_mIoU"] == 0.0
    assert "not computed" in score_table(metrics)


def test_text_empty_answers():
    pairs = [("car hits car", "car hits car"), ("car hits car", " "), ("car hits truck", None), ("", "car")]
    records = [{"gt": truth, "pred": answer} for truth, answer in pairs]
    records.append({"gt": "car hits car", "pred": None, "error": "unreadable"})
    metrics = text(records, "gt", "pred")
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth")
    assert [metrics[key] for key in counts] == [5, 1, 2, 1, 1]
    assert metrics["exact_match"] == metrics["rouge1_f"] == 1.0
    assert metrics["strict_exact_match"] == metrics["strict_rouge1_f"] == metrics["strict_rougeL_p"] == 0.25
    assert 0 < metrics["strict_BLEU"] < metrics["BLEU"]


def interval(gt_start, gt_end, pred_start, pred_end, **extra) -> dict:
    return {"gt_start": gt_start, "gt_end": gt_end, "pred_start": pred_start, "pred_end": pred_end, **extra}


@pytest.mark.parametrize(
    ("truth", "answer", "iou"),
    [
        ((1, 3), (1, 3), 1.0),
        ((1, 3), (3, 1), 1.0),
        ((3, 1), (2, 4), 1 / 3),
        ((0, 1), (2, 3), 0.0),
        ((0, 1), (1, 2), 0.0),
        ((2, 2), (2, 2), 0.0),
        ((0, 4), (1, 2), 0.25),
    ],
)
def test_interval_iou(truth, answer, iou):
    assert interval_iou(truth, answer) == pytest.approx(iou)


def test_crash_localization_counts():
    records = [
        interval(1.0, 3.0, 3.0, 1.0),  # swapped ends
        interval(2.0, 2.0, 2.0, 2.0),  # empty union
        interval(1.0, 3.0, None, None),  # a refusal
        interval(1.0, 3.0, float("nan"), 2.0),
        interval(1.0, 3.0, None, None, error="truncated"),
        interval(None, None, 1.0, 2.0),
    ]
    metrics = crash_localization(records)
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth", "num_swapped")
    assert [metrics[key] for key in counts] == [6, 2, 2, 1, 1, 1]
    assert metrics["num_empty_truth"] == 1
    assert metrics["mIoU"] == metrics["AP@70"] == 0.5
    assert metrics["strict_mIoU"] == metrics["strict_AP@30"] == 1 / 5
    assert metrics["start_MAE"] == metrics["end_MAE"] == 0.0


@pytest.mark.parametrize(
    ("answer", "expected_score"),
    [(5.0, 0.0), (6.0, 0.0), (2.4, 0.0), (2.5, 1.0), (3.0, 1.0), (4.0, 0.5), (3.5, 0.75)],
)
def test_first_sign_score(answer, expected_score):
    assert first_sign_score(crash_start=5.0, truth=3.0, answer=answer) == pytest.approx(expected_score)


def first_sign(video: str, truth: float, answer: float | None, **extra) -> dict:
    return {"video_path": f"data/videos/{video}.mp4", "gt_time": truth, "pred_time": answer, **extra}


def test_pre_crash_localization_counts():
    records = [
        first_sign("a", 3.0, 4.0),  # 0.5
        first_sign("a", 3.0, 5.0),  # late
        first_sign("a", 3.0, 1.0),  # too early
        first_sign("a", 3.0, None),  # a refusal
        first_sign("a", 3.0, None, error="gone"),
        first_sign("a", 5.0, 4.0),  # no time to accident
        first_sign("unknown", 3.0, 3.0),
        first_sign("unknown", 3.0, 3.0, crash_start=4.0),  # carries its own
    ]
    metrics = pre_crash_localization(records, {"a.mp4": 5.0})
    counts = ("num_scored", "num_unparsed", "num_failed", "missing_video_count", "bad_gt_tta_count")
    assert [metrics[key] for key in counts] == [4, 1, 1, 1, 1]
    assert metrics["late_pred_count"] == metrics["too_early_pred_count"] == 1
    assert metrics["mIoU"] == 1.5 / 4 and metrics["strict_mIoU"] == 1.5 / 6
    assert metrics["mTTA_gt"] == 7 / 4 and metrics["mTTA_pred"] == (1 + 0 + 4 + 1) / 4
    assert metrics["strict_mTTA_pred"] == 1.0 and metrics["TTA_MAE"] == (1 + 2 + 2 + 0) / 4


def test_video_name():
    assert video_name("data/videos/x.mp4") == video_name("videos/x.mp4") == video_name("C:\\videos\\x.mp4") == "x.mp4"


def test_crash_starts_of_one_name_twice(tmp_path):
    def annotation(video: str, answer: str) -> dict:
        prompt = f"<video>\n{TASKS['crash_localization'].prompt}"
        turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
        return {"video": [video], "conversations": turns}

    path = tmp_path / "a.json"
    path.write_text(json.dumps([annotation("v/x.mp4", "1.0 - 2.0 seconds"), annotation("w/y.mp4", "3.0 - 4.0 seconds")]))
    assert read_crash_starts(path) == {"x.mp4": 1.0, "y.mp4": 3.0}
    path.write_text(json.dumps([annotation("v/x.mp4", "1.0 - 2.0 seconds"), annotation("w/x.mp4", "3.0 - 4.0 seconds")]))
    with pytest.raises(PredictionError, match="two videos are called x.mp4"):
        read_crash_starts(path)


# ------------------------------------------------------------------------------------------- the scripts themselves


def run_script(task_name: str, *arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess:
    script = ROOT / "scripts/eval" / f"compute_{task_name}_metrics.py"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [sys.executable, script, *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=60)


def some_predictions(task_name: str) -> list[dict]:
    task = TASKS[task_name]
    numbers = task.group == "perception"
    fields = dict.fromkeys((*task.gt_fields, *task.pred_fields), 1.5 if numbers else "No")
    common = {"video_path": "data/videos/x.mp4", "prompt": "", "raw_response": "", "crash_start": 3.0}
    return [{"data_id": data_id, **common, **fields} for data_id in range(3)]


@pytest.mark.parametrize("task_name", TASKS)
def test_script_finds_the_newest_predictions(task_name, tmp_path):
    for age, model in enumerate(("new", "old")):
        path = prediction_path(tmp_path / "outputs", task_name, model)
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(some_predictions(task_name)))
        os.utime(path, (1e9 - age, 1e9 - age))
    done = run_script(task_name, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    newest = prediction_path(tmp_path / "outputs", task_name, "new")
    written = newest.with_name(f"{newest.stem}_metrics.json")
    metrics = json.loads(written.read_text())
    assert metrics["num_records"] == metrics["num_scored"] == 3
    rows = list(csv.reader(written.with_suffix(".csv").open()))
    assert rows[0] == ["metric", "value"] and ["num_records", "3"] in rows
    assert "released" in done.stdout and "strict" in done.stdout
    # The scores beside the predictions are not taken for predictions.
    assert newest_predictions(task_name, tmp_path / "outputs") == newest


def test_script_scores_a_released_pre_crash_file(shared, tmp_path):
    task_name = "pre_crash_localization"
    out = tmp_path / "new" / "scores.json"
    predictions = ("--predictions", golden(shared, task_name))
    done = run_script(task_name, *predictions, "--crash-annotations", shared / CRASHES, "--out", out, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text())["mIoU"] == pytest.approx(expected(shared)[task_name]["mIoU"], abs=1e-9, rel=0)
    assert out.with_suffix(".csv").exists()
    without = run_script(task_name, *predictions, "--out", tmp_path / "none", cwd=tmp_path)
    assert without.returncode != 0 and "give --crash-annotations FILE" in without.stderr
    assert not (tmp_path / "none").exists()


def test_script_help_has_an_example(tmp_path):
    done = run_script("crash_recognition", "--help", cwd=tmp_path)
    assert done.returncode == 0 and "example: python scripts/eval/compute_crash_recognition_metrics.py" in " ".join(
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
    assert main("crash_recognition", ["--predictions", str(tmp_path / "none.json")]) == 1
    assert "none.json: cannot be read" in capsys.readouterr().err
    good = tmp_path / "good.json"
    good.write_text(json.dumps(some_predictions("pre_crash_localization")))
    bad_annotations = ["--predictions", str(good), "--crash-annotations", str(wrong)]
    assert main("pre_crash_localization", bad_annotations) == 1
    assert "cannot be used" in capsys.readouterr().err
