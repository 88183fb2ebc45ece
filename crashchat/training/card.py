"""What a training run says of the model that it makes: the card that is written beside the weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from crashchat.checkpoints.model_card import CardTasks, ModelCard, Origin, read_card
from crashchat.data.annotations import VideoQAs
from crashchat.data.datasets import DatasetUse
from crashchat.json_files import as_line
from crashchat.processes import process_count
from crashchat.provenance import command_line, content_hash, now, text_hash, versions
from crashchat.second_stages import SecondStageConfig
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from crashchat.tasks.context import VALUE, asked_with
from crashchat.video.measures import measure_clips
from crashchat.video.tokens import VideoSettings

# Of the settings, those that shape what is learnt; with LoRA its own besides.
KEPT = (
    "finetune", "learning_rate", "projector_learning_rate", "weight_decay", "warmup_ratio", "max_grad_norm",
    "epochs", "max_steps", "global_batch_size", "group_by_video", "early_stopping_patience",
    "early_stopping_threshold", "max_visual_tokens", "token_compression", "max_length", "seed", "dtype",
    "optimizer",
)  # fmt: skip
LORA = (
    "lora_rank", "lora_alpha", "lora_dropout", "lora_targets", "lora_on_vision", "dora", "rslora",
    "quantization",
)  # fmt: skip


SECOND_STAGE = {
    "beta",
    "supervised_share", "videos_per_step", "rollouts", "temperature", "top_p", "max_new_tokens",
    "scale_advantages", "token_weighting", "updates", "clip_low", "clip_high", "kl", "dynamic_sampling",
}  # fmt: skip


def card_of(
    config: TrainConfig, settings: VideoSettings, videos: Sequence[VideoQAs], uses: list[DatasetUse]
) -> ModelCard:
    """The card of what a run is going to make; made before training, as it reads training clips and the base.

    settings: which frames the model is shown. videos: those to learn from. uses: of the training and the
    validation set. Raises CheckpointError where the base's own card is damaged.
    """
    whole = config.finetune == "full"
    given = {
        name: ", ".join(value) if isinstance(value, list) else value
        for name, value in config.model_dump(mode="json", include={*KEPT, *(() if whole else LORA)}).items()
    }
    asked = {question.task for video in videos for question in video.questions}
    tasks = [task for task in TASKS if task in asked]
    base = as_line(config.base_model.resolve().name)
    # A whole model goes on from what its base knows; an adapter holds only what it learnt itself.
    earlier = read_card(config.base_model) or ModelCard(kind="model", name=base, unknown=[base])
    start = ModelCard(kind="adapter", name=base)  # nothing learnt yet
    if isinstance(config, SecondStageConfig):
        given |= config.model_dump(mode="json", include=SECOND_STAGE)
    if config.adapter:
        name = as_line(config.adapter.resolve().name)
        start = read_card(config.adapter) or ModelCard(kind="adapter", name=name, unknown=[name])
        given["start"] = name
    return ModelCard(
        kind="model" if whole else "adapter",
        name=as_line(config.output_dir.resolve().name),
        base=Origin(name=base, sha256=content_hash(config.base_model)),
        data=[*earlier.data, *uses] if whole else [*start.data, *uses],
        unknown=earlier.unknown if whole else start.unknown,
        tasks=task_set(tasks) if tasks else None,
        settings={
            **given,
            "fps": settings.fps,
            "max_frames": settings.max_frames,
            "processes": process_count(),
        },
        clips=measure_clips([video.path for video in videos]),
        versions=versions(),
        command=command_line(),
    )


def task_set(names: Sequence[str]) -> CardTasks:
    """Tasks of TASKS by name, as a card has them."""
    values = dict.fromkeys(TASKS.task_set.context, VALUE)
    asked = {name: asked_with(TASKS.task_set.told(name, values), f"{TASKS[name].prompt}") for name in names}
    return CardTasks(names=list(names), sha256=text_hash([f"{name}: {text}" for name, text in asked.items()]))


def with_outcome(
    card: ModelCard, steps: int, best: Path, *, measure: Literal["loss", "reward"], value: float | None
) -> ModelCard:
    """The card once the run has ended.

    best: the checkpoint whose weights are kept, after as many steps as its name says. measure, value: by
    what it is the best, on the validation questions.
    """
    outcome: dict[str, int | float | None] = {
        "steps": steps,
        "steps_of_the_best": int(best.name.split("-")[1]),
    }
    if measure == "reward":
        outcome["best_validation_reward"] = value
    return card.model_copy(
        update={
            "settings": card.settings | outcome,
            "best_validation_loss": value if measure == "loss" else None,
            "made": now(),
        }
    )
