"""Constrained answers: always of the form, within the video,
and the model's own where that is one already.
"""

import random

import pytest
import torch

from crashchat.answering.constraints import Choices, Times, constraint_for
from crashchat.answering.generate import answer_from_prefix, decode
from crashchat.answering.prefix import prefill
from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.tasks import TASKS
from crashchat.video.reading import read_visual_tokens


def walk(constraint, closing: int, chance: random.Random, most: int = 40) -> list[int]:
    """Tokens of an answer, drawn at random from those that may follow."""
    tokens: list[int] = []
    while len(tokens) < most:
        following = constraint.allowed(tokens)
        assert following, tokens
        token = chance.choice(following)
        if token == closing:
            return tokens
        tokens.append(token)
    raise AssertionError(f"no end after {most} tokens")


@pytest.mark.parametrize("end", [0.0, 0.9, 10.0, 127.3])
@pytest.mark.parametrize("task", ["crash_localization", "pre_crash_localization"])
def test_whatever_is_chosen_the_times_parse_and_lie_within_the_video(tiny_tokenizer, task, end):
    constraint, chance = constraint_for(task, tiny_tokenizer, end), random.Random(0)
    for _ in range(30):
        text = tiny_tokenizer.decode(walk(constraint, tiny_tokenizer.eos_token_id, chance))
        times = list(TASKS[task].parse(text).values())
        assert times == sorted(times) and times[0] >= 0 and times[-1] <= end, text
        assert TASKS[task].ground_truth(text)  # the very form of the annotations


def test_every_time_can_be_said(tiny_tokenizer):
    constraint = Times(tiny_tokenizer, 12.0, 1)
    for tenths in range(121):
        tokens = tiny_tokenizer.encode(f"{tenths / 10:.1f} seconds", add_special_tokens=False)
        for place, token in enumerate(tokens):
            assert token in constraint.allowed(tokens[:place]), (tenths, tokens)
        assert tiny_tokenizer.eos_token_id in constraint.allowed(tokens)


def test_choices_are_the_answers_and_nothing_else(tiny_tokenizer):
    answers = ["car hits a car", "car hits a truck", "no collision.", "car"]
    choices, chance = Choices(tiny_tokenizer, answers), random.Random(0)
    assert {
        tiny_tokenizer.decode(walk(choices, tiny_tokenizer.eos_token_id, chance)) for _ in range(60)
    } == set(answers)
    with pytest.raises(ValueError, match="no answers to choose from"):
        Choices(tiny_tokenizer, [])


def test_a_model_that_knows_nothing_still_answers_in_form(tiny_base, tiny_tokenizer, tiny_data):
    model = load_model(tiny_base, tiny_tokenizer, torch.device("cpu"))
    clip = sorted((tiny_data / "videos").iterdir())[0]
    visual = read_visual_tokens(str(clip), load_video_settings(tiny_base))
    end = visual.seconds[-1] + 0.25
    known = {"crash_description": Choices(tiny_tokenizer, ["car hits a car", "no collision."])}
    constraints = [constraint_for(task, tiny_tokenizer, end, known) for task in TASKS]
    prefix = prefill(model, tiny_tokenizer, [visual])
    asked = [[task.prompt for task in TASKS.values()]]
    (answers,), _, _ = answer_from_prefix(
        model, tiny_tokenizer, prefix=prefix, questions=asked, max_new_tokens=48, constraints=[constraints]
    )
    texts = dict(zip(TASKS, (decode(tiny_tokenizer, answer) for answer in answers), strict=True))
    assert texts["crash_recognition"] in ("Yes", "No") and texts["crash_description"] in (
        "car hits a car",
        "no collision.",
    )
    for task in ("crash_localization", "pre_crash_localization"):
        assert max(TASKS[task].ground_truth(texts[task]).values()) <= end
    # What is free stays what it was, beside constrained branches.
    (free,), _, _ = answer_from_prefix(
        model, tiny_tokenizer, prefix=prefix, questions=asked, max_new_tokens=48
    )
    assert answers[2:4] == free[2:4] and answers[:2] != free[:2]
