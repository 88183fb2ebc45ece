"""Answers that must not score well, on released annotations: empty, constant, swapped, padded."""

import json

import numpy as np
import pytest

from crashchat.data.predictions import make_record
from crashchat.evaluation.controls import control_answers, control_scores
from crashchat.evaluation.score import main
from crashchat.metrics.text import NO_EXTRAS, semantic, semantic_columns, text_sums
from crashchat.tasks import TASKS, TEXTS
from tests.evaluation.test_semantic import sentence_model


def annotated(shared, name: str) -> list[dict]:
    """Records of a model that is always right, on a quarter of the validation set."""
    task = TASKS[name]
    asked = json.loads((shared / "annotations" / task.annotation_file("val")).read_text())[::4]
    answers = [record["conversations"][1]["value"] for record in asked]
    return [
        make_record(task, n, video_path=f"{n}.mp4", prompt=task.prompt, raw_response=answer, answer=answer)
        for n, answer in enumerate(answers)
    ]


@pytest.mark.parametrize("name", TEXTS)
def test_what_must_not_score_well_does_not_by_facts(shared, name):
    """Where wording is rewarded, always saying that nothing happened has a ROUGE-L of 0.38."""
    records, task = annotated(shared, name), TASKS[name]
    right = text_sums(records, task.gt_fields[0], task.pred_fields[0]).metrics()
    found = control_scores(task, records, NO_EXTRAS)
    assert right["facts_f1"] == right["facts_precision"] == right["facts_recall"] == 1.0
    assert found["empty"]["facts_f1"] == found["no accident"]["facts_f1"] == 0.0
    assert found["no accident"]["rougeL_f"] > 0.37
    assert found["swapped"]["facts_f1"] < 0.35 and found["padded"]["facts_f1"] < 0.4
    assert found["padding"]["facts_f1"] < 0.35
    assert found["most frequent"]["facts_f1"] < (0.55 if name == "crash_description" else 0.35)


@pytest.mark.parametrize("name", TEXTS)
def test_what_must_not_score_well_does_not_by_meaning(shared, name):
    records, model = annotated(shared, name), sentence_model()
    truths = [record["raw_response"] for record in records]

    def score(answers: list[str]) -> float:
        columns = semantic_columns(list(zip(truths, answers, strict=True)), model)
        return float(semantic({key: np.sum(column) for key, column in columns.items()} | {"n": len(truths)}))

    found = {control: score(given) for control, given in control_answers(TASKS[name], records).items()}
    assert score(truths) == 1.0
    assert all(abs(found[control]) < 0.001 for control in ("empty", "no accident", "most frequent"))
    assert abs(found["swapped"]) < 0.1 and found["padded"] < 0.35
    assert found["padding"] < 0


def test_the_controls_are_what_they_are_called():
    task = TASKS["causal_reasoning"]
    truths = ["a car brakes", "a car brakes", "a bus skids", *[task.negative_answer] * 3]
    records = [
        make_record(task, n, video_path=f"{n}.mp4", prompt="", raw_response="", answer=truth)
        for n, truth in enumerate(truths)
    ]
    found = control_answers(task, records)
    assert set(found["empty"]) == {""} and set(found["no accident"]) == {task.negative_answer}
    assert set(found["most frequent"]) == {"a car brakes"}
    assert sorted(found["swapped"]) == sorted(truths) != found["swapped"] != truths
    assert found["padded"][2] == f"a bus skids {task.negative_answer} a car brakes a bus skids"
    assert found["padding"][2] == f"{task.negative_answer} a car brakes"
    assert found["padding"][3] == "a car brakes a bus skids"
    assert found == control_answers(task, records)


def test_the_script_shows_the_controls(tmp_path, capsys):
    task, path = TASKS["crash_description"], tmp_path / "p.json"
    truths = ["car hits truck", "bus falls down", "no collision."]
    records = [
        make_record(task, n, video_path=f"{n}.mp4", prompt="", raw_response=truth, answer=truth)
        for n, truth in enumerate(truths)
    ]
    path.write_text(json.dumps(records))
    assert main(["crash_description", "--predictions", str(path), "--no-meteor", "--controls"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.split("controls\n\n")[1].splitlines()]
    assert lines[0] == ["BLEU", "rougeL_f", "CIDEr", "exact_match", "facts_f1"]
    assert lines[1][-2:] == ["1.000", "1.000"] and lines[2] == ["empty", *["0.000"] * 5]
    found = json.loads((tmp_path / "p_metrics.json").read_text())["controls"]
    assert found["no accident"]["exact_match"] == pytest.approx(1 / 3) and found["padded"]["exact_match"] == 0
