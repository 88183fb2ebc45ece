"""Probabilities of listed answers, against the loss of each alone; patterns that always parse."""

import random

import pytest
import torch

from crashchat.answering.candidates import Question, candidate_probabilities
from crashchat.answering.constraints import Spelled, constraint_for
from crashchat.answering.generate import answer_from_prefix
from crashchat.answering.prefix import prefill
from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.config import CONFIG_DIR
from crashchat.model.packing import pack
from crashchat.model.sequence import Branch, build_sequence
from crashchat.tasks import TASKS, TaskSet, using
from crashchat.tasks.records import Record
from crashchat.video.reading import read_visual_tokens
from tests.answering.test_constraints import walk

NINE = TaskSet(CONFIG_DIR / "tasks" / "nine_tasks.yaml")


def test_a_candidate_is_as_likely_as_its_loss_says(tiny_base, tiny_tokenizer, tiny_data):
    model = load_model(tiny_base, tiny_tokenizer, torch.device("cpu"), torch.float32)
    settings = load_video_settings(tiny_base)
    paths = sorted((tiny_data / "videos").glob("test_*.mp4"))[:2]
    visuals = [read_visual_tokens(str(path), settings) for path in paths]
    prefix = prefill(model, tiny_tokenizer, visuals)
    yes_no = Question(TASKS["crash_recognition"].prompt, ("Yes", "No"))
    kinds = Question(NINE["crash_kind"].prompt, NINE["crash_kind"].answer.candidates)
    asked = [[yes_no, Question("Why?", ()), kinds], [kinds]]
    before = answer_from_prefix(model, tiny_tokenizer, prefix, [["Why?"], ["Why?"]], max_new_tokens=4).tokens
    found = candidate_probabilities(model, tiny_tokenizer, prefix, asked)
    assert (
        before
        == answer_from_prefix(model, tiny_tokenizer, prefix, [["Why?"], ["Why?"]], max_new_tokens=4).tokens
    )
    for visual, row, shares in zip(visuals, asked, found, strict=True):
        for question, own in zip(row, shares, strict=True):
            losses = []
            for candidate in question.candidates:
                branches = [Branch(question.text, candidate)]
                sequence = build_sequence(tiny_tokenizer, visual.seconds, visual.kept_per_frame, branches)
                with torch.no_grad():
                    losses.append(model(**pack([sequence], [visual]).as_dict()).loss_sum)
            expected = (-torch.stack(losses)).softmax(0).tolist() if losses else []
            assert own == pytest.approx(expected, abs=1e-5)


def test_what_a_pattern_allows_parses(tiny_tokenizer):
    chance = random.Random(0)
    kinds = [task.answer for name, task in NINE.items() if name in ("road_users", "vehicles")]
    parts = {"users": kinds[0], "count": kinds[1]}
    for kind in (*kinds, Record(kind="record", parts=parts)):
        constraint = Spelled(tiny_tokenizer, kind.pattern(9.0))
        for _ in range(10):
            text = tiny_tokenizer.decode(walk(constraint, tiny_tokenizer.eos_token_id, chance, most=120))
            assert kind.truth(text), text


def test_a_task_of_any_kind_is_constrained_by_it(tiny_tokenizer):
    with using(NINE):
        assert isinstance(constraint_for("road_users", tiny_tokenizer, 9.0), Spelled)
        assert constraint_for("crash_description", tiny_tokenizer, 9.0) is None
        for name in ("crash_kind", "vehicles", "crash_recognition"):
            assert constraint_for(name, tiny_tokenizer, 9.0).allowed([])
