r"""Training: annotations -> video -> vision -> sequence -> packing -> model -> loss over answer tokens.

Run by scripts/train/*.sh through torchrun; alone, one process:

    crashchat train configs/train/heterogeneous.yaml with=configs/train/tiny_model.yaml \
        data_dir=data/demo epochs=2 output_dir=outputs/train/tiny
"""

import os
import shutil
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftModel
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME

from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings, save_checkpoint
from crashchat.checkpoints.layouts import read_vision_config
from crashchat.checkpoints.model_card import write_card
from crashchat.command import run_command
from crashchat.config import TrainConfig, check_share, save_config
from crashchat.data.annotations import AnnotationError, VideoQAs, annotation_paths, load_annotations
from crashchat.data.datasets import describe_use
from crashchat.files import held, sync
from crashchat.model.videollama3 import CrashChatModel, add_adapter, trainable_parameters
from crashchat.processes import choose_device, local_device, print_once, process_count, rank
from crashchat.training.batches import QuestionDataset, QuestionSampler
from crashchat.training.card import card_of, with_outcome
from crashchat.training.losses import plot_losses
from crashchat.training.plan import warn_of_memory
from crashchat.training.resuming import (
    RESOLVED_CONFIG,
    check_resumable,
    choose_checkpoint,
    complete_checkpoints,
)
from crashchat.training.trainer import EpochOrder, LossPlot, QuestionTrainer
from crashchat.video.reading import open_feature_cache

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
FULL_MODEL = "model"


def question_files(config: TrainConfig, split: str) -> list[Path]:
    """The annotation files of a split. Raises AnnotationError naming the first that is missing."""
    return config.annotation_files.get(split) or annotation_paths(config.data_dir, config.tasks, split)


def load_videos(config: TrainConfig, split: str) -> list[VideoQAs]:
    """The videos of a split and the configured tasks' questions on them; every video must be there.

    Raises AnnotationError that lists missing videos: a run must not stop at a hole hours later.
    """
    videos = load_annotations(question_files(config, split), config.data_dir, config.tasks or None)
    missing = [str(video.path) for video in videos if not video.path.is_file()]
    if missing:
        raise AnnotationError(
            f"{len(missing)} of {len(videos)} annotated {split} videos are missing, e.g. {missing[0]}; "
            f"put the videos below {config.data_dir} (see data/README.md)"
        )
    return videos


def is_finished(config: TrainConfig) -> bool:
    """Whether the output folder already holds what this run would make."""
    wanted = [FULL_MODEL] if config.finetune == "full" else ADAPTER_FILES
    return all((config.output_dir / name).exists() for name in wanted)


def training_arguments(config: TrainConfig, processes: int) -> TrainingArguments:
    """The settings in Trainer's words."""
    gpu = choose_device().type == "cuda"
    os.environ.setdefault("TENSORBOARD_LOGGING_DIR", str(config.output_dir / "tensorboard"))
    return TrainingArguments(
        output_dir=str(config.output_dir),
        per_device_train_batch_size=config.global_batch_size // processes,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        bf16=gpu,
        tf32=True if gpu else None,
        use_cpu=not gpu,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=None,  # QuestionTrainer deletes older ones
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        logging_steps=config.logging_steps,
        report_to=["tensorboard"],
        deepspeed=str(config.deepspeed) if config.deepspeed else None,
        ddp_backend="gloo" if processes > 1 and not gpu else None,
        ddp_find_unused_parameters=False,
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        label_names=["labels"],
    )


def train(config: TrainConfig) -> Path:
    """Run (or go on with) one training; returns the folder of the adapter,
    or of the model with finetune=full.

    Raises FolderError where another run has the output folder.
    """
    if rank() > 0:  # the first process has the folder for all
        return _train(config)
    with held(config.output_dir / ".lock", f"output_dir {config.output_dir}"):
        return _train(config)


