"""What Trainer calls while it trains."""

from pathlib import Path

from transformers import TrainerCallback

from crashchat.training.batches import StepSampler
from crashchat.training.losses import plot_losses


class EpochOrder(TrainerCallback):
    """Tells the sampler which epoch begins, and has the last step validated like every eval_steps-th."""

    def __init__(self, sampler: StepSampler):
        self.sampler = sampler

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step >= state.max_steps:
            control.should_evaluate = control.should_save = True


class BestIsKept(TrainerCallback):
    """Has every validation that is the best so far followed by a checkpoint, be it no save_steps-th step."""

    def on_evaluate(self, args, state, control, **kwargs):
        found, best = kwargs["metrics"][args.metric_for_best_model], state.best_metric
        if best is None or (found > best if args.greater_is_better else found < best):
            control.should_save = True


class LossPlot(TrainerCallback):
    """Draws the loss curves into the output folder whenever a checkpoint is saved."""

    def on_save(self, args, state, control, **kwargs):
        if state.is_world_process_zero:
            plot_losses(state.log_history, Path(args.output_dir) / "loss.png")
