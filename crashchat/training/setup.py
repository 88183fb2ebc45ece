"""What a training run is made of: its videos, the model and what of it is trained, Trainer's settings."""

import random

import torch
from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainingArguments

from crashchat.checkpoints.adapters import load_adapter
from crashchat.checkpoints.folders import load_model
from crashchat.checkpoints.layouts import read_vision_config
from crashchat.data.annotations import AnnotationError, VideoQAs
from crashchat.data.pairs import load_pairs
from crashchat.data.sources import load_questions, question_files
from crashchat.data_settings import SplitName
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.lora import (
    add_adapter,
    base_of,
    leave_inputs_as_they_are,
    set_dropout,
    train_in_float32,
)
from crashchat.model.varlen import VARLEN_ATTENTION
from crashchat.model.videollama3 import CrashChatModel
from crashchat.processes import choose_device, choose_dtype, local_device
from crashchat.second_stages import PreferenceConfig, ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.training.start import keep_start

ATTENTION = {
    "branch_attention": BRANCH_ATTENTION,
    "flex_attention": "flex_attention",
    "flash_attn": VARLEN_ATTENTION,
}


def load_asked(config: TrainConfig, split: SplitName, tasks: list[str]) -> list[VideoQAs]:
    """The videos of a split with the questions of some tasks, or with the pairs of answers. Raises
    AnnotationError.
    """
    if isinstance(config, PreferenceConfig):
        return load_pairs(question_files(config, split, tasks), config.data_dir, config.context)
    return load_questions(config, split, tasks)


def load_videos(config: TrainConfig, split: SplitName) -> list[VideoQAs]:
    """The videos of a split and the configured tasks' questions on them; every video must be there.

    Of the validation split as many as val_videos says, with the questions that a validation asks. Raises
    AnnotationError that lists missing videos: a run must not stop at a hole hours later.
    """
    videos = load_asked(config, split, config.tasks if split == "val" else config.all_tasks)
    missing = [str(video.path) for video in videos if not video.file.is_file()]
    if missing:
        raise AnnotationError(
            f"{len(missing)} of {len(videos)} annotated {split} videos are missing, e.g. {missing[0]}; "
            f"put the videos below {config.data_dir} (see data/README.md)"
        )
    if split == "val" and config.val_videos and config.val_videos < len(videos):
        drawn = random.Random(config.seed).sample(range(len(videos)), config.val_videos)
        return [videos[index] for index in sorted(drawn)]
    return videos


def build_model(config: TrainConfig, tokenizer: PreTrainedTokenizerBase) -> CrashChatModel | PeftModel:
    """The base on this process's device with a new adapter, or all of it to be trained.

    Raises CheckpointError.
    """
    device = local_device()
    base = load_model(
        config.base_model,
        tokenizer,
        device,
        choose_dtype(device, config.dtype),
        attention=ATTENTION[config.attention],
        vision=read_vision_config(config.vision_config),
        quantized=config.quantization is not None,
    )
    return prepared(base, config)


def prepared(base: CrashChatModel, config: TrainConfig) -> CrashChatModel | PeftModel:
    """A base with a new adapter, or all of it to be trained. Raises CheckpointError."""
    if config.finetune == "full":
        base.requires_grad_(True)
        if not config.deepspeed:  # whose optimizer has copies of its own in float32
            train_in_float32(base)
        return base
    base.requires_grad_(False)
    if config.adapter is not None:
        model = load_adapter(base, config.adapter, trained=True)
        set_dropout(model, config.lora_dropout)
        if config.keeps_start:
            keep_start(model, config.adapter)
        return _finished(model, config)
    model = add_adapter(
        base,
        config.lora_rank,
        config.lora_alpha,
        config.lora_dropout,
        projections=config.lora_targets,
        vision=config.lora_on_vision,
        dora=config.dora,
        rslora=config.rslora,
    )
    return _finished(model, config)


def _finished(model: PeftModel, config: TrainConfig) -> PeftModel:
    # Under autocast alone, which DeepSpeed does without: elsewhere inputs and weights would differ in type.
    if base_of(model).dtype != torch.float32 and not config.deepspeed:
        leave_inputs_as_they_are(model)
    return model


def training_arguments(config: TrainConfig, processes: int) -> TrainingArguments:
    """The settings in Trainer's words."""
    gpu, reinforced = choose_device().type == "cuda", isinstance(config, ReinforceConfig)
    if config.deepspeed and not gpu:
        import deepspeed

        # On a CPU it would first compile an operation that only inference uses, for a minute.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    args = TrainingArguments(
        output_dir=str(config.output_dir),
        per_device_train_batch_size=max(1, config.global_batch_size // processes),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        lr_scheduler_type="cosine",
        warmup_steps=config.warmup_ratio,
        max_grad_norm=config.max_grad_norm,
        bf16=choose_dtype(choose_device(), config.dtype) == torch.bfloat16,
        tf32=True if gpu else None,
        use_cpu=not gpu,
        gradient_checkpointing=config.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False}
        | (
            {"every_n_layers": config.checkpoint_every_n_layers}
            if config.checkpoint_every_n_layers > 1
            else {}
        ),
        eval_strategy="steps",
        eval_steps=config.eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps,
        save_total_limit=None,  # QuestionTrainer deletes older ones
        metric_for_best_model="eval_reward" if reinforced else "eval_loss",
        greater_is_better=reinforced,
        logging_steps=config.logging_steps,
        report_to=list(config.report_to),
        # A loss that is no number is shown; looking for it would wait for the GPU.
        logging_nan_inf_filter=False,
        restore_callback_states_from_checkpoint=True,  # early stopping counts on where it was
        deepspeed=str(config.deepspeed) if config.deepspeed else None,
        ddp_backend="gloo" if processes > 1 and not gpu else None,
        ddp_find_unused_parameters=False,
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        label_names=["labels"],
    )
    # One process beside several GPUs takes one of them; Trainer would cut its batches up for all
    # (DataParallel).
    args._n_gpu = min(1, args.n_gpu)
    return args
