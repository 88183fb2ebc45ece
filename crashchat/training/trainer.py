"""Training steps, validation and checkpoints: transformers' Trainer, fed with questions grouped by video."""

import contextlib
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints

from crashchat.config import TrainConfig
from crashchat.files import sync_tree
from crashchat.model.sequence import IGNORED
from crashchat.model.videollama3 import CrashChatOutput, is_projector
from crashchat.training.batches import QuestionDataset, QuestionLoader, QuestionSampler
from crashchat.training.losses import plot_losses
from crashchat.training.resuming import write_checksums
from crashchat.video.tokens import VisualTokens


class QuestionTrainer(Trainer):
    """Trainer with three things of its own: batches that count questions, a loss averaged over the labelled
    tokens of the whole global batch, and two learning rates."""

    # What this one is given; Trainer's own types allow anything.
    model: nn.Module
    train_dataset: QuestionDataset
    eval_dataset: QuestionDataset

    def __init__(self, config: TrainConfig, sampler: QuestionSampler, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.sampler = sampler

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate: the sampler already gives this process's share alone.
        return QuestionLoader(self.train_dataset, self.sampler, self.config.num_workers, persistent=True)

    def run_model(self, model, batch: dict, videos: list[VisualTokens] | None) -> tuple[Tensor, Tensor]:
        """(loss_sum, num_labels) of a batch; features that had to be encoded are kept for the next time.

        videos: those of the batch, None without a feature cache.
        """
        outputs: CrashChatOutput = model(**batch)
        if videos is not None:
            cache, features = self.train_dataset.feature_cache, outputs.vision_features
            assert cache is not None and features is not None, "videos come along with a feature cache alone"
            cache.store_new(videos, features)
        # Only the base class wants fields that may be empty.
        assert outputs.loss_sum is not None and outputs.num_labels is not None
        return outputs.loss_sum, outputs.num_labels

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this process's share of a step,
        in as many passes as max_tokens_per_batch asks for.

        Returns float32[], a share whose mean over processes is the mean loss over all labelled tokens of the
        global batch.
        """
        model.train()
        batches = cast(list[dict], self._prepare_input(inputs["batches"]))
        labelled, passes = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches), len(batches)
        if self.args.world_size > 1:
            shares = torch.tensor([labelled, passes], device=self.args.device)[None]
            shares = self.accelerator.gather(shares)
            labelled, passes = int(shares[:, 0].sum()), int(shares[:, 1].max())
        total = torch.zeros((), device=self.args.device)
        for index in range(passes):
            # All processes make the same number of passes (ZeRO-3 gathers weights in step); a surplus one
            # counts nothing. Gradients are averaged over processes, so each one's sum is scaled up to make
            # the average a sum.
            scale = self.args.world_size / labelled if index < len(batches) else 0.0
            last = index == passes - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with (
                contextlib.nullcontext()
                if last or self.is_deepspeed_enabled
                else self.accelerator.no_sync(model)
            ):
                own = min(index, len(batches) - 1)
                loss_sum, _ = self.run_model(model, batches[own], inputs["videos"][own])
                loss = loss_sum * scale
                self.accelerator.backward(
                    loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {})
                )
            total += loss.detach()
        return total

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = [
                (name, weight)
                for name, weight in (model or self.model).named_parameters()
                if weight.requires_grad
            ]
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

    def _save_rng_state(self, output_dir: str) -> None:
        """The last that Trainer writes before trainer_state.json, with which a checkpoint counts:
        by then all is on disk.
        """
        super()._save_rng_state(output_dir)
        if self.args.should_save:
            write_checksums(Path(output_dir))
        self._wait_for_all()  # no file comes or goes while the folder's files are synced
        sync_tree(Path(output_dir))
        self._wait_for_all()

    def _wait_for_all(self) -> None:
        if self.args.world_size > 1:
            dist.barrier()

    def _save_checkpoint(self, model, trial) -> None:
        """Older checkpoints go once the new one is on disk
        (training_arguments keeps Trainer from doing it before).
        """
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            output_dir = self._get_output_dir(trial)
            sync_tree(Path(output_dir) / f"checkpoint-{self.state.global_step}")
            rotate_checkpoints(
                output_dir,
                save_total_limit=self.config.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
            )

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """Mean loss over all labelled tokens of the validation questions, each asked once,
        videos shared among processes.
        """
        dataset: QuestionDataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        rank, processes = self.args.process_index, self.args.world_size
        # Every process runs the same number of batches (ZeRO-3 gathers weights in step); the surplus counts
        # nothing.
        rounds = -(-len(dataset.numbers) // processes)
        shares = [
            dataset.numbers[min(index, len(dataset.numbers) - 1)]
            for index in range(rank, rounds * processes, processes)
        ]
        surplus = rank + (rounds - 1) * processes >= len(dataset.numbers)
        loader = QuestionLoader(dataset, shares, self.config.num_workers)
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64)
        progress = tqdm(
            loader, desc="validation", leave=False, disable=None if self.is_world_process_zero() else True
        )
        for index, inputs in enumerate(progress):
            (batch,), (videos,) = self._prepare_input(inputs["batches"]), inputs["videos"]  # one video
            sums = self.run_model(self.model, batch, videos)
            if not (surplus and index == rounds - 1):
                totals += torch.stack([value.double() for value in sums]).cpu()
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
