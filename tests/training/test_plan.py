"""A run's plan: its memory and operations are held against what real steps allocate and compute, its passes
against training's own, its proposals against themselves.
"""

import json
import re
import shlex
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import VideoLlama3Config

from crashchat.checkpoints.folders import load_video_settings
from crashchat.checkpoints.layouts import SO400M
from crashchat.config import CONFIG_DIR, ROOT, ConfigError, load_config
from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.quantized import quantize
from crashchat.model.videollama3 import CrashChatModel
from crashchat.second_stages import ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.training.batches import QuestionDataset, QuestionSampler
from crashchat.training.planning.cost import Exchange, OperationCounter, pairs_of, time_of
from crashchat.training.planning.fitting import Needs, Way, fit, ways_of
from crashchat.training.planning.gpus import GIB, GPUS, RESERVED_GIB, Gpu
from crashchat.training.planning.ledger import FROZEN, GRADIENTS, LANGUAGE, OPTIMIZER, TRAINED, VISION, Memory
from crashchat.training.planning.making import every_of, shortfall
from crashchat.training.planning.memory import Imagined, batch_of
from crashchat.training.planning.plan import warn_of_memory
from crashchat.training.planning.shapes import VideoShape, shapes_of, steps_of
from crashchat.training.planning.work import DrawnWork, work_of
from crashchat.training.planning.zero import EXCHANGE, Sharing, ZeroFields, read_zero
from crashchat.training.setup import prepared
from tests.helpers.commands import TRAIN_CONFIG, crashchat

SIX = ((60, 20),) * 6
TWO = ((30, 10),) * 2
# hidden, layers, heads, key-value heads, intermediate, vocabulary; the vision encoder's hidden, layers,
# intermediate, heads
SIZES = {
    "tiny": ((96, 3, 4, 2, 256, 1169), (48, 2, 128, 4)),
    "small": ((256, 6, 8, 2, 768, 1169), (96, 4, 256, 4)),
    "medium": ((512, 6, 8, 2, 1408, 4096), (192, 3, 512, 4)),
}
PASSES = {
    "tiny": [VideoShape(20, 2, 4, kept=160, text=100, branches=SIX)],
    "small": [VideoShape(24, 4, 5, kept=300, text=160, branches=SIX)],
    "medium": [VideoShape(16, 4, 6, kept=384, text=100, branches=TWO)],
}


def model_config(size: str) -> VideoLlama3Config:
    text, vision = SIZES[size]
    names = (
        "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size vocab_size"
    )
    parts = "hidden_size num_hidden_layers intermediate_size num_attention_heads"
    rope = {"rope_type": "default", "rope_theta": 1e4}
    config = VideoLlama3Config(
        text_config={
            "model_type": "qwen2",
            "rope_parameters": rope,
            **dict(zip(names.split(), text, strict=True)),
        },
        vision_config=SO400M | dict(zip(parts.split(), vision, strict=True)),
    )
    config.video_token_id = config.image_token_id = text[-1] - 1
    return config


def settings(*words: str) -> TrainConfig:
    return load_config(
        TrainConfig, None, ["output_dir=out", "lora_rank=16", "gradient_checkpointing=false", *words]
    )


class Measured(NamedTuple):
    peak: int  # bytes
    linear: float  # operations of matrix products


