import json
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.config import ROOT
from crashchat.data.annotations import AnnotationError
from crashchat.data.predictions import constant_answer, read_predictions, video_name
from crashchat.data.truth import read_crash_starts
from crashchat.evaluation.score import scores, task_sums
from crashchat.evaluation.score_tables import score_table
from crashchat.metrics.localization import (
    crash_localization_sums,
    first_sign_score,
    interval_iou,
    pre_crash_localization_sums,
)
from crashchat.metrics.probability import probability_scores
from crashchat.metrics.recognition import recognition_sums
from crashchat.metrics.text import text_sums
from crashchat.tasks import TASKS

CRASHES = "annotations/crashchat_dada_video_total_crash_localization_val.json"


def golden(shared: Path, task_name: str) -> Path:
    return shared / "golden/metrics" / f"{task_name}_predict.json"


def expected(shared: Path) -> dict:
    return json.loads((shared / "golden/metrics/expected.json").read_text())


@pytest.mark.parametrize("task_name", TASKS)
def test_agrees_with_the_released_scripts(shared, task_name):
    records = read_predictions(golden(shared, task_name), task_name)
    crash_starts = read_crash_starts(shared / CRASHES) if task_name == "pre_crash_localization" else None
    metrics = task_sums(task_name, records, crash_starts).metrics("released")
    released = expected(shared)[task_name]
    assert {key: metrics[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    left_out = (
        "num_scored",
        "num_unparsed",
        "num_failed",
        "num_no_truth",
        "missing_video_count",
        "bad_gt_tta_count",
    )
    assert sum(metrics.get(key, 0) for key in left_out) == metrics["num_records"] == len(records)


@pytest.mark.parametrize("task_name", ["crash_description", "causal_reasoning", "prevention_reasoning"])
def test_constant_answer_agrees_with_the_released_scripts(shared, task_name):
    released = expected(shared)[f"{task_name}_constant_answer"]
    task = TASKS[task_name]
    assert released.pop("answer") == task.negative_answer
    sums = task_sums(task_name, constant_answer(task, read_predictions(golden(shared, task_name))))
    metrics = sums.metrics("released")
    assert {key: metrics[key] for key in released} == pytest.approx(released, abs=1e-9, rel=0)
    assert sums.metrics("strict") == metrics


def asked(count: int, truth: str, answer: str | None, **extra) -> list[dict]:
    return [{"video_path": "x.mp4", "gt_label": truth, "pred_label": answer, **extra}] * count


def test_recognition_macro_is_the_papers():
    # The paper's heterogeneous row is the macro scores of this table (docs/reference.md, Metrics).
    records = (
        asked(1161, "Yes", "Yes") + asked(1, "Yes", "No") + asked(643, "No", "No") + asked(34, "No", "Yes")
    )
    metrics = recognition_sums(records).metrics()
    macro = [round(metrics[f"macro_{name}"], 4) for name in ("recall", "precision", "f1")]
    assert macro == [0.9745, 0.985, 0.9793]
    assert metrics["confusion"]["No"] == {"Yes": 34, "No": 643, "unparsed": 0, "failed": 0}


def test_recognition_refusals_count_as_wrong_only_in_strict():
    records = asked(3, "Yes", "Yes") + asked(1, "Yes", None) + asked(1, "No", "Maybe") + asked(2, "No", "No")
    records += asked(1, "No", None, error="no such file") + asked(1, "Perhaps", "Yes")
    released, metrics = recognition_sums(records).metrics("released"), recognition_sums(records).metrics()
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth")
    assert [metrics[key] for key in counts] == [released[key] for key in counts] == [9, 5, 2, 1, 1]
    assert released["Accuracy"] == released["macro_f1"] == 1.0
    assert [metrics[key] for key in ("N", "TP", "TN", "FP", "FN")] == [8, 3, 2, 2, 1]
    assert metrics["Accuracy"] == 5 / 8
    assert metrics["Precision"] == 3 / 5 and metrics["Recall"] == 3 / 4
    assert metrics["macro_recall"] == (3 / 4 + 2 / 4) / 2
    assert metrics["confusion"]["No"] == {"Yes": 0, "No": 2, "unparsed": 1, "failed": 1}


def texts(*pairs: tuple[str, str | None], **extra) -> list[dict]:
    return [
        {"video_path": f"{at}.mp4", "gt": truth, "pred": answer, **extra}
        for at, (truth, answer) in enumerate(pairs)
    ]


def test_nothing_scored_is_none_not_zero():
    sums = recognition_sums(asked(2, "Yes", None))
    assert sums.metrics("released")["F1"] is None and sums.metrics()["F1"] == 0.0
    sums = text_sums(texts(("a b", None)), "gt", "pred")
    assert (
        sums.metrics("released")["BLEU"] is None
        and sums.metrics()["BLEU"] == sums.metrics()["rougeL_f"] == 0.0
    )
    assert sums.metrics()["METEOR"] is None and sums.metrics()["BERTScore"] is None
    sums = crash_localization_sums([interval(1.0, 2.0, None, None)])
    assert (
        sums.metrics("released")["mIoU"] is None
        and sums.metrics()["start_MAE"] is None
        and sums.metrics()["mIoU"] == 0.0
    )
    assert "not computed" in score_table(scores(sums))
    assert crash_localization_sums([interval(None, None, 1.0, 2.0)]).metrics()["mIoU"] is None
    with pytest.raises(ValueError, match="protocol 'loose', expected one of strict, released"):
        sums.metrics("loose")


def interval(gt_start, gt_end, pred_start, pred_end, **extra) -> dict:
    return {
        "video_path": "x.mp4",
        "gt_start": gt_start,
        "gt_end": gt_end,
        "pred_start": pred_start,
        "pred_end": pred_end,
        **extra,
    }


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
    sums = crash_localization_sums(records)
    metrics, released = sums.metrics(), sums.metrics("released")
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth", "num_swapped")
    assert [metrics[key] for key in counts] == [6, 2, 2, 1, 1, 1]
    assert metrics["num_empty_truth"] == 1
    assert released["mIoU"] == released["AP@70"] == 0.5
    assert metrics["mIoU"] == metrics["AP@30"] == 1 / 5
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
    sums = pre_crash_localization_sums(records, {"a.mp4": 5.0})
    metrics, released = sums.metrics(), sums.metrics("released")
    counts = ("num_scored", "num_unparsed", "num_failed", "missing_video_count", "bad_gt_tta_count")
    assert [metrics[key] for key in counts] == [4, 1, 1, 1, 1]
    assert metrics["late_pred_count"] == metrics["too_early_pred_count"] == 1
    assert released["mIoU"] == 1.5 / 4 and metrics["mIoU"] == 1.5 / 6
    assert released["mTTA_gt"] == 7 / 4 and released["mTTA_pred"] == (1 + 0 + 4 + 1) / 4
    assert metrics["mTTA_pred"] == 1.0 and released["TTA_MAE"] == (1 + 2 + 2 + 0) / 4


def test_metrics_import_no_torch():
    code = "import sys, crashchat.evaluation.score, crashchat.metrics.blind; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_video_name():
    assert (
        video_name("data/videos/x.mp4")
        == video_name("videos/x.mp4")
        == video_name("C:\\videos\\x.mp4")
        == "x.mp4"
    )


def test_crash_starts_of_one_name_twice(tmp_path):
    def annotation(video: str, answer: str) -> dict:
        prompt = f"<video>\n{TASKS['crash_localization'].prompt}"
        turns = [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]
        return {"video": [video], "conversations": turns}

    path = tmp_path / "a.json"
    path.write_text(
        json.dumps([annotation("v/x.mp4", "1.0 - 2.0 seconds"), annotation("w/y.mp4", "3.0 - 4.0 seconds")])
    )
    assert read_crash_starts(path) == {"x.mp4": 1.0, "y.mp4": 3.0}
    path.write_text(
        json.dumps([annotation("v/x.mp4", "1.0 - 2.0 seconds"), annotation("w/x.mp4", "3.0 - 4.0 seconds")])
    )
    with pytest.raises(AnnotationError, match="two annotated videos are called x.mp4"):
        read_crash_starts(path)


def test_probabilities_are_ranked_and_calibrated():
    """Against figures worked out by hand: one pair of six is in the wrong order, and a tie counts half."""
    pairs = [("Yes", 0.9), ("Yes", 0.6), ("No", 0.7), ("No", 0.2), ("Yes", 0.8)]
    records = [{"gt_label": label, "crash_probability": probability} for label, probability in pairs]
    found = probability_scores(records)
    assert found["ROC_AUC"] == pytest.approx(5 / 6)
    assert found["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert found["calibration_error"] == pytest.approx((0.1 + 0.4 + 0.7 + 0.2 + 0.2) / 5)
    tied = [{"gt_label": label, "crash_probability": 0.5} for label in ("Yes", "No", "No")]
    assert probability_scores(tied)["ROC_AUC"] == pytest.approx(0.5)
    assert set(probability_scores([{"gt_label": "Yes"}]).values()) == {None}
    assert probability_scores(records[:2])["ROC_AUC"] is None
