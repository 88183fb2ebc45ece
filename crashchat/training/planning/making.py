"""The plan of a run: its longest pass, the memory of that, the time of its steps, and where it would fit."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil

from transformers import PreTrainedTokenizerBase, VideoLlama3Config

from crashchat.checkpoints.adapters import CONFIG_FILE, read_adapter
from crashchat.checkpoints.configs import native_config, text_and_vision
from crashchat.checkpoints.folders import load_tokenizer, video_settings_of
from crashchat.checkpoints.layouts import SO400M, read_vision_config
from crashchat.config import check_share
from crashchat.data_settings import SplitName
from crashchat.model.sequence import image_token_id
from crashchat.processes import GPU_READERS
from crashchat.settings import TrainConfig
from crashchat.training.planning.cost import Exchange, OperationCounter, Step
from crashchat.training.planning.fitting import Fit, Needs, fit
from crashchat.training.planning.gpus import GIB, GPUS, SIZES, Gpu
from crashchat.training.planning.ledger import FROZEN, GRADIENTS, TRAINED, Memory
from crashchat.training.planning.memory import Imagined
from crashchat.training.planning.shapes import Pass, Split, shapes_of
from crashchat.training.planning.work import Pace, work_of
from crashchat.training.planning.zero import Sharing, read_zero
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


def with_new_adapter(config: TrainConfig) -> tuple[TrainConfig, list[str]]:
    """The settings with a new adapter in place of the one that is trained on, as only its size counts; and a
    line that says which.

    Raises CheckpointError for an adapter that is there and cannot be used.
    """
    if config.adapter is None:
        return config, []
    there = (config.adapter / CONFIG_FILE).is_file()
    rank = read_adapter(config.adapter).config.r if there else config.lora_rank
    whose = config.adapter if there else f"lora_rank, as {config.adapter} is not there"
    return config.model_copy(update={"adapter": None, "lora_rank": rank}), [
        f"an adapter of rank {rank} ({whose})"
    ]


def _shapes(base: Base, config: TrainConfig, split: SplitName) -> Split:
    return shapes_of(config, split, base.settings, base.tokenizer)


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


def every_of(config: TrainConfig) -> int:
    """One layer in so many is checkpointed; 0: none."""
    return config.checkpoint_every_n_layers if config.gradient_checkpointing else 0


def tokens_of(videos: Pass) -> int:
    """Tokens of a pass."""
    return sum(video.length for video in videos)


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
    config, adapter = with_new_adapter(config)
    zero = read_zero(config.deepspeed)
    base = base_of_run(config)
    advance("lengths of videos and questions")
    work = work_of(config, processes, partial(_shapes, base))
    train, steps, (longest, again) = work.train, work.steps, work.longest
    advance("the model, without its weights")
    model = Imagined(base.config, config, start=bool(adapter) and config.keeps_start)
    sharing = Sharing(processes, zero, sum(weight.numel() for weight in model.trained))
    own, other_every = every_of(config), 0 if config.gradient_checkpointing else 1
    alone = {}
    for every in dict.fromkeys((own, other_every, 1)):
        advance(f"a pass with{'' if every else 'out'} gradient checkpointing")
        alone[every] = model.run(longest, every=every, again=again)
    advance("a shorter pass")
    biggest = max(longest, key=lambda video: video.length)
    half = replace(biggest, kept=max(1, biggest.kept // 2), text=biggest.text // 2)
    short = [replace(half, questions=biggest.questions[:1])]
    small = model.run(short, every=1, again=again)
    advance("a validation pass")
    tested = model.validate(work.validation_pass)
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
    pace = Pace(counter, gpu, rate, reading=train.seconds_to_read / readers, exchange=exchange)
    first, later = work.timed(pace)
    validation = work.validation_seconds(replace(pace, reading=work.val.seconds_to_read / readers))
    total = config.max_steps or ceil(config.epochs * len(steps))
    validations = ceil(total / config.eval_steps)
    in_first = min(total, len(steps))
    seconds = {
        "step": first.seconds,
        "epoch": len(steps) * first.seconds + len(steps) // config.eval_steps * validation,
        "run": in_first * first.seconds + (total - in_first) * later.seconds + validations * validation,
    }
    return Plan(
        gpu=gpu,
        gpus=gpus,
        nodes=nodes,
        rate=rate,
        price=price,
        base=base.source,
        sources=[*train.sources, *adapter],
        videos=len(train.videos),
        questions=train.questions,
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
            else fit(GPUS[name], config, needs, work.sequences)
            for name in SIZES
        ],
    )


def shortfall(config: TrainConfig, room: int, processes: int) -> str | None:
    """What to say before a run that would not fit into `room` bytes of a card; None where it would."""
    config, adapter = with_new_adapter(config)
    base, zero = base_of_run(config), read_zero(config.deepspeed)
    longest, again = work_of(config, processes, partial(_shapes, base)).longest
    model = Imagined(base.config, config, start=bool(adapter) and config.keeps_start)
    alone = model.run(longest, every=every_of(config), again=again)
    peak = Sharing(processes, zero, sum(weight.numel() for weight in model.trained)).of(alone).peak
    if peak <= room:
        return None
    return (
        f"a pass of {tokens_of(longest):,} tokens is planned to take {peak / GIB:.1f} GiB of a card that has "
        f"{room / GIB:.1f}; crashchat plan says which settings fit"
    )
