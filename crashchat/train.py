"""Training: annotations -> video -> vision -> sequence -> packing -> model -> loss over answer tokens.

Run by scripts/train/*.sh through torchrun; alone, one process:

    python -m crashchat.train configs/train/heterogeneous.yaml base_model=ckpt/tiny_base data_dir=data/demo epochs=2
"""

import contextlib
import os
import shutil
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback, TrainingArguments, set_seed

from crashchat.annotations import AnnotationError, VideoQAs, annotation_paths, load_annotations
from crashchat.batches import QuestionDataset, QuestionLoader, QuestionSampler, open_feature_cache
from crashchat.checkpoints import load_model, load_tokenizer, load_video_settings, save_checkpoint
from crashchat.command import run_command
from crashchat.config import ConfigError, TrainConfig, check_share, load_config, save_config
from crashchat.layouts import read_vision_config
from crashchat.losses import plot_losses
from crashchat.model import CrashChatOutput, add_adapter, choose_device, is_projector, local_device, trainable_parameters
from crashchat.sequence import IGNORED

RESOLVED_CONFIG = "train_config.yaml"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
FULL_MODEL = "model"
# Settings that may differ when a run goes on: they change how fast it is, not what it learns.
MAY_DIFFER = {
    "num_workers", "cache_videos", "feature_cache", "feature_cache_gb", "logging_steps", "save_total_limit",
    "max_tokens_per_batch", "attention",
}  # fmt: skip


