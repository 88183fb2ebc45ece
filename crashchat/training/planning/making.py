"""The plan of a run: its longest pass, the memory of that, the time of its steps, and where it would fit."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from math import ceil
from statistics import mean

from transformers import PreTrainedTokenizerBase, VideoLlama3Config

from crashchat.checkpoints.folders import load_tokenizer, video_settings_of
from crashchat.checkpoints.layouts import SO400M, native_config, read_vision_config, text_and_vision
from crashchat.config import check_share
from crashchat.model.packing import split_by_tokens
from crashchat.model.sequence import image_token_id
from crashchat.processes import GPU_READERS
from crashchat.settings import SecondStageConfig, TrainConfig
from crashchat.training.planning.cost import Exchange, OperationCounter, Step, time_of
from crashchat.training.planning.fitting import Fit, Needs, fit
from crashchat.training.planning.gpus import GIB, GPUS, SIZES, Gpu
from crashchat.training.planning.ledger import FROZEN, GRADIENTS, TRAINED, Memory
from crashchat.training.planning.memory import Imagined
from crashchat.training.planning.shapes import Pass, Split, shapes_of, steps_of
from crashchat.training.planning.zero import Sharing, read_zero
from crashchat.training.trainer import VIDEOS_AT_ONCE
from crashchat.video.tokens import VideoSettings

# VideoLLaMA3-7B (docs/reference.md, Model), for when its folder is not there.
RELEASED_7B = {
    "model_type": "qwen2", "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "intermediate_size": 18944, "vocab_size": 152064, "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
}  # fmt: skip


@dataclass(frozen=True)
class Base:
    """The model that a run begins with, but for its weights.

    tokenizer: None where the folder is not there.
    """

    config: VideoLlama3Config
    settings: VideoSettings
    tokenizer: PreTrainedTokenizerBase | None
    source: str


def base_of_run(config: TrainConfig) -> Base:
    """The base checkpoint's sizes and settings; VideoLLaMA3-7B's where its folder is not there.

    Raises CheckpointError for a folder that is there and cannot be used.
    """
    settings = video_settings_of(config.base_model, config)
    if (config.base_model / "config.json").exists():
        tokenizer = load_tokenizer(config.base_model)
        vision = read_vision_config(config.vision_config)
        made = native_config(config.base_model, image_token_id(tokenizer), vision)
        return Base(made, settings, tokenizer, f"{config.base_model}, its config.json")
    made = VideoLlama3Config(text_config=dict(RELEASED_7B), vision_config=dict(SO400M))
    made.video_token_id = made.image_token_id = text_and_vision(made)[0].vocab_size - 1
    return Base(made, settings, None, "VideoLLaMA3-7B's released sizes, as base_model is not there")


@dataclass(frozen=True)
class Plan:
    """What a run takes. Sizes in bytes, times in seconds, money in dollars.

    gpus: of a node. rate: operations a second that a GPU is taken to do. price: of a GPU's hour. sources:
    where the lengths are from. videos, questions: of the training split. longest: the pass of most tokens.
    checkpointing: whether activations are recomputed; memory: of a GPU with the run's own setting;
    other_memory: with the other one. validation_peak: of a pass of validation. step: the mean of the first
    epoch's. seconds, dollars: of a step, an epoch and the run, validation included. validation: seconds of
    one. busy: share of the time that a GPU computes. fits: for cards of four sizes.
    """

    gpu: Gpu
    gpus: int
    nodes: int
    rate: float
    price: float
    base: str
    sources: list[str]
    videos: int
    questions: int
    steps_an_epoch: int
    steps: int
    validations: int
    longest: Pass
    checkpointing: bool
    memory: Memory
    other_memory: Memory
    validation_peak: int
    step: Step
    seconds: dict[str, float]
    dollars: dict[str, float]
    validation: float
    busy: float
    waits_for_reading: bool
    fits: list[Fit]

    @property
    def room(self) -> int:
        """Bytes that training can have of a GPU."""
        return self.gpu.room

    def as_dict(self) -> dict:
        """What --json writes."""
        return asdict(self) | {"peak": self.memory.peak, "other_peak": self.other_memory.peak}


def longest_of(steps: Sequence[Sequence[Sequence[Pass]]]) -> tuple[Pass, bool]:
    """The pass of most tokens, and whether it may come behind another one of its step."""
    passes = [(one, len(share) > 1) for step in steps for share in step for one in share]
    return max(passes, key=lambda found: (sum(video.length for video in found[0]), found[1]))


def every_of(config: TrainConfig) -> int:
    """Each so-manieth layer is checkpointed; 0: none."""
    return config.checkpoint_every_n_layers if config.gradient_checkpointing else 0


def tokens_of(videos: Pass) -> int:
    """Tokens of a pass."""
    return sum(video.length for video in videos)


def mean_of(steps: Sequence[Step]) -> Step:
    """The mean of steps, part by part."""
    operations = steps[0].operations.parts()
    return Step(
        operations=type(steps[0].operations)(
            *(mean(step.operations.parts()[name] for step in steps) for name in operations)
        ),
        **{
            name: mean(getattr(step, name) for step in steps)
            for name in ("slowest", "computing", "reading", "exchanging", "videos")
        },
    )


def timed(
    config: TrainConfig,
    steps: Sequence[Sequence[Sequence[Pass]]],
    counter: OperationCounter,
    *,
    rate: float,
    gpu: Gpu,
    exchange: Exchange,
    read: float,
) -> tuple[Step, Step]:
    """The mean step of the first epoch and of later ones, which may have vision features from a cache."""

    def mean_step(vision: bool) -> Step:
        return mean_of(
            [
                time_of(step, counter, rate=rate, gpu=gpu, exchange=exchange, read=read, vision=vision)
                for step in steps
            ]
        )

    first = mean_step(True)
    return first, first if config.feature_cache is None else mean_step(False)


def validation_pass(config: TrainConfig, val: Split) -> Pass:
    """The longest videos of the validation split, as many as are asked at once."""
    videos = sorted(val.videos, key=lambda video: video.length, reverse=True)[:VIDEOS_AT_ONCE]
    first = split_by_tokens([video.length for video in videos], config.max_tokens_per_batch)[0]
    return [videos[index] for index in first]


def validation_seconds(
    config: TrainConfig, val: Split, counter: OperationCounter, *, rate: float, processes: int, read: float
) -> float:
    """Of one validation: every video once, or as many as val_videos says."""
    vision = config.feature_cache is None
    forward = mean(counter.forward(video, vision=vision).total for video in val.videos)
    videos = min(len(val.videos), config.val_videos or len(val.videos))
    return ceil(videos / processes) * max(forward / rate, read if vision else 0.0)


def make_plan(
    config: TrainConfig,
    gpu: Gpu,
    *,
    gpus: int,
    nodes: int,
    rate: float,
    price: float,
    advance: Callable[[str], object] = lambda what: None,
) -> Plan:
    """The plan of a run on `gpus` cards in each of `nodes` machines.

    rate: operations a second and card. price: dollars an hour and card. advance: told what comes next. Raises
    ConfigError, CheckpointError, AnnotationError and VideoError as training would.
    """
    processes = gpus * nodes
    check_share(config, processes)
    zero = read_zero(config.deepspeed)
    base = base_of_run(config)
    advance("lengths of videos and questions")
    train, val = (shapes_of(config, split, base.settings, base.tokenizer) for split in ("train", "val"))
    steps = list(steps_of(config, train.videos, processes))
    longest, again = longest_of(steps)
    advance("the model, without its weights")
    model = Imagined(base.config, config)
    sharing = Sharing(processes, zero, sum(weight.numel() for weight in model.trained))
    own, other_every = every_of(config), 0 if config.gradient_checkpointing else 1
    alone = {}
    for every in dict.fromkeys((own, other_every, 1)):
        advance(f"a pass with{'' if every else 'out'} gradient checkpointing")
        alone[every] = model.run(longest, every=every, again=again)
    advance("a shorter pass")
    biggest = max(longest, key=lambda video: video.length)
    half = replace(biggest, kept=max(1, biggest.kept // 2), text=biggest.text // 2)
    short = [replace(half, branches=biggest.branches[:1])]
    small = model.run(short, every=1, again=again)
    advance("a validation pass")
    tested = model.validate(validation_pass(config, val))
    memory, other, validating = (sharing.of(one) for one in (alone[own], alone[other_every], tested))

    counter = OperationCounter(base.config, config)
    needs = Needs(
        (tokens_of(short), small),
        (tokens_of(longest), alone[1]),
        tested,
        sharing=sharing,
        frozen=counter.weights,
    )
    gathered = (
        3 * (memory.largest[FROZEN] + memory.largest[TRAINED]) * processes if zero and zero.stage == 3 else 0
    )
    exchange = Exchange(alone[1].largest[GRADIENTS], gathered, processes, nodes)
    readers = max(1, GPU_READERS if config.num_workers is None else config.num_workers)
    first, later = timed(
        config, steps, counter, rate=rate, gpu=gpu, exchange=exchange, read=train.seconds_to_read / readers
    )
    validation = validation_seconds(
        config, val, counter, rate=rate, processes=processes, read=val.seconds_to_read / readers
    )
    total = config.max_steps or ceil(config.epochs * len(steps))
    validations = ceil(total / config.eval_steps)
    in_first = min(total, len(steps))
    seconds = {
        "step": first.seconds,
        "epoch": len(steps) * first.seconds + len(steps) // config.eval_steps * validation,
        "run": in_first * first.seconds + (total - in_first) * later.seconds + validations * validation,
    }
    videos = train.videos
    return Plan(
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        rate=rate,
        price=price,
        base=base.source,
        sources=train.sources,
        videos=len(videos),
        questions=sum(len(video.branches) for video in videos),
        steps_an_epoch=len(steps),
        steps=total,
        validations=validations,
        longest=longest,
        checkpointing=config.gradient_checkpointing,
        memory=memory,
        other_memory=other,
        validation_peak=validating.peak,
        step=first,
        seconds=seconds,
        dollars={what: spent / 3600 * processes * price for what, spent in seconds.items()},
        validation=validation,
        busy=first.operations.total / (processes * first.slowest),
        waits_for_reading=first.reading > first.computing + first.exchanging,
        fits=[
            Fit(name, [], memory.peak / GIB)
            if max(memory.peak, validating.peak) <= GPUS[name].room
            else fit(GPUS[name], config, needs, train.videos)
            for name in SIZES
        ],
    )


def shortfall(config: TrainConfig, room: int, processes: int) -> str | None:
    """What to say before a run that would not fit into `room` bytes of a card; None where it would.

    None also for a second stage, whose steps are not planned: they draw answers, or have two to a question.
    """
    if isinstance(config, SecondStageConfig):
        return None
    base, zero = base_of_run(config), read_zero(config.deepspeed)
    train = shapes_of(config, "train", base.settings, base.tokenizer)
    longest, again = longest_of(list(steps_of(config, train.videos, processes)))
    model = Imagined(base.config, config)
    alone = model.run(longest, every=every_of(config), again=again)
    peak = Sharing(processes, zero, sum(weight.numel() for weight in model.trained)).of(alone).peak
    if peak <= room:
        return None
    return (
        f"a pass of {tokens_of(longest):,} tokens is planned to take {peak / GIB:.1f} GiB of a card that has "
        f"{room / GIB:.1f}; crashchat plan says which settings fit"
    )
