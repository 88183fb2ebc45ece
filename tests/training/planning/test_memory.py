"""The imagined peak is what a real step allocates, part by part."""

from dataclasses import replace

import pytest
import torch

from crashchat.model.quantized import quantize
from crashchat.model.videollama3 import CrashChatModel
from crashchat.training.planning.ledger import FROZEN, GRADIENTS, LANGUAGE, OPTIMIZER, TRAINED, VISION
from crashchat.training.planning.memory import Imagined
from tests.helpers.planning import PASSES, imagined, model_config, settings


def test_a_4bit_bases_weights_are_as_large_as_real_ones():
    """Of the peak on a CPU nothing can be learnt: bitsandbytes does not compute there as it does on a GPU."""
    Linear4bit = pytest.importorskip("bitsandbytes.nn", reason="requirements-quantized.txt").Linear4bit
    base = CrashChatModel(model_config("tiny")).bfloat16()
    quantize(base)
    base.to("cpu")  # which quantises
    expected = sum(weight.nbytes for weight in base.parameters()) + sum(
        tensor.nbytes
        for module in base.modules()
        if isinstance(module, Linear4bit)
        for tensor in (module.weight.quant_state.absmax, module.weight.quant_state.state2.absmax)
    )
    runs = [imagined(*words, "dtype=bfloat16") for words in (["quantization=4bit"], [])]
    frozen = [one.run(PASSES["tiny"], every=1).at_peak[FROZEN] for one in runs]
    assert frozen[0] == pytest.approx(expected, rel=0.02) and frozen[0] < 0.8 * frozen[1]


def test_eight_bits_and_offloading_take_less():
    pytest.importorskip("bitsandbytes", reason="requirements-quantized.txt is not installed")
    small = ["dora=true", "quantization=4bit"]
    plain, eight, away, dora = (
        imagined(*words).run(PASSES["tiny"], every=0)
        for words in ([], ["optimizer=adamw_8bit"], ["offload_activations=true"], small)
    )
    assert eight.at_peak[OPTIMIZER] < 0.3 * plain.at_peak[OPTIMIZER]
    assert away.peak < 0.6 * plain.peak and away.at_peak[TRAINED] == plain.at_peak[TRAINED]
    assert dora.at_peak[TRAINED] > plain.at_peak[TRAINED]


def test_parts_are_put_on_their_own_accounts():
    model = imagined(gpu=False)
    weights = sum(weight.nbytes for weight in model.trained)
    every = sum(weight.nbytes for weight in model.model.parameters())
    first, behind = (model.run(PASSES["tiny"], every=1, again=again) for again in (False, True))
    assert first.at_peak[TRAINED] == weights and first.largest[GRADIENTS] == weights
    assert every - weights <= first.at_peak[FROZEN] < every - weights + 10_000  # and the rotary frequencies
    assert 2 * weights <= first.at_peak[OPTIMIZER] < 2.2 * weights
    assert 0 < first.largest[VISION] < first.largest[LANGUAGE] < first.peak
    # A pass behind another one has that one's gradients beside it from the beginning.
    assert behind.at_peak[GRADIENTS] == weights > first.at_peak[GRADIENTS]
    state = torch.get_rng_state()
    assert model.validate(PASSES["tiny"]).peak < first.peak
    without = model.run(PASSES["tiny"], every=0)
    assert torch.equal(
        state, torch.get_rng_state()
    )  # training that has planned draws what it would have drawn
    assert without.largest[LANGUAGE] > 2 * first.largest[LANGUAGE]
    again = model.run(PASSES["tiny"], every=1)
    assert again == first  # nothing of a run is left behind


def test_the_adapter_of_the_start_is_kept_in_the_bases_type():
    alone, beside = (
        Imagined(model_config("tiny"), settings("beta=1"), start=start).run(PASSES["tiny"], every=1)
        for start in (False, True)
    )
    assert beside.at_peak[FROZEN] == alone.at_peak[FROZEN] + alone.at_peak[TRAINED] / 2
    assert beside.at_peak[TRAINED] == alone.at_peak[TRAINED]


def test_a_gpu_takes_half_of_a_cpu_and_no_float_for_a_dropped_number():
    runs = {gpu: imagined(gpu=gpu).run(PASSES["tiny"], every=1) for gpu in (False, True)}
    assert runs[True].at_peak[FROZEN] == pytest.approx(runs[False].at_peak[FROZEN] / 2, rel=0.01)
    assert runs[True].largest[LANGUAGE] < 0.7 * runs[False].largest[LANGUAGE]


def test_the_peak_grows_in_step_with_the_tokens():
    model = imagined()
    (video,) = PASSES["tiny"]
    runs = {times: model.run([replace(video, text=video.text * times)], every=1) for times in (2, 4, 6)}
    first, second, third = (runs[times].peak for times in (2, 4, 6))
    assert second - first == pytest.approx(third - second, rel=0.02)
