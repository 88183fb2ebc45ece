"""The tasks: prompts as released, answers as parsed."""

import json
import random
import string

import pytest

from crashchat.tasks import GROUPS, TASKS, question_text, task_of_prompt


def test_prompts_are_the_released_ones_word_for_word(shared):
    for task in TASKS.values():
        records = json.loads((shared / "annotations" / task.annotation_file("val")).read_text())
        assert {question_text(record["conversations"][0]["value"]) for record in records} == {task.prompt}
        assert task_of_prompt(task.prompt) is task


def test_released_answers_are_ground_truth(shared):
    for task in TASKS.values():
        for record in json.loads((shared / "annotations" / task.annotation_file("val")).read_text()):
            answer = record["conversations"][1]["value"]
            assert tuple(task.ground_truth(answer)) == task.gt_fields
            assert task.parse(answer) is not None, answer


ANSWERS = [
    ("crash_recognition", "Yes", ("Yes",)),
    ("crash_recognition", " no.", ("No",)),
    ("crash_recognition", "**Yes**", ("Yes",)),
    ("crash_recognition", "Yes, a collision happens", ("Yes",)),
    ("crash_recognition", "Nobody knows", None),
    ("crash_recognition", "", None),
    ("crash_description", " ego-car hits a car \n", ("ego-car hits a car",)),
    ("crash_description", "  ", None),
    ("crash_localization", "1.9 - 4.0 seconds", (1.9, 4.0)),
    ("crash_localization", "1.9s to 4.0s", (1.9, 4.0)),
    ("crash_localization", "1.9–4.0", (1.9, 4.0)),
    ("crash_localization", "00:01.9 - 00:04.0", (1.9, 4.0)),
    ("crash_localization", "between 1.9 and 4 seconds", (1.9, 4.0)),
    ("crash_localization", "4.0 - 1.9 seconds", (1.9, 4.0)),
    ("crash_localization", "1.0 - 2.0 seconds and 3.0 - 4.0 seconds", None),
    ("crash_localization", "1.9 seconds", None),
    ("crash_localization", "I cannot tell.", None),
    ("pre_crash_localization", "Answer: 3.4", (3.4,)),
    ("pre_crash_localization", "the crash starts at 3 s", (3.0,)),
    ("pre_crash_localization", "1.0 - 2.0 seconds", None),
    ("pre_crash_localization", "never", None),
]


@pytest.mark.parametrize(("task", "text", "expected"), ANSWERS)
def test_answers_are_parsed(task, text, expected):
    parsed = TASKS[task].parse(text)
    assert (parsed and tuple(parsed.values())) == expected
    assert parsed is None or tuple(parsed) == TASKS[task].pred_fields


def test_no_answer_makes_a_parser_raise():
    generator = random.Random(0)
    alphabet = string.printable + "–٣½é​\x00"
    for _ in range(3000):
        text = "".join(generator.choice(alphabet) for _ in range(generator.randrange(30)))
        for task in TASKS.values():
            parsed = task.parse(text)
            assert parsed is None or tuple(parsed) == task.pred_fields


def test_groups_are_the_papers():
    assert len(GROUPS["linguistic"]) == 4 and GROUPS["perception"] == ("crash_localization", "pre_crash_localization")
