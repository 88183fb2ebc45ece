"""Training steps, validation and checkpoints: transformers' Trainer, fed with questions grouped by video."""

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import Trainer
from transformers.integrations import TensorBoardCallback
from transformers.trainer_utils import rotate_checkpoints

from crashchat.files import sync_tree
from crashchat.model.lora import base_of, is_projector, trained_state
from crashchat.model.videollama3 import CrashChatOutput
from crashchat.processes import reader_count
from crashchat.settings import TrainConfig
from crashchat.training.batches import QuestionDataset, QuestionLoader, StepSampler
from crashchat.training.planning.cost import OperationCounter
from crashchat.training.resuming import write_checksums
from crashchat.training.speed import Speed
from crashchat.video.tokens import VisualTokens

VIDEOS_AT_ONCE = 4  # that a validation fetch reads


class QuestionTrainer(Trainer):
    """Trainer with three things of its own: batches that count questions, a loss averaged over the labelled
    tokens of the whole global batch, and two learning rates."""

    # What this one is given; Trainer's own types allow anything.
    model: nn.Module
    train_dataset: QuestionDataset
    eval_dataset: QuestionDataset

    def __init__(self, config: TrainConfig, sampler: StepSampler, **kwargs):
        super().__init__(**kwargs)
        self.config = config
        self.sampler = sampler
        self.readers = reader_count(config.num_workers)
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                callback.logging_dir = str(config.output_dir / "tensorboard")
        self.speed = Speed(self.args.world_size)
        self.counter = OperationCounter(base_of(self.model).config, config)
        # For numbers that the computer needs at once: asking the GPUs for them would wait for their work.
        self.host_group = dist.new_group(backend="gloo") if self.args.world_size > 1 else None

    def get_train_dataloader(self) -> DataLoader:
        # Not prepared by accelerate: the sampler already gives this process's share alone.
        return QuestionLoader(self.train_dataset, self.sampler, self.readers, persistent=True)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """As Trainer's; how long the step waited for its videos is counted."""
        with self.speed.waiting():
            return super().get_batch_samples(epoch_iterator, num_batches, device)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As Trainer's, with the speed since the last log beside the training loss."""
        super().log({**logs, **self.speed.since_last_log()} if "loss" in logs else logs, *args, **kwargs)

    def gather_numbers(self, numbers: list[int]) -> Tensor:
        """int64[processes, n]: some numbers of every process."""
        own = torch.tensor(numbers)
        if self.host_group is None:
            return own[None]
        rows = [torch.empty_like(own) for _ in range(self.args.world_size)]
        dist.all_gather(rows, own, group=self.host_group)
        return torch.stack(rows)

    def operations_of(self, batches: list[dict]) -> int:
        """Of a forward and a backward pass of some batches, in units of 10^9."""
        return int(sum(map(self.counter.of_batch, batches)) / 1e9)

    def count_of(self, batch: dict) -> int:
        """What the loss of a batch is averaged over: its labelled tokens."""
        return len(batch["label_index"])

    def run_model(self, model, batch: dict, videos: list[VisualTokens] | None) -> Tensor:
        """loss_sum of a batch; features that had to be encoded are kept for the next time.

        videos: those of the batch, None without a feature cache.
        """
        outputs: CrashChatOutput = model(**batch)
        if videos is not None:
            cache, features = self.train_dataset.feature_cache, outputs.vision_features
            assert cache is not None and features is not None, "videos come along with a feature cache alone"
            cache.store_new(videos, features)
        # Only the base class wants a field that may be empty.
        assert outputs.loss_sum is not None
        return outputs.loss_sum

    def training_step(self, model, inputs, num_items_in_batch=None) -> torch.Tensor:
        """Forward and backward of this process's share of a step,
        in as many passes as max_tokens_per_batch asks for.

        Returns float32[], a share whose mean over processes is the mean loss over all labelled tokens of the
        global batch. Raises the error that a reader met (after a resume Trainer asks it through a loader that
        hands errors on as values).
        """
        if isinstance(inputs, Exception):
            raise inputs
        model.train()
        batches = cast(list[dict], self._prepare_input(inputs["batches"]))
        shares = self.gather_numbers(
            [
                sum(map(self.count_of, batches)),
                len(batches),
                sum(batch["input_ids"].shape[1] for batch in batches),
                inputs["num_videos"],
                self.operations_of(batches),
            ]
        )
        counted, passes = int(shares[:, 0].sum()), int(shares[:, 1].max())
        self.speed.count(*map(int, shares[:, 2:].sum(dim=0)))

        def loss_of(index: int) -> Tensor:
            # All processes make the same number of passes (ZeRO-3 gathers weights in step); a surplus one
            # counts nothing. Gradients are averaged over processes, so each one's sum is scaled up to make
            # the average a sum.
            scale = self.args.world_size / counted if index < len(batches) else 0.0
            own = min(index, len(batches) - 1)
            return self.run_model(model, batches[own], inputs["videos"][own]) * scale

        return self.run_passes(model, [partial(loss_of, index) for index in range(passes)])

    def run_passes(self, model, losses: Sequence[Callable[[], Tensor]]) -> Tensor:
        """Forward and backward of a step's passes; processes exchange gradients in the last one alone.

        losses: each runs its pass and returns its loss. Returns float32[], their sum.
        """
        total = torch.zeros((), device=self.args.device)
        for index, loss_of in enumerate(losses):
            last = index == len(losses) - 1
            self.accelerator.gradient_state._set_sync_gradients(last)
            with (
                contextlib.nullcontext()
                if last or self.is_deepspeed_enabled
                else self.accelerator.no_sync(model),
                save_on_cpu(pin_memory=self.args.device.type == "cuda")
                if self.config.offload_activations
                else contextlib.nullcontext(),
            ):
                loss = loss_of()
                self.accelerator.backward(
                    loss, **({"scale_wrt_gas": False} if self.is_deepspeed_enabled else {})
                )
            total += loss.detach()
        return total

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            trained = trained_state(model or self.model)
            projector = [weight for name, weight in trained.items() if is_projector(name)]
            others = [weight for name, weight in trained.items() if not is_projector(name)]
            kind: Any = torch.optim.AdamW
            if self.config.optimizer == "adamw_8bit":
                from bitsandbytes.optim import AdamW8bit as kind
            self.optimizer = kind(
                [
                    {"params": others, "lr": self.config.learning_rate},
                    {"params": projector, "lr": self.config.projector_learning_rate},
                ],
                weight_decay=self.config.weight_decay,
            )
        return self.optimizer

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's; under DeepSpeed only what is trained, from the optimizer's float32 weights.

        Trainer would copy the whole model to every process's memory, in the type that it computes in.
        """
        if not self.is_deepspeed_enabled:
            super().save_model(output_dir, _internal_call)
            return
        from deepspeed.utils import safe_get_full_fp32_param

        state = {}
        for name, weight in trained_state(self.model).items():  # every process takes part in each
            whole = safe_get_full_fp32_param(weight)
            if self.args.should_save:
                state[name] = whole.cpu()
        self._save(output_dir, state_dict=state)

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
        videos shared among processes, several read and asked at a time.
        """
        dataset: QuestionDataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        processes = self.args.world_size
        fetches = self.validation_fetches(dataset.numbers)
        # Every process runs the same number of batches (ZeRO-3 gathers weights in step); the surplus counts
        # nothing.
        rounds = -(-len(dataset.numbers[::processes]) // VIDEOS_AT_ONCE)
        surplus = rounds - len(fetches)
        self.model.eval()
        totals = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        padded = [*fetches, *[dataset.numbers[0]] * surplus]
        for index, inputs in enumerate(self.validation_loader(dataset, padded)):
            batches = cast(list[dict], self._prepare_input(inputs["batches"]))
            for place in range(int(self.gather_numbers([len(batches)]).max())):
                one = min(place, len(batches) - 1)
                loss_sum = self.run_model(self.model, batches[one], inputs["videos"][one])
                if place < len(batches) and index < len(fetches):
                    counted = totals.new_tensor(self.count_of(batches[one]))
                    totals += torch.stack([loss_sum.double(), counted])
        if processes > 1:
            dist.all_reduce(totals)
        loss_sum, count = totals.tolist()
        self.model.train()
        return self.told({f"{metric_key_prefix}_loss": loss_sum / count})

    def validation_fetches(self, numbers: list[list[int]]) -> list[list[int]]:
        """This process's share of the question numbers of each video, those of several videos together."""
        own = numbers[self.args.process_index :: self.args.world_size]
        return [sum(own[start : start + VIDEOS_AT_ONCE], []) for start in range(0, len(own), VIDEOS_AT_ONCE)]

    def validation_loader(self, dataset: QuestionDataset, fetches: list[list[int]]) -> tqdm:
        """The model's inputs of these fetches, with a progress bar on the first process."""
        return tqdm(
            QuestionLoader(dataset, fetches, self.readers),
            desc="validation",
            leave=False,
            disable=None if self.is_world_process_zero() else True,
        )

    def told(self, metrics: dict[str, float]) -> dict[str, float]:
        """Log what a validation found, and tell the callbacks; returns it."""
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.speed.restart()
        return metrics