@cache
def measured(size: str, *words: str) -> Measured:
    """A real second step on a CPU, as torch's profiler saw it allocate and compute."""
    config, sizes = settings(*words), model_config(size)
    sizes.text_config._attn_implementation = BRANCH_ATTENTION
    torch.manual_seed(0)
    bfloat16 = config.dtype == "bfloat16"
    base = CrashChatModel(sizes).to(torch.bfloat16 if bfloat16 else torch.float32)
    model = prepared(base, config).train()
    if config.gradient_checkpointing:
        layers = {"every_n_layers": config.checkpoint_every_n_layers}
        base.activation_checkpointing_enable({"use_reentrant": False}, **layers)
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained)

    def step(batch) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            loss = model(**batch.as_dict()).loss_sum
        loss.backward()
        del loss
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step(batch_of([VideoShape(1, 2, 2, kept=4, text=2, branches=TWO)], sizes.video_token_id))
    batch = batch_of(PASSES[size], sizes.video_token_id)
    states = [value for state in optimizer.state.values() for value in state.values()]
    live = peak = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers(), *states])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, with_flops=True) as profiler:
        step(batch)
    events = profiler.profiler.kineto_results.events()
    for event in sorted((one for one in events if one.name() == "[memory]"), key=lambda one: one.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    products = {"aten::mm", "aten::addmm", "aten::bmm"}
    return Measured(peak, sum(one.flops for one in profiler.key_averages() if one.key in products))


CHECKPOINTING = "gradient_checkpointing=true"
RUNS = [
    ("tiny", "finetune=full"),
    ("tiny",),
    ("tiny", "dtype=bfloat16", CHECKPOINTING),
    ("tiny", "lora_on_vision=true", "lora_targets=q_proj,v_proj"),
    # A third of the time that all six take; the other two with checkpointing lie on either side of it.
    pytest.param(("small", CHECKPOINTING), marks=pytest.mark.slow),
    ("medium", CHECKPOINTING, "checkpoint_every_n_layers=2"),
]


@pytest.mark.parametrize("run", RUNS, ids=" ".join)
def test_the_imagined_peak_is_what_a_real_step_allocates(run):
    size, *words = run
    config = settings(*words)
    memory = Imagined(model_config(size), config, gpu=False).run(PASSES[size], every=every_of(config))
    assert memory.peak == pytest.approx(measured(*run).peak, rel=0.1)


def test_a_4bit_bases_weights_are_as_large_as_real_ones():
    """Of the peak on a CPU nothing can be learnt: bitsandbytes does not compute there as it does on a GPU."""
    Linear4bit = pytest.importorskip("bitsandbytes.nn", reason="requirements-quantized.txt").Linear4bit
    sizes, config = model_config("tiny"), settings("quantization=4bit", "dtype=bfloat16")
    base = CrashChatModel(sizes).bfloat16()
    quantize(base)
    base.to("cpu")  # which quantises
    expected = sum(weight.nbytes for weight in base.parameters()) + sum(
        tensor.nbytes
        for module in base.modules()
        if isinstance(module, Linear4bit)
        for tensor in (module.weight.quant_state.absmax, module.weight.quant_state.state2.absmax)
    )
    imagined = Imagined(sizes, config)
    plain = Imagined(sizes, settings("dtype=bfloat16"))
    frozen = [one.run(PASSES["tiny"], every=1).at_peak[FROZEN] for one in (imagined, plain)]
    assert frozen[0] == pytest.approx(expected, rel=0.02) and frozen[0] < 0.8 * frozen[1]


def test_eight_bits_and_offloading_take_less():
    pytest.importorskip("bitsandbytes", reason="requirements-quantized.txt is not installed")
    small = ["dora=true", "quantization=4bit"]
    plain, eight, away, dora = (
        Imagined(model_config("tiny"), settings(*words)).run(PASSES["tiny"], every=0)
        for words in ([], ["optimizer=adamw_8bit"], ["offload_activations=true"], small)
    )
    assert eight.at_peak[OPTIMIZER] < 0.3 * plain.at_peak[OPTIMIZER]
    assert away.peak < 0.6 * plain.peak and away.at_peak[TRAINED] == plain.at_peak[TRAINED]
    assert dora.at_peak[TRAINED] > plain.at_peak[TRAINED]


@pytest.mark.parametrize("run", [RUNS[0], RUNS[1], RUNS[3], RUNS[4], RUNS[5]], ids=" ".join)
def test_the_operations_are_what_a_real_step_computes(run):
    """But for attention, whose causal half torch's profiler does not know, and for convolutions."""
    size, *words = run
    config, total = settings(*words), 0.0
    counter = OperationCounter(model_config(size), config)
    again = 1 / config.checkpoint_every_n_layers if config.gradient_checkpointing else 0
    for video in PASSES[size]:
        (hidden, layers, *_), (wide, deep, *_) = SIZES[size]
        patches, full = video.visual * 4, config.finetune == "full"
        attention = 4 * hidden * layers * pairs_of(video) * (1 + again + 2.5)
        frames = 4 * wide * deep * patches * patches / video.frames
        frames *= 1 + again + 2.5 if full or config.lora_on_vision else 1
        # LoRA on the encoder has it run its first layer backward, but not the convolution before.
        convolution = 2 * 588 * wide * patches * (3 if full else 2 if config.lora_on_vision else 1)
        total += counter.step(video).total - attention - frames - convolution
    assert total == pytest.approx(measured(*run).linear, rel=0.01)


def test_parts_are_put_on_their_own_accounts():
    model = Imagined(model_config("tiny"), settings(), gpu=False)
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


def test_a_gpu_takes_half_of_a_cpu_and_no_float_for_a_dropped_number():
    runs = {
        gpu: Imagined(model_config("tiny"), settings(), gpu).run(PASSES["tiny"], every=1)
        for gpu in (False, True)
    }
    assert runs[True].at_peak[FROZEN] == pytest.approx(runs[False].at_peak[FROZEN] / 2, rel=0.01)
    assert runs[True].largest[LANGUAGE] < 0.7 * runs[False].largest[LANGUAGE]


def test_the_peak_grows_in_step_with_the_tokens():
    model = Imagined(model_config("tiny"), settings())
    (video,) = PASSES["tiny"]
    runs = {times: model.run([replace(video, text=video.text * times)], every=1) for times in (2, 4, 6)}
    first, second, third = (runs[times].peak for times in (2, 4, 6))
    assert second - first == pytest.approx(third - second, rel=0.02)


def config_of(tiny_base, tiny_data, tmp_path, *more: str) -> TrainConfig:
    words = [f"base_model={tiny_base}", f"data_dir={tiny_data}", f"output_dir={tmp_path / 'out'}", *more]
    return load_config(TrainConfig, ROOT / TRAIN_CONFIG, ["with=configs/train/tiny_model.yaml", *words])


def test_shapes_and_passes_are_those_of_training(tiny_base, tiny_data, tiny_tokenizer, tmp_path):
    config = config_of(tiny_base, tiny_data, tmp_path, "max_tokens_per_batch=1500", "global_batch_size=8")
    video_settings = load_video_settings(tiny_base)
    split = shapes_of(config, "train", video_settings, tiny_tokenizer, measured=6)
    videos = load_annotations(annotation_paths(tiny_data, config.tasks, "train"), tiny_data, config.tasks)
    limits = (config.max_length, config.max_tokens_per_batch)
    dataset = QuestionDataset(videos, tiny_tokenizer, video_settings, *limits)
    assert len(split.videos) == 6 and split.seconds_to_read > 0
    for step, *shares in zip(
        steps_of(config, split.videos, 2),
        *(QuestionSampler(dataset.numbers, 8, rank=rank, processes=2, seed=config.seed) for rank in (0, 1)),
        strict=True,
    ):
        for planned, numbers in zip(step, shares, strict=True):
            made = [one.batch for one in dataset.__getitems__(numbers).passes]
            assert [sum(video.length for video in one) for one in planned] == [
                batch.input_ids.shape[1] for batch in made
            ]
            assert [sum(video.labelled for video in one) for one in planned] == [
                int((batch.labels >= 0).sum()) for batch in made
            ]
            imagined = [batch_of(one, image_token=1) for one in planned]
            for one, other in zip(imagined, made, strict=True):
                assert one.pixel_values_videos.shape == other.pixel_values_videos.shape
                assert one.video_grid_thw == other.video_grid_thw
                assert torch.equal(one.branch_ids, other.branch_ids)
                assert torch.equal(one.position_ids, other.position_ids)


def test_without_annotations_the_released_set_is_taken(tiny_base, tmp_path):
    config = load_config(TrainConfig, ROOT / TRAIN_CONFIG, [f"data_dir={tmp_path}"])
    video_settings = load_video_settings(tmp_path, max_visual_tokens=config.max_visual_tokens)
    split = shapes_of(config, "train", video_settings)
    assert len(split.videos) == 14_708 and "released set" in split.sources[0]
    assert {len(video.branches) for video in split.videos} == {4, 6}
    assert 5.1 < sum(len(video.branches) for video in split.videos) / len(split.videos) < 5.3
    assert 9_000 < split.videos[0].prefix < 10_240 and split.videos[0].frames == 96
    fewer = load_video_settings(tmp_path, max_frames=32, max_visual_tokens=1024)
    assert shapes_of(config, "train", fewer).videos[0].visual <= 1024
    perception = load_config(
        TrainConfig, CONFIG_DIR / "train" / "homogeneous_perception.yaml", [f"data_dir={tmp_path}"]
    )
    assert len(shapes_of(perception, "train", video_settings).videos) == round(14_708 * 1_139 / 1_838)


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
    video = VideoShape(20, 8, 8, kept=1280, text=100, branches=TWO)
    model = Imagined(model_config("tiny"), settings())
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


def test_the_slowest_process_and_its_readers_make_a_steps_time():
    counter = OperationCounter(model_config("tiny"), settings(CHECKPOINTING))
    (video,) = PASSES["tiny"]
    exchange = Exchange(gradients=10**9, weights=0, processes=2, nodes=1)
    how = {"rate": 1e9, "gpu": GPUS["l40s-48"], "exchange": exchange}
    one, two = counter.step(video).total, counter.step(video).total * 2
    step = time_of([[[video, video]], [[video]]], counter, read=0.0, vision=True, **how)
    assert step.operations.total == pytest.approx(one + two) and step.slowest == pytest.approx(two)
    assert step.exchanging == pytest.approx(10**9 / (20 * 10**9))
    assert step.seconds == pytest.approx(two / 1e9 + step.exchanging)
    slow = time_of([[[video, video]], [[video]]], counter, read=500.0, vision=True, **how)
    assert slow.seconds == slow.reading == 1000.0
    cached = time_of([[[video, video]], [[video]]], counter, read=500.0, vision=False, **how)
    assert cached.reading == 0 and cached.operations.vision == 0
    apart = Exchange(10**9, 0, processes=2, nodes=2)
    assert apart.seconds(GPUS["h100-80"], 1) > exchange.seconds(GPUS["h100-80"], 1)


def test_a_plan_is_printed_and_written(tiny_base, tiny_data, tmp_path):
    words = [
        "plan", TRAIN_CONFIG, "--gpu", "l40s-48", "--gpus", "2", "with=configs/train/tiny_model.yaml",
        f"base_model={tiny_base}", f"data_dir={tiny_data}", "--price", "2", "--tflops", "100",
        "--json", tmp_path / "plan.json",
    ]  # fmt: skip
    told = crashchat(*words)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert f"{tiny_base}, its config.json" in told and "questions and answers of the annotations" in told
    assert "100 TFLOP/s a GPU, 28% of its peak" in told and "2.00 $ a GPU-hour" in told
    assert plan["videos"] == 6 and plan["peak"] == sum(plan["memory"]["at_peak"].values())
    assert plan["dollars"]["run"] == pytest.approx(plan["seconds"]["run"] / 3600 * 2 * 2)
    assert plan["step"]["computing"] == pytest.approx(plan["step"]["slowest"] / 100e12)
    assert [one["settings"] for one in plan["fits"]] == [[]] * 4
    assert "does not fit" not in told
    assert "expected one of rtx4090-24, " in crashchat("plan", TRAIN_CONFIG, "--gpu", "h1000", ok=False)
    refused = crashchat("plan", TRAIN_CONFIG, "--gpus", "25", ok=False)
    assert "25 processes cannot share so few questions" in refused


@pytest.mark.slow  # the 7B model's plan takes twenty seconds; the test before it has a small one's
def test_the_page_has_the_recipes_plan(tmp_path):
    """As the command prints it where neither the released model nor the released data are at hand."""
    lines = (ROOT / "docs" / "gpus.md").read_text().splitlines()
    (first,) = (index for index, line in enumerate(lines) if line.startswith("    crashchat plan "))
    words = shlex.split(lines[first])[1:]
    told = crashchat(
        *words, f"base_model={tmp_path}", f"data_dir={tmp_path}", "--json", tmp_path / "plan.json"
    )
    shown = [line.removeprefix("    ") for line in lines[first + 2 :]]
    printed = [line.rstrip() for line in told.splitlines()]
    printed = printed[printed.index(shown[0]) :]
    assert shown[: len(printed)] == printed
    plan = json.loads((tmp_path / "plan.json").read_text())
    # LoRA's 161.5 million weights and the projector's 17.0 million, in float32.
    assert plan["memory"]["largest"][TRAINED] == 4 * 178_461_696
    assert plan["questions"] == 77_060 and plan["steps_an_epoch"] == 3_211


def test_before_training_a_line_says_that_it_would_not_fit(tiny_base, tiny_data, tmp_path, capsys):
    config = config_of(tiny_base, tiny_data, tmp_path)
    line = shortfall(config, 10 * 2**20, 1)
    assert line and re.search(r"a pass of [\d,]+ tokens is planned to take .* of a card that has 0.0", line)
    assert shortfall(config, 2**40, 1) is None
    words = [f"data_dir={tiny_data}", f"base_model={tiny_base}", "output_dir=out", "global_batch_size=0"]
    assert shortfall(load_config(ReinforceConfig, None, words), 10 * 2**20, 1)
    if not torch.cuda.is_available():  # no card to be told of
        warn_of_memory(config)
        assert capsys.readouterr().err == ""


REINFORCED = CONFIG_DIR / "train" / "reinforce_localization.yaml"


def test_a_run_that_draws_answers_is_planned_as_it_draws_and_learns(tiny_base, tiny_data, tiny_tokenizer):
    words = [f"data_dir={tiny_data}", f"base_model={tiny_base}", "videos_per_step=3", "rollouts=4"]
    words += ["updates=2", "eval_steps=50", "global_batch_size=6"]
    config = load_config(ReinforceConfig, REINFORCED, words)
    settings = load_video_settings(tiny_base)
    work = work_of(config, 2, lambda one, split: shapes_of(one, split, settings, tiny_tokenizer))
    assert isinstance(work, DrawnWork)
    paths = annotation_paths(tiny_data, config.tasks, "train")
    videos = load_annotations(paths, tiny_data, config.tasks)
    assert len(work.fetches) == -(-len(videos) // 3)
    assert work.train.questions == sum(len(video.questions) for video in videos)
    first, again = work.steps[::2], work.steps[1::2]
    for fetch, own, behind in zip(work.fetches, first, again, strict=True):
        assert own == [share.drawn + share.annotated for share in fetch]
        assert behind == [share.drawn for share in fetch]
        for share in fetch:
            drawn = [len(video.branches) for one in share.drawn for video in one]
            assert sum(drawn) == 4 * sum(len(video.branches) for video in share.asked)
        annotated = [video for share in fetch for one in share.annotated for video in one]
        assert sum(len(video.branches) for video in annotated) == 6


def test_what_drawing_takes_is_told(tiny_base, tiny_data, tmp_path):
    out, words = tmp_path / "plan.json", [f"base_model={tiny_base}", f"data_dir={tiny_data}"]
    given = ("--gpus", 2, "--tflops", 1, "--json", out)
    told = crashchat("plan", REINFORCED, *words, "adapter=nowhere", "lora_rank=8", *given)
    assert "an adapter of rank 8 (lora_rank, as nowhere is not there)" in told
    assert re.search(r"drawing answers +[\d,]+ +\d+%", told) and "drawing waits" in told
    plan = json.loads(out.read_text())
    assert plan["steps"] == 600 and plan["step"]["operations"]["drawing"] > 0
    assert plan["step"]["computing"] > plan["step"]["waiting"] > 0
    assert max(len(video["branches"]) for video in plan["longest"]) == 16, "eight answers to two questions"
    assert "unknown key 'nonsense'" in crashchat("plan", REINFORCED, *words, "nonsense=1", ok=False)


def test_no_run_that_draws_is_offered_weights_that_are_spread(tiny_base, tiny_data):
    words = [f"data_dir={tiny_data}", f"base_model={tiny_base}"]
    sharing = Sharing(8, None, 1)
    memory = Memory({FROZEN: 1}, {FROZEN: 1})
    needs = Needs((1, memory), (2, memory), memory, sharing=sharing, frozen=0)

    def offered(config):
        return " ".join(setting for way in ways_of(config, needs) for setting in way.settings)

    assert "zero3" in offered(load_config(TrainConfig, CONFIG_DIR / "train" / "heterogeneous.yaml", words))
    assert "zero3" not in offered(load_config(ReinforceConfig, REINFORCED, words))
