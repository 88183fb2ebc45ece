"""Calls of several threads that wait for the model are made as one, and each is told its own."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from crashchat.answering.cascade import LINGUISTIC, Cascade, _Run
from crashchat.answering.engines import VideoContext
from crashchat.answering.loading import load_cascade
from crashchat.answering.together import Together
from crashchat.tasks import TASKS
from crashchat.video.decode import Clip
from crashchat.video.tokens import tokens_of_clip
from tests.helpers.flashes import FPS, MAX_FRAMES, frames
from tests.helpers.models import CPU

TURN = threading.RLock


def called_while_busy(turn: threading.RLock, waiting: Sequence, calls: Sequence[Callable]) -> list:
    """What some calls return, or raise, that came one after the other while another held the turn."""

    def outcome(call: Callable):
        try:
            return call()
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(len(calls)) as pool:
        with turn:
            made = []
            for call in calls:
                made.append(pool.submit(outcome, call))
                while len(waiting) < len(made):
                    time.sleep(0.001)
        return [one.result(60) for one in made]


def test_what_waits_is_taken_together_in_order_as_far_as_it_fits():
    turn, worked = TURN(), []

    def work(calls: Sequence[int]) -> list[int]:
        worked.append(list(calls))
        return [call**2 for call in calls]

    together = Together(work, lambda calls: len(calls) <= 3 and len({call % 2 for call in calls}) == 1, turn)
    assert together(5) == 25 and worked == [[5]]
    calls = [lambda number=number: together(number) for number in (1, 2, 3, 5, 7, 4)]
    assert called_while_busy(turn, together._waiting, calls) == [1, 4, 9, 25, 49, 16]
    assert worked[1:] == [[1, 3, 5], [2, 4], [7]]


def test_who_has_its_answer_does_not_wait_for_the_next_turn():
    going, may_end = threading.Event(), threading.Event()

    def work(calls: Sequence[int]) -> list[int]:
        if 9 in calls:
            going.set()
            assert may_end.wait(60)
        return list(calls)

    together = Together(work, lambda calls: 9 not in calls, turn := TURN())
    with ThreadPoolExecutor(4) as pool:
        with turn:
            made = []
            for number in (1, 9, 2, 3):
                made.append(pool.submit(together, number))
                while len(together._waiting) < len(made):
                    time.sleep(0.001)
        try:
            others = [made[0], *made[2:]]
            assert going.wait(60) and [one.result(60) for one in others] == [1, 2, 3]
            assert not made[1].done()
        finally:
            may_end.set()
        assert made[1].result(60) == 9


def test_a_call_that_fails_fails_alone():
    turn, worked = TURN(), []

    def work(calls: Sequence[int]) -> list[int]:
        worked.append(list(calls))
        if 2 in calls:
            raise ValueError("not 2")
        return list(calls)

    together = Together(work, lambda calls: True, turn)
    calls = [lambda number=number: together(number) for number in (1, 2, 3)]
    assert called_while_busy(turn, together._waiting, calls) == [1, "not 2", 3]
    assert worked == [[1, 2, 3], [1], [2], [3]]
    assert together(4) == 4  # the turn was given back


@pytest.fixture(scope="module")
def cascade(tiny_base, flash_adapters) -> Cascade:
    settings = {"fps": FPS, "max_frames": MAX_FRAMES, "max_new_tokens": 24, "device": CPU}
    return load_cascade(tiny_base, *flash_adapters, **settings)


def look_at(cascade: Cascade, count: int, flash: tuple[int, int] | None) -> VideoContext:
    pictures = torch.from_numpy(frames(90, count, flash)).permute(0, 3, 1, 2)
    clip = Clip("", pictures, [float(second) for second in range(count)])
    return VideoContext([tokens_of_clip(clip, cascade.answerer.settings)])


def test_clips_of_several_requests_are_looked_at_together_and_answered_as_alone(cascade):
    clips = [(15, (6, 9)), (12, None), (15, (2, 5))]
    alone = [cascade.run(look_at(cascade, *clip))[0] for clip in clips]
    contexts = [look_at(cascade, *clip) for clip in clips]
    encoded, steps = [], [[] for _ in clips]
    vision = cascade.answerer.model.get_base_model().model.vision_model
    hook = vision.register_forward_pre_hook(lambda *_: encoded.append(1))
    calls = [
        lambda context=context, own=own: cascade.run(context, own.append)
        for context, own in zip(contexts, steps, strict=True)
    ]
    found = called_while_busy(cascade._lock, cascade._runs._waiting, calls)
    hook.remove()
    assert len(encoded) == 1
    for (output,), one in zip(found, alone, strict=True):
        assert output.answers == one.answers and output.crash == one.crash
        assert output.probability == pytest.approx(one.probability, abs=1e-5)
    assert [len(own) for own in steps] == [2, 1, 2]  # who saw no crash is not told of its times
    # What was encoded together stays with each, for a question to come.
    for context, (count, flash) in zip(contexts, clips, strict=True):
        own = look_at(cascade, count, flash)
        cascade.run(own)
        torch.testing.assert_close(context.features, own.features)
        question = TASKS["crash_description"].prompt
        assert cascade.ask(context, question, LINGUISTIC) == cascade.ask(own, question, LINGUISTIC)


def test_clips_of_other_context_are_not_taken_together(cascade):
    contexts = [look_at(cascade, 12, None) for _ in range(3)]
    columns = ({}, {"weather": "rain"}, {})
    made = [_Run(context, print, known) for context, known in zip(contexts, columns, strict=True)]
    assert cascade._fit([made[0], made[2]]) and not cascade._fit([made[0], made[1]])


def test_peoples_questions_on_several_clips_are_answered_together_as_alone(cascade):
    question, clips = TASKS["crash_description"].prompt, [(15, (6, 9)), (12, None), (15, (2, 5))]
    alone = [cascade.ask(look_at(cascade, *clip), question, LINGUISTIC) for clip in clips]
    contexts, sizes = [look_at(cascade, *clip) for clip in clips], []
    language = cascade.answerer.model.get_base_model().model.language_model
    hook = language.register_forward_pre_hook(
        lambda *given: sizes.append(given[2]["inputs_embeds"].shape[0]), with_kwargs=True
    )
    calls = [lambda context=context: cascade.ask(context, question, LINGUISTIC) for context in contexts]
    assert called_while_busy(cascade._lock, cascade._says._waiting, calls) == alone
    assert set(sizes) == {3} and len(set(alone)) > 1
    sizes.clear()
    assert cascade.ask(contexts[0], question, LINGUISTIC) == alone[0]
    prefilled = len(sizes)
    sizes.clear()
    assert cascade.ask(contexts[0], question, LINGUISTIC) == alone[0] and len(sizes) == prefilled - 1
    hook.remove()


def test_questions_of_programs_stop_where_each_asked_to(cascade):
    question, limits = TASKS["crash_description"].prompt, [3, None, 1]
    alone = [
        cascade.say(look_at(cascade, 15, (6, 9)), question, LINGUISTIC, most=most, heard=lambda tokens: None)
        for most in limits
    ]
    heard: list[list] = [[] for _ in limits]
    calls = [
        lambda most=most, own=own: cascade.say(
            look_at(cascade, 15, (6, 9)),
            question,
            LINGUISTIC,
            most=most,
            heard=own.append,
        )
        for most, own in zip(limits, heard, strict=True)
    ]
    assert called_while_busy(cascade._lock, cascade._says._waiting, calls) == alone
    assert [len(tokens) for tokens in alone[::2]] == [3, 1] and len(alone[1]) > 3
    for own, tokens in zip(heard, alone, strict=True):
        assert own[-1] == tokens and all(tokens[: len(part)] == part for part in own)