def _train(config: TrainConfig) -> Path:
    result = config.output_dir / FULL_MODEL if config.finetune == "full" else config.output_dir
    check_resumable(config)
    main_process, processes = rank() == 0, process_count()
    if is_finished(config):
        print_once(f"{result}: already trained; remove {config.output_dir} to train again")
        return result
    check_share(config.global_batch_size, processes)
    checkpoint = choose_checkpoint(config) if main_process else None
    set_seed(config.seed)

    tokenizer = load_tokenizer(config.base_model)
    settings = load_video_settings(
        config.base_model,
        config.fps,
        max_frames=config.max_frames,
        max_visual_tokens=config.max_visual_tokens,
        token_compression=config.token_compression,
    )
    train_videos, val_videos = load_videos(config, "train"), load_videos(config, "val")
    warn_of_memory(config)
    card = None
    if main_process:
        uses = [
            describe_use(config.data_dir, question_files(config, split), videos, split)
            for split, videos in (("train", train_videos), ("val", val_videos))
        ]
        card = card_of(config, settings, videos=train_videos, uses=uses)
    base = load_model(
        config.base_model,
        tokenizer,
        local_device(),
        attention=config.attention,
        vision=read_vision_config(config.vision_config),
    )
    feature_cache = open_feature_cache(
        config.feature_cache, config.feature_cache_gb, base.model.vision_model, settings
    )
    datasets = [
        QuestionDataset(
            videos,
            tokenizer,
            settings,
            max_length=config.max_length,
            max_tokens_per_batch=config.max_tokens_per_batch,
            cache_videos=config.cache_videos,
            feature_cache=feature_cache,
        )
        for videos in (train_videos, val_videos)
    ]
    model: CrashChatModel | PeftModel = base
    if config.finetune == "lora":
        base.requires_grad_(False)
        model = add_adapter(base, config.lora_rank, config.lora_alpha, config.lora_dropout)
        model.peft_config["default"].base_model_name_or_path = str(config.base_model)
    else:
        base.requires_grad_(True)
    trained, total = trainable_parameters(model)
    # Made after the model: once it exists, ZeRO-3 would shard weights while they are loaded and checked.
    args = training_arguments(config, processes)
    sampler = QuestionSampler(
        datasets[0].numbers,
        config.global_batch_size,
        rank=args.process_index,
        processes=args.world_size,
        group_by_video=config.group_by_video,
        seed=config.seed,
    )
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
            f"{sampler.steps_per_epoch} steps an epoch, each of {config.global_batch_size} questions"
        )
    callbacks: list[TrainerCallback] = [EpochOrder(sampler), LossPlot()]
    if config.early_stopping_patience:
        callbacks.append(
            EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold)
        )
    trainer = QuestionTrainer(
        config,
        sampler,
        model=model,
        args=args,
        train_dataset=datasets[0],
        eval_dataset=datasets[1],
        callbacks=callbacks,
    )
    if processes > 1:
        choice = [checkpoint]
        dist.broadcast_object_list(choice)
        checkpoint = choice[0]
    if checkpoint:
        print_once(f"going on from {checkpoint}")
    reached = TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME)) if checkpoint else None
    if reached and reached.global_step >= reached.max_steps:
        trainer.state = reached  # killed behind its last step: Trainer would make one more before it looks
    else:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    if card:  # the first process's
        plot_losses(trainer.state.log_history, config.output_dir / "loss.png")
        best = Path(trainer.state.best_model_checkpoint or complete_checkpoints(config.output_dir)[0])
        card = with_outcome(card, steps=trainer.state.global_step, best=best, loss=trainer.state.best_metric)
        if config.finetune == "full":
            best_model = load_model(best, tokenizer, device=torch.device("cpu"))
            save_checkpoint(best_model, tokenizer, settings, folder=result, card=card)
        else:
            write_card(result, card)
            for name in reversed(ADAPTER_FILES):  # the config last: with it, the adapter is complete
                temporary = config.output_dir / f".{name}"
                shutil.copyfile(best / name, temporary)
                sync(temporary)
                os.replace(temporary, config.output_dir / name)
            sync(config.output_dir)
        print(f"best validation loss {trainer.state.best_metric:.4f} at {best.name}; saved to {result}")
    if dist.is_initialized():
        dist.barrier()
    return result


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command("train", __doc__, kind=TrainConfig, work=train, argv=argv)
