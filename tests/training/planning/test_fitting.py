"""What is proposed for a card fits it."""

from dataclasses import replace

import pytest

from crashchat.config import CONFIG_DIR, ConfigError, load_config
from crashchat.second_stages import ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.training.planning.fitting import Needs, Way, fit, ways_of
from crashchat.training.planning.gpus import GIB, RESERVED_GIB, Gpu
from crashchat.training.planning.ledger import FROZEN, GRADIENTS, LANGUAGE, OPTIMIZER, TRAINED, Memory
from crashchat.training.planning.shapes import VideoShape
from crashchat.training.planning.zero import EXCHANGE, Sharing, ZeroFields, read_zero
from tests.helpers.planning import TWO, config_of, imagined

REINFORCED = CONFIG_DIR / "train" / "reinforce_localization.yaml"


PLAIN = Memory(
    {FROZEN: 1600, TRAINED: 60, GRADIENTS: 0, OPTIMIZER: 120, LANGUAGE: 800},
    {FROZEN: 1600, TRAINED: 60, GRADIENTS: 60, OPTIMIZER: 180, LANGUAGE: 800},
)


def test_processes_share_what_their_stage_says():
    assert Sharing(1, None, 15).of(PLAIN).peak == PLAIN.peak
    assert Sharing(4, None, 15).of(PLAIN).at_peak[EXCHANGE] == 60  # DDP's buckets
    peaks = {}
    for stage in (1, 2, 3):
        zero = read_zero(CONFIG_DIR / "deepspeed" / f"zero{stage}.json")
        assert zero is not None and zero.stage == stage and zero.reduce_bucket_size == 5e8
        shared = Sharing(4, ZeroFields(stage=stage, reduce_bucket_size=10), 15).of(PLAIN)
        peaks[stage] = shared.peak
        assert shared.at_peak[OPTIMIZER] == 12 * 15 / 4
        assert shared.largest[GRADIENTS] == (60 if stage == 1 else 15)
        assert shared.at_peak[FROZEN] == (400 if stage == 3 else 1600)
        assert shared.at_peak[LANGUAGE] == 800
    assert peaks[1] == peaks[2] < PLAIN.peak


def test_a_deepspeed_config_that_says_nonsense_is_named(tmp_path):
    path = tmp_path / "zero.json"
    path.write_text('{"zero_optimization": {"stage": 7}}')
    with pytest.raises(ConfigError, match="zero.json: zero_optimization.stage"):
        read_zero(path)


def card(bytes_of_it: float) -> Gpu:
    return Gpu("a card", bytes_of_it / GIB + RESERVED_GIB, tflops=1, link=1, price=1, memory=1)


@pytest.fixture(scope="module")
def fitting():
    """A model, a video, what a short pass and a long one take, and what a validation pass does."""
    video = VideoShape(20, 8, 8, kept=1280, text=100, questions=TWO)
    model = imagined()
    runs = [
        (sum(one.length for one in some), model.run(some, every=1))
        for some in ([replace(video, kept=640)], [video] * 4)
    ]
    return model, video, runs, model.validate([video])


def needs_of(runs, validation: Memory, processes: int = 1, frozen: int = 0) -> Needs:
    return Needs(*runs, validation, sharing=Sharing(processes, None, 1), frozen=frozen)


def test_what_a_fit_proposes_fits(fitting, tiny_base, tiny_data, tmp_path):
    """For cards that hold less and less; what is proposed is imagined anew."""
    model, video, runs, least = fitting
    config = config_of(tiny_base, tiny_data, tmp_path, "gradient_checkpointing=true")
    needs, long, most = (
        needs_of(runs, least),
        [video] * 4,
        runs[1][1].peak,
    )
    assert fit(card(most * 1.01), config, needs, long).settings == []
    (batch,) = fit(card(most * 0.7), config, needs, long).settings or []
    tokens = int(batch.removeprefix("max_tokens_per_batch="))
    proposed = replace(video, text=video.text + tokens - video.length)
    assert tokens >= video.length and model.run([proposed], every=1).peak <= most * 0.7
    # One video is too much: fewer visual tokens of it.
    room = runs[0][1].peak * 1.1
    visual, batch = fit(card(room), config, needs, long).settings or []
    kept = int(visual.removeprefix("max_visual_tokens="))
    assert kept < video.kept and batch.startswith("max_tokens_per_batch=")
    assert model.run([replace(video, kept=kept)], every=1).peak <= room
    assert fit(card(1000), config, needs, long).settings is None
    # Where training fits and validation does not, both have a limit.
    wide = needs_of(runs, runs[1][1])
    found = fit(card(most * 0.99), config, wide, long).settings or []
    assert len(found) == 1 and found[0].startswith("max_tokens_per_batch=")
    # Several processes can share the weights, and one can have them in 4 bits, before a video loses anything.
    several = ways_of(config, needs_of(runs, least, 8, 10_000))
    assert [way.settings for way in several] == [
        [], ["deepspeed=configs/deepspeed/zero3.json"], ["quantization=4bit"],
    ]  # fmt: skip
    shared = Way([], ZeroFields(stage=3, reduce_bucket_size=1, stage3_max_live_parameters=1))
    assert needs_of(runs, least, 8).peak(9, shared) < needs.peak(9, Way([], None))
    small = needs_of(runs, least, frozen=10_000).peak(9, Way([], None, four_bits=True))
    assert needs.peak(9, Way([], None)) - small == pytest.approx(10_000 * 1.484, rel=0.001)


def test_without_checkpointing_that_is_what_a_fit_changes_first(fitting, tiny_base, tiny_data, tmp_path):
    _, video, runs, least = fitting
    config = config_of(tiny_base, tiny_data, tmp_path)
    room = card(2 * runs[1][1].peak)
    found = fit(room, config, needs_of(runs, least), [video])
    assert found.settings == ["gradient_checkpointing=true"]


def test_no_run_that_draws_is_offered_weights_that_are_spread(tiny_base, tiny_data):
    words = [f"data_dir={tiny_data}", f"base_model={tiny_base}"]
    sharing = Sharing(8, None, 1)
    memory = Memory({FROZEN: 1}, {FROZEN: 1})
    needs = Needs((1, memory), (2, memory), memory, sharing=sharing, frozen=0)

    def offered(config):
        return " ".join(setting for way in ways_of(config, needs) for setting in way.settings)

    assert "zero3" in offered(load_config(TrainConfig, CONFIG_DIR / "train" / "heterogeneous.yaml", words))
    assert "zero3" not in offered(load_config(ReinforceConfig, REINFORCED, words))
