"""Steps of reinforcement: answers are drawn, rewarded and learnt from, beside annotated ones.

What is drawn, rollouts.py says; how it is learnt from, policy.py.
"""

from functools import partial
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from crashchat.data.annotations import VideoQAs
from crashchat.files import write_json_atomic
from crashchat.second_stages import ReinforceConfig
from crashchat.training.drawn import DrawnPass, answer_lengths, lay_out, policy_loss
from crashchat.training.rewards import Reward, default_reward, reward_named
from crashchat.training.rollout_data import RolloutDataset, RolloutSampler
from crashchat.training.rollouts import Roller, Rollout, figures_of
from crashchat.training.start import at_the_start
from crashchat.training.trainer import QuestionTrainer
from crashchat.video.tokens import VideoSettings

SOLVED = "solved_videos.json"  # in a checkpoint: what dynamic_sampling leaves out
COLLAPSED = 0.9  # share of a step's answers that are one and the same text, from which on it is said


class ReinforceTrainer(QuestionTrainer):
    """A trainer whose steps learn from answers that it draws itself, and from annotated ones beside them."""

    config: ReinforceConfig
    sampler: RolloutSampler
    train_dataset: RolloutDataset
    eval_dataset: RolloutDataset

    def __init__(self, config: ReinforceConfig, sampler: RolloutSampler, roller: Roller, **kwargs):
        super().__init__(config, sampler, **kwargs)
        self.roller = roller
        self.passes: list[DrawnPass] = []
        self.figures: dict[str, tuple[float, int]] = {}
        self.texts: dict[str, int] = {}

    def training_step(self, model, inputs, num_items_in_batch=None) -> Tensor:
        """Draw, or take what was drawn before; then forward and backward of this process's share.

        Returns float32[], a share whose mean over processes is the step's loss.
        """
        if isinstance(inputs, Exception):
            raise inputs
        again = self.state.global_step % self.config.updates > 0
        if not again:
            self._draw(inputs["asked"])
        model.train()
        supervised = cast(list[dict], self._prepare_input(inputs["batches"]))
        batches = [*supervised, *(own.batch for own in self.passes)]
        shares = self.gather_numbers(
            [
                sum(map(self.count_of, supervised)),
                len(supervised),
                len(self.passes),
                sum(batch["input_ids"].shape[1] for batch in batches),
                inputs["num_videos"] + len(inputs["asked"]),
                self.operations_of(batches),
            ]
        )
        self.speed.count(*map(int, shares[:, 3:].sum(dim=0)))
        known, rounds = int(shares[:, 0].sum()), [int(shares[:, column].max()) for column in (1, 2)]
        share = self.config.supervised_share if known else 0.0
        scale = self.args.world_size

        def from_drawn(index: int) -> Tensor:
            if index < len(self.passes):
                return (1 - share) * scale * self._learn_from(model, self.passes[index])
            return surplus()

        def from_annotated(index: int) -> Tensor:
            if index < len(supervised):
                videos = inputs["videos"][index]
                return share * scale / known * self.run_model(model, supervised[index], videos)
            return surplus()

        def surplus() -> Tensor:  # another process has more passes; this one counts nothing
            return 0.0 * model(**batches[-1]).loss_sum

        losses = [partial(from_drawn, index) for index in range(rounds[1])]
        losses += [partial(from_annotated, index) for index in range(rounds[0])]
        return self.run_passes(model, losses)

    def _learn_from(self, model, drawn: DrawnPass) -> Tensor:
        reference = self._reference(drawn) if self.config.kl else None
        return policy_loss(model, drawn, self.config, reference)

    @torch.no_grad()
    def _reference(self, drawn: DrawnPass) -> Tensor:
        """Log-probabilities under the model that the run started from: the adapter as it was, or none."""
        if drawn.reference is None:
            model = self.accelerator.unwrap_model(self.model)
            with at_the_start(model):
                output = model(**drawn.batch, temperature=self.config.temperature)
            drawn.reference = -output.token_losses
        return drawn.reference

    def _draw(self, asked: list) -> None:
        """Draw answers to this process's questions and lay them out as passes."""
        with self.accelerator.autocast():
            rollouts = self.roller.draw(self.model, asked, self.state.global_step)
        self._note(rollouts)
        kept = [
            Rollout(rollout.visual, groups)
            for rollout in rollouts
            if (groups := [group for group in rollout.groups if group.advantages is not None])
        ]
        closing = self.roller.tokenizer.eos_token_id
        lengths = answer_lengths(kept, closing)
        counts = self.gather_numbers([sum(lengths), len(lengths)]).sum(dim=0).tolist()
        # A process without anything to learn from runs what it drew all the same, counting nothing.
        self.passes = lay_out(
            kept or rollouts[:1],
            self.roller.tokenizer,
            self.config,
            tokens=counts[0],
            answers=counts[1],
            device=self.args.device,
        )

    def _note(self, rollouts: list[Rollout]) -> None:
        """Keep what the log says of drawn answers, and which videos taught nothing."""
        for name, (total, count) in figures_of(rollouts).items():
            before = self.figures.get(name, (0.0, 0))
            self.figures[name] = (before[0] + total, before[1] + count)
        for group in (group for rollout in rollouts for group in rollout.groups):
            for one in group.judged:
                self.texts[one.text] = self.texts.get(one.text, 0) + 1
        if self.config.dynamic_sampling:
            own = [
                (self.sampler.video_of[group.number], group.advantages is not None)
                for rollout in rollouts
                for group in rollout.groups
            ]
            found: list[list] = [own]
            if self.args.world_size > 1:
                found = [[] for _ in range(self.args.world_size)]
                dist.all_gather_object(found, own, group=self.host_group)
            self.sampler.note([pair for pairs in found for pair in pairs])

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As QuestionTrainer's, with the means of what was drawn since the last log, and a word where the
        answers have become one.
        """
        if "loss" in logs and self.figures:
            logs = logs | {name: round(total / count, 4) for name, (total, count) in self.figures.items()}
            most, count = max(self.texts.items(), key=lambda item: item[1])
            if (count > COLLAPSED * sum(self.texts.values()) and len(self.texts) > 1) or len(self.texts) == 1:
                print(f"warning: {count} of {sum(self.texts.values())} drawn answers are {most!r}")
            self.figures, self.texts = {}, {}
        super().log(logs, *args, **kwargs)

    @torch.no_grad()
    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix="eval") -> dict[str, float]:
        """The mean reward of answers drawn to the validation questions of the rewarded tasks.

        As in a step, and not the likeliest answer of each: on a few dozen clips that one's reward tells
        checkpoints apart by chance (docs/reinforcement.md).
        """
        dataset: RolloutDataset = eval_dataset if eval_dataset is not None else self.eval_dataset
        rewarded, _ = dataset.split()
        rollouts: list[Rollout] = []
        for inputs in self.validation_loader(dataset, self.validation_fetches(rewarded)):
            with self.accelerator.autocast():
                rollouts += self.roller.draw(self.model, inputs["asked"], None)
        sums = figures_of(rollouts)
        names = ["reward", *(f"reward_{task}" for task in self.config.tasks), "unparsed"]
        table = torch.tensor([sums.get(name, (0.0, 0)) for name in names], dtype=torch.float64)
        if self.host_group is not None:
            dist.all_reduce(table, group=self.host_group)
        metrics = {
            f"{metric_key_prefix}_{name}": total / count
            for name, (total, count) in zip(names, table.tolist(), strict=True)
            if count
        }
        return self.told(metrics)

    def _save_rng_state(self, output_dir: str) -> None:
        if self.config.dynamic_sampling and self.args.should_save:
            write_json_atomic(Path(output_dir) / SOLVED, self.sampler.state())
        super()._save_rng_state(output_dir)


def rewards_of(config: ReinforceConfig) -> dict[str, tuple[str, Reward]]:
    """{task: (the reward's name, the reward)}. Raises RewardError for one that is not known."""
    names = {task: config.rewards.get(task, default_reward(task)) for task in config.tasks}
    return {task: (name, reward_named(name)) for task, name in names.items()}


def make_roller(
    config: ReinforceConfig,
    tokenizer: PreTrainedTokenizerBase,
    settings: VideoSettings,
    videos: list[VideoQAs],
) -> Roller:
    """What draws and judges answers; videos: those to learn from."""
    known = {
        task: sorted({answer for video in videos if (answer := video.answer_of(task))})
        for task in config.tasks
    }
    return Roller(config, tokenizer, settings, rewards=rewards_of(config), known=known)
