"""The imagined peak is what a real step allocates, and the operations are what it computes."""

import pytest

from crashchat.training.planning.cost import OperationCounter, pairs_of
from crashchat.training.planning.making import every_of
from crashchat.training.planning.memory import Imagined
from tests.helpers.planning import PASSES, RUNS, SIZES, measured, model_config, settings


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_the_imagined_peak_is_what_a_real_step_allocates(run):
    size, *words = run
    config = settings(*words)
    model = Imagined(model_config(size), config, gpu=False, start=config.keeps_start)
    memory = model.run(PASSES[size], every=every_of(config))
    assert memory.peak == pytest.approx(measured(*run).peak, rel=0.1)


@pytest.mark.parametrize("run", [RUNS[0], RUNS[1], *RUNS[3:]], ids=" ".join)
def test_the_operations_are_what_a_real_step_computes(run):
    """But for attention, whose causal half torch's profiler does not know, and for convolutions."""
    size, *words = run
    config, total = settings(*words), 0.0
    counter = OperationCounter(model_config(size), config)
    again = 1 / config.checkpoint_every_n_layers if config.gradient_checkpointing else 0
    before = int(config.keeps_start)  # the model as it was at the start is asked as well
    for video in PASSES[size]:
        (hidden, layers, *_), (wide, deep, *_) = SIZES[size]
        patches, full = video.visual * 4, config.finetune == "full"
        attention = 4 * hidden * layers * pairs_of(video) * (1 + again + 2.5 + before)
        frames = 4 * wide * deep * patches * patches / video.frames
        frames *= 1 + again + 2.5 if full or config.lora_on_vision else 1 + before
        # LoRA on the encoder has it run its first layer backward, but not the convolution before.
        convolution = 2 * 588 * wide * patches
        convolution *= 3 if full else 2 if config.lora_on_vision else 1 + before
        total += counter.step(video).total + before * counter.at_the_start(video).total
        total -= attention + frames + convolution
    assert total == pytest.approx(measured(*run).linear, rel=0.01)
