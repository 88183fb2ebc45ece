r"""Training: annotations -> video -> vision -> sequence -> packing -> model -> loss over answer tokens.

Run by scripts/train/*.sh through torchrun; alone, one process:

    crashchat train configs/train/heterogeneous.yaml with=configs/train/tiny_model.yaml \
        data_dir=data/demo epochs=2 output_dir=outputs/train/tiny
"""

import math
import os
import shutil
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, set_seed
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer import TRAINER_STATE_NAME

from crashchat.checkpoints.folders import load_model, load_tokenizer, save_checkpoint, video_settings_of
from crashchat.checkpoints.model_card import ModelCard, write_card
from crashchat.command import run_command
from crashchat.config import check_share, save_config
from crashchat.data.sources import describe_questions, weighted
from crashchat.files import owned, sync
from crashchat.model.lora import base_of, trainable_parameters
from crashchat.processes import print_once, process_count, rank
from crashchat.second_stages import ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.tasks import keep_task_set
from crashchat.training.batches import StepSampler
from crashchat.training.callbacks import BestIsKept, EpochOrder, LossPlot
from crashchat.training.card import card_of, with_outcome
from crashchat.training.losses import plot_losses
from crashchat.training.planning.plan import warn_of_memory
from crashchat.training.resuming import (
    RESOLVED_CONFIG,
    check_resumable,
    choose_checkpoint,
    complete_checkpoints,
    is_extended,
)
from crashchat.training.setup import build_model, load_videos, training_arguments
from crashchat.training.speed import Profile
from crashchat.training.universal import fit_processes
from crashchat.training.ways import check, make_dataset, make_sampler, make_trainer, step_in_words
from crashchat.video.reading import open_feature_cache

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
FULL_MODEL = "model"


def is_finished(config: TrainConfig) -> bool:
    """Whether the output folder already holds what this run would make."""
    wanted = [FULL_MODEL] if config.finetune == "full" else ADAPTER_FILES
    return all((config.output_dir / name).exists() for name in wanted)


def train(config: TrainConfig) -> Path:
    """Run (or go on with) one training; returns the folder of the adapter,
    or of the model with finetune=full.

    Raises FolderError where another run has the output folder.
    """
    if rank() > 0:  # the first process has the folder for all
        return _train(config)
    with owned(config.output_dir, f"output_dir {config.output_dir}"):
        return _train(config)


def _train(config: TrainConfig) -> Path:
    result = config.output_dir / FULL_MODEL if config.finetune == "full" else config.output_dir
    check_resumable(config)
    check(config)
    main_process, processes = rank() == 0, process_count()
    if is_finished(config):
        if not is_extended(config):
            print_once(f"{result}: already trained; remove {config.output_dir} to train again")
            return result
        if main_process:
            print(f"{result}: trained already, to an earlier end; going on from there")
            (config.output_dir / ADAPTER_FILES[0]).unlink()  # it is not finished now
    check_share(config, processes)
    checkpoint = choose_checkpoint(config) if main_process else None
    set_seed(config.seed)

    tokenizer = load_tokenizer(config.base_model)
    settings = video_settings_of(config.base_model, config)
    train_videos, val_videos = load_videos(config, "train"), load_videos(config, "val")
    warn_of_memory(config)
    card = None
    if main_process:
        uses = [
            describe_questions(config, "train", config.all_tasks, train_videos),
            describe_questions(config, "val", config.tasks, val_videos),
        ]
        card = card_of(config, settings, videos=train_videos, uses=uses)
    model = build_model(config, tokenizer)
    feature_cache = open_feature_cache(
        config.feature_cache, config.feature_cache_gb, base_of(model).model.vision_model, settings
    )
    datasets = [
        make_dataset(config, videos, tokenizer, settings, cache=feature_cache)
        for videos in (weighted(train_videos, config.seed), val_videos)
    ]
    trained, total = trainable_parameters(model)
    # Made after the model: once it exists, ZeRO-3 would shard weights while they are loaded and checked.
    args = training_arguments(config, processes)
    sampler = make_sampler(config, datasets[0], args)
    if main_process:
        config.output_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, config.output_dir / RESOLVED_CONFIG)
        print(
            f"device {args.device}, attention {config.attention}, dtype {model.dtype}, {args.world_size} "
            "process(es)"
        )
        print(
            f"trained parameters {trained:,} of {total:,}; frames: {settings.fps} a second, at most "
            f"{settings.max_frames}"
        )
        print(
            f"{len(datasets[0])} training questions on {len(train_videos)} videos, {len(datasets[1])} "
            "validation questions; "
            f"{sampler.steps_per_epoch} steps an epoch, each of {step_in_words(config)}"
        )
    if processes > 1:
        choice = [checkpoint]
        dist.broadcast_object_list(choice)
        checkpoint = choice[0]
    if checkpoint:
        print_once(f"going on from {checkpoint}")
        fit_processes(checkpoint, args)
    trainer = make_trainer(
        config,
        sampler,
        datasets,
        model=model,
        args=args,
        callbacks=callbacks_of(config, sampler),
        checkpoint=checkpoint,
    )
    reached = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)) if checkpoint else None
    if reached and reached.global_step >= (config.max_steps or math.ceil(config.epochs * len(sampler))):
        trainer.state = reached  # killed behind its last step: Trainer would make one more before it looks
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    if card:  # the first process's
        plot_losses(trainer.state.log_history, config.output_dir / "loss.png")
        best = Path(trainer.state.best_model_checkpoint or complete_checkpoints(config.output_dir)[0])
        measure: Literal["loss", "reward"] = "reward" if isinstance(config, ReinforceConfig) else "loss"
        value = trainer.state.best_metric
        card = with_outcome(card, trainer.state.global_step, best, measure=measure, value=value)
        if config.finetune == "full":
            if config.deepspeed:
                unset_hf_deepspeed_config()  # under ZeRO-3 the model would be sharded while it is loaded
            best_model = load_model(best, tokenizer, device=torch.device("cpu"))
            save_checkpoint(best_model, tokenizer, settings, folder=result, card=card)
            keep_task_set(result)
        else:
            keep_adapter(best, result, card)
        print(f"best validation {measure} {value:.4f} at {best.name}; saved to {result}")
    if dist.is_initialized():
        dist.barrier()
    return result


def keep_adapter(checkpoint: Path, folder: Path, card: ModelCard) -> None:
    """Copy a checkpoint's adapter to the output folder, with its card: all of it, or no
    adapter_config.json.
    """
    write_card(folder, card)
    keep_task_set(folder)
    for name in reversed(ADAPTER_FILES):  # the config last: with it, the adapter is complete
        temporary = folder / f".{name}"
        shutil.copyfile(checkpoint / name, temporary)
        sync(temporary)
        os.replace(temporary, folder / name)
    sync(folder)


def callbacks_of(config: TrainConfig, sampler: StepSampler) -> list[TrainerCallback]:
    """What is done between the steps."""
    callbacks: list[TrainerCallback] = [EpochOrder(sampler), BestIsKept(), LossPlot()]
    if config.profile:
        callbacks.append(Profile(config.output_dir / "profile"))
    if config.early_stopping_patience:
        callbacks.append(
            EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold)
        )
    return callbacks


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command("train", __doc__, kind=TrainConfig, work=train, argv=argv)