class QuestionTrainer(Trainer):
    """Trainer with three things of its own: batches that count questions, a loss averaged over the labelled tokens of the
    whole global batch, and two learning rates."""

    def __init__(self, config: TrainConfig, sampler: QuestionSampler, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.sampler = sampler

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate: the sampler already gives this process's share alone.
        return QuestionLoader(self.train_dataset, self.sampler, self.config.num_workers, persistent=True)

    def run_model(self, model, inputs: dict) -> CrashChatOutput:
        """The model's output; features that had to be encoded are kept for the next time."""
        videos = inputs.get("cache_videos")
        outputs = model(**{name: value for name, value in inputs.items() if name != "cache_videos"})
        if videos is not None:
            self.train_dataset.feature_cache.store_new(videos, outputs.vision_features)
        return outputs

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this process's share of a step, in as many passes as max_tokens_per_batch asks for.

        Returns float32[], a share whose mean over processes is the mean loss over all labelled tokens of the global batch.
        """
        model.train()
        batches = self._prepare_inputs(inputs)["batches"]
        labelled, passes = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches), len(batches)
        if self.args.world_size > 1:
            shares = torch.tensor([labelled, passes], device=self.args.device)[None]
            shares = self.accelerator.gather(shares)
            labelled, passes = int(shares[:, 0].sum()), int(shares[:, 1].max())
        total = torch.zeros((), device=self.args.device)
        for index in range(passes):
            # All processes make the same number of passes (ZeRO-3 gathers weights in step); a surplus one counts nothing.
            # Gradients are averaged over processes, so each one's sum is scaled up to make the average a sum.
            scale = self.args.world_size / labelled if index < len(batches) else 0.0
            last = index == passes - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with contextlib.nullcontext() if last or self.is_deepspeed_enabled else self.accelerator.no_sync(model):
                loss = self.run_model(model, batches[min(index, len(batches) - 1)]).loss_sum * scale
                self.accelerator.backward(loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {}))
            total += loss.detach()
        return total

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = [(name, weight) for name, weight in (model or self.model).named_parameters() if weight.requires_grad]
            projector = [weight for name, weight in trained if is_projector(name)]
            others = [weight for name, weight in trained if not is_projector(name)]
            self.optimizer = torch.optim.AdamW(
                [
                    {"params": others, "lr": self.config.learning_rate},
                    {"params": projector, "lr": self.config.projector_learning_rate},
                ],
                weight_decay=self.config.weight_decay,
            )
        return self.optimizer

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Mean loss over all labelled tokens of the validation questions, each asked once, videos shared among processes."""
        dataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        rank, processes = self.args.process_index, self.args.world_size
        # Every process runs the same number of batches (ZeRO-3 gathers weights in step); the surplus counts nothing.
        rounds = -(-len(dataset.numbers) // processes)
        shares = [dataset.numbers[min(index, len(dataset.numbers) - 1)] for index in range(rank, rounds * processes, processes)]
        surplus = rank + (rounds - 1) * processes >= len(dataset.numbers)
        loader = QuestionLoader(dataset, shares, self.config.num_workers)
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64)
        progress = tqdm(loader, desc="validation", leave=False, disable=not self.is_world_process_zero())
        for index, batch in enumerate(progress):
            (batch,) = self._prepare_inputs(batch)["batches"]  # one video
            outputs = self.run_model(self.model, batch)
            if not (surplus and index == rounds - 1):
                totals += torch.stack([outputs.loss_sum.double(), outputs.num_labels.double()]).cpu()
        if processes > 1:
            totals = totals.to(self.args.device)
            dist.all_reduce(totals)
        loss_sum, count = totals.tolist()
        metrics = {f"{metric_key_prefix}_loss": loss_sum / count}
        self.model.train()
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins, and has the last step validated like every eval_steps-th."""

    def __init__(self, sampler: QuestionSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class LossPlot(TrainerCallback):
    """Draws the loss curves into the output folder whenever a checkpoint is saved."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            plot_losses(state.log_history, Path(args.output_dir) / "loss.png")


def load_videos(config: TrainConfig, split: str) -> list[VideoQAs]:
    """The videos of a split and the configured tasks' questions on them; every video must be there.

    Raises AnnotationError that lists missing videos: a run must not stop at a hole hours later.
    """
    paths = config.annotation_files.get(split) or annotation_paths(config.data_dir, config.tasks, split)
    videos = load_annotations(paths, config.data_dir, config.tasks or None)
    missing = [str(video.path) for video in videos if not video.path.is_file()]
    if missing:
        raise AnnotationError(
            f"{len(missing)} of {len(videos)} annotated {split} videos are missing, e.g. {missing[0]}; "
            f"put the videos below {config.data_dir} (see data/README.md)"
        )
    return videos


def last_complete_checkpoint(output_dir: Path) -> Path | None:
    """The newest checkpoint that was written to its end (Trainer writes trainer_state.json last), or None."""
    found = [path for path in output_dir.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(found, key=lambda path: int(path.name.split("-")[1]), default=None)


def check_resumable(config: TrainConfig) -> None:
    """Raises ConfigError if the output folder holds a run with other settings, naming each that differs."""
    path = config.output_dir / RESOLVED_CONFIG
    if not path.is_file():
        return
    earlier = load_config(TrainConfig, path).model_dump(mode="json")
    now = config.model_dump(mode="json")
    differing = [f"{key}: {earlier[key]!r} then, {now[key]!r} now" for key in now if earlier[key] != now[key]]
    differing = [line for line in differing if line.split(":")[0] not in MAY_DIFFER]
    if differing:
        raise ConfigError(
            f"{config.output_dir} holds a run with other settings:\n  " + "\n  ".join(differing) + "\n"
            "give the same settings to go on with it, another output_dir=…, or remove the folder"
        )


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
        save_total_limit=config.save_total_limit,
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
    """Run (or go on with) one training; returns the folder of the adapter, or of the model with finetune=full."""
    result = config.output_dir / FULL_MODEL if config.finetune == "full" else config.output_dir
    check_resumable(config)
    main_process = int(os.environ.get("RANK", "0")) == 0
    if is_finished(config):
        if main_process:
            print(f"{result}: already trained; remove {config.output_dir} to train again")
        return result
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    check_share(config.global_batch_size, processes)
    set_seed(config.seed)

    tokenizer = load_tokenizer(config.base_model)
    settings = load_video_settings(
        config.base_model, config.fps, config.max_frames, config.max_visual_tokens, config.token_compression
    )
    train_videos, val_videos = load_videos(config, "train"), load_videos(config, "val")
    model = load_model(
        config.base_model, tokenizer, local_device(), attention=config.attention, vision=read_vision_config(config.vision_config)
    )
    feature_cache = open_feature_cache(config.feature_cache, config.feature_cache_gb, model, settings)
    datasets = [
        QuestionDataset(
            videos,
            tokenizer,
            settings,
            config.max_length,
            config.max_tokens_per_batch,
            config.cache_videos,
            feature_cache,
        )
        for videos in (train_videos, val_videos)
    ]
    if config.finetune == "lora":
        model.requires_grad_(False)
        model = add_adapter(model, config.lora_rank, config.lora_alpha, config.lora_dropout)
        model.peft_config["default"].base_model_name_or_path = str(config.base_model)
    else:
        model.requires_grad_(True)
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
        print(f"device {args.device}, attention {config.attention}, dtype {model.dtype}, {args.world_size} process(es)")
        print(f"trained parameters {trained:,} of {total:,}; frames: {settings.fps} a second, at most {settings.max_frames}")
        print(
            f"{len(datasets[0])} training questions on {len(train_videos)} videos, {len(datasets[1])} validation questions; "
            f"{sampler.steps_per_epoch} steps an epoch, each of {config.global_batch_size} questions"
        )
    callbacks: list[TrainerCallback] = [EpochOrder(sampler), LossPlot()]
    if config.early_stopping_patience:
        callbacks.append(EarlyStoppingCallback(config.early_stopping_patience, config.early_stopping_threshold))
    trainer = QuestionTrainer(
        config, sampler, model=model, args=args, train_dataset=datasets[0], eval_dataset=datasets[1], callbacks=callbacks
    )
    checkpoint = last_complete_checkpoint(config.output_dir)
    if checkpoint and main_process:
        print(f"going on from {checkpoint}")
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)

    if main_process:
        plot_losses(trainer.state.log_history, config.output_dir / "loss.png")
        best = Path(trainer.state.best_model_checkpoint or last_complete_checkpoint(config.output_dir))
        if config.finetune == "full":
            best_model = load_model(best, tokenizer, device=torch.device("cpu"))
            save_checkpoint(best_model, tokenizer, settings, result)
        else:
            for name in reversed(ADAPTER_FILES):  # the config last: with it, the adapter is complete
                temporary = config.output_dir / f".{name}"
                shutil.copyfile(best / name, temporary)
                os.replace(temporary, config.output_dir / name)
        print(f"best validation loss {trainer.state.best_metric:.4f} at {best.name}; saved to {result}")
    if dist.is_initialized():
        dist.barrier()
    return result


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    return run_command("crashchat.train", __doc__, TrainConfig, train, argv)


if __name__ == "__main__":
    sys.exit(main())
