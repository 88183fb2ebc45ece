"""The tasks: prompts as released, answers as parsed."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashchat.tasks import TASKS, question_text, task_of_prompt


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


ANSWERS = {
    "crash_recognition": [
        ("Yes", ("Yes",)),
        (" no.", ("No",)),
        ("**Yes**", ("Yes",)),
        ("'No'", ("No",)),
        ("_Yes_", ("Yes",)),
        ("Yes, a collision happens", ("Yes",)),
        ("No collision", ("No",)),
        ("NO CRASH IS VISIBLE", ("No",)),
        ("Answer: Yes", ("Yes",)),
        ("**Answer:** no", ("No",)),
        ("The answer is No.", ("No",)),
        ("Yes. No, wait", None),
        ("Yes/No", None),
        ("yes or no", None),
        ("No idea", None),
        ("Nobody knows", None),
        ("I cannot tell whether a crash happens.", None),
        ("I'm sorry, but I can't help with that.", None),
        ("", None),
    ],
    "crash_description": [
        (" ego-car hits a car \n", ("ego-car hits a car",)),
        ("  ", None),
        ("\x00", ("\x00",)),
    ],
    "causal_reasoning": [("No accident, no cause.", ("No accident, no cause.",)), ("\n", None)],
    "prevention_reasoning": [("Slow down.\nKeep away.", ("Slow down.\nKeep away.",)), ("", None)],
    "crash_localization": [
        ("1.9 - 4.0 seconds", (1.9, 4.0)),
        ("1.9s to 4.0s", (1.9, 4.0)),
        ("1.9–4.0", (1.9, 4.0)),
        ("1.9-4.0", (1.9, 4.0)),
        ("00:01.9 - 00:04.0", (1.9, 4.0)),
        ("1:02 - 1:10.5", (62.0, 70.5)),
        ("00:00:01.9 - 00:00:04.0", (1.9, 4.0)),
        ("between 1.9 and 4 seconds", (1.9, 4.0)),
        ("Start: 1.9 s, end: 4.0 s", (1.9, 4.0)),
        ("[1.9, 4.0]", (1.9, 4.0)),
        ("**1.9 seconds - 4.0 seconds**", (1.9, 4.0)),
        ("In the 10 second clip the crash lasts from 1.9 seconds to 4.0 seconds.", (1.9, 4.0)),
        ("1.9 - 4.0 seconds (2.1 s long)", (1.9, 4.0)),
        ("4.0 - 1.9 seconds", (1.9, 4.0)),  # swapped ends
        ("2.0 - 2.0 seconds", (2.0, 2.0)),
        ("1.0 - 2.0 seconds and 3.0 - 4.0 seconds", None),  # two intervals
        ("1.0 to 2.0, 3.0 to 4.0", None),
        ("1, 2, 3, 4", None),
        ("1.9 seconds", None),
        ("٣ - ٤ seconds", None),
        (f"{'9' * 400} - 1.0", None),
        ("no collision.", None),
        ("I cannot tell.", None),
        ("", None),
    ],
    "pre_crash_localization": [
        ("1.0 seconds", (1.0,)),
        ("Answer: 3.4", (3.4,)),
        ("the crash starts at 3 s", (3.0,)),
        ("00:03.4", (3.4,)),
        ("3.4s", (3.4,)),
        ("2 cars get close, first seen at 3.4 seconds", (3.4,)),
        ("1.0 - 2.0 seconds", None),
        ("at 1.0 seconds or 2.0 seconds", None),
        ("9" * 400, None),
        ("never", None),
        ("I'm sorry, I cannot see the video.", None),
        ("", None),
    ],
}


@pytest.mark.parametrize(
    ("task", "text", "expected"), [(task, *case) for task, cases in ANSWERS.items() for case in cases]
)
def test_answers_are_parsed(task, text, expected):
    parsed = TASKS[task].parse(text)
    assert (parsed and tuple(parsed.values())) == expected
    assert parsed is None or tuple(parsed) == TASKS[task].pred_fields


# Any text at all, and texts of the pieces that the parsers look for.
PIECES = [
    "0",
    "9" * 400,
    "1.9",
    "4",
    "²",
    "٣",
    "01:",
    ":",
    ".",
    ",",
    "-",
    "–",
    " to ",
    " and ",
    "s",
    " seconds",
    "Yes",
    "no",
    "*",
    "\n",
]
TEXTS = st.text() | st.lists(st.sampled_from(PIECES)).map("".join)


@settings(deadline=None, max_examples=500)
@given(TEXTS)
def test_no_answer_makes_a_parser_raise(text):
    for task in TASKS.values():
        parsed = task.parse(text)
        if parsed is None:
            continue
        assert tuple(parsed) == task.pred_fields
        if task.group == "perception":
            assert list(parsed.values()) == sorted(parsed.values()) and all(
                map(math.isfinite, parsed.values())
            )
        else:
            assert all(isinstance(value, str) and value for value in parsed.values())


@given(st.floats(0, 600), st.floats(0, 600))
def test_times_in_the_annotations_form_come_back(start, end):
    first, last = sorted((round(start, 1), round(end, 1)))
    assert TASKS["crash_localization"].parse(f"{first} - {last} seconds") == {
        "pred_start": first,
        "pred_end": last,
    }
    assert TASKS["pre_crash_localization"].parse(f"{first} seconds") == {"pred_time": first}


def test_groups_are_the_papers():
    assert len(TASKS.groups["linguistic"]) == 4 and TASKS.groups["perception"] == (
        "crash_localization",
        "pre_crash_localization",
    )
