"""The slowest process and its readers make a step's time."""

from functools import partial

import pytest

from crashchat.training.planning.cost import Exchange, OperationCounter, time_of
from crashchat.training.planning.gpus import GPUS
from tests.helpers.planning import CHECKPOINTING, PASSES, model_config, settings


def test_the_slowest_process_and_its_readers_make_a_steps_time():
    counter = OperationCounter(model_config("tiny"), settings(CHECKPOINTING))
    (video,) = PASSES["tiny"]
    exchange = Exchange(gradients=10**9, weights=0, processes=2, nodes=1)
    how = {"rate": 1e9, "gpu": GPUS["l40s-48"], "exchange": exchange}
    one, two = counter.step(video).total, counter.step(video).total * 2
    step = time_of([[[video, video]], [[video]]], counter.step, read=0.0, **how)
    assert step.operations.total == pytest.approx(one + two) and step.slowest == pytest.approx(two)
    assert step.exchanging == pytest.approx(10**9 / (20 * 10**9))
    assert step.seconds == pytest.approx(two / 1e9 + step.exchanging)
    slow = time_of([[[video, video]], [[video]]], counter.step, read=500.0, **how)
    assert slow.seconds == slow.reading == 1000.0
    cached = time_of([[[video, video]], [[video]]], partial(counter.step, vision=False), read=0.0, **how)
    assert cached.reading == 0 and cached.operations.vision == 0 < step.operations.vision
    apart = Exchange(10**9, 0, processes=2, nodes=2)
    assert apart.seconds(GPUS["h100-80"], 1) > exchange.seconds(GPUS["h100-80"], 1)
