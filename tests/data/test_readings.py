"""What answers are read as, here and by the released scripts."""

import pytest

from crashchat.data.prediction_files import read_prediction_file
from crashchat.data.readings import answer_fault, read_answer, released_readings
from crashchat.data.truth import Annotations
from crashchat.tasks import TASKS
from tests.data.test_predictions import record
from tests.metrics.test_metrics import golden

# {task: [(answer, as the released scripts read it, as this project does)]}
READINGS = {
    "crash_recognition": [
        ("yes.", ["yes.", "Yes"], "Yes"),
        ("I do not know.", ["I do not know.", "No"], None),
        ("Maybe", ["Maybe"], None),
        ("Yes and no", ["Yes and no"], "Yes"),
        ("", [""], None),
    ],
    "crash_localization": [
        ("5.0 - 3.5 seconds", [(5.0, 3.5)], (3.5, 5.0)),
        ("start: 6.0, end: 7.0", [(6.0, 7.0)], (6.0, 7.0)),
        ("1.0 - 2.0, or 3.0 - 4.0", [(1.0, 2.0)], (None, None)),
        ("at 3.5 seconds", [(0.0, 0.0)], (None, None)),
        ("... - 5", [(0.0, 0.0)], (None, None)),
    ],
    "pre_crash_localization": [
        ("between 1.5 and 2.0 s", [1.5], None),
        ("2.4 seconds", [2.4], 2.4),
        ("soon", [None], None),
    ],
    "causal_reasoning": [(" Ice. ", ["Ice."], "Ice."), ("  ", [""], None)],
}


@pytest.mark.parametrize("task_name", READINGS)
def test_the_released_scripts_read_more_loosely(task_name):
    task = TASKS[task_name]
    for answer, released, ours in READINGS[task_name]:
        written = [tuple(reading.values()) for reading in released_readings(task, answer)]
        assert written == [value if isinstance(value, tuple) else (value,) for value in released], answer
        read = tuple(read_answer(task, answer).values())
        assert read == (ours if isinstance(ours, tuple) else (ours,)), answer


def test_what_the_released_scripts_read_is_taken_from_their_files_alone():
    theirs = record(0, "I do not know.") | {"pred_label": "No"}
    assert answer_fault(TASKS["crash_recognition"], theirs, released=True) is None
    assert "is read as pred_label = None" in answer_fault(TASKS["crash_recognition"], theirs, released=False)


@pytest.mark.parametrize("task_name", TASKS)
def test_released_files_agree_with_their_annotations_and_answers(shared, task_name):
    task = TASKS[task_name]
    asked = Annotations(shared / "annotations", "val")
    file = read_prediction_file(golden(shared, task_name), asked, task_name)
    assert file.truth and not file.unchecked and not file.missing and file.asked == len(file.records)
    swapped, kept = 127, 72  # intervals told from their end, and words that are neither Yes nor No
    counts = {"crash_localization": swapped, "crash_recognition": kept}
    assert file.read_otherwise == counts.get(task_name, 0)
    assert "no manifest: " in file.facts()["manifest"]
    assert all(answer_fault(task, one, released=True) is None for one in file.records)
