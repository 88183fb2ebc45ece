"""What can be told to runs that go on from a model which has learnt its tasks: with pairs of answers, or with
drawn ones.
"""

from typing import Literal

from pydantic import Field, model_validator

from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from crashchat.tasks.quantities import Timed


class SecondStageConfig(TrainConfig):
    """What goes on from a model that has learnt its tasks: that of `adapter`, or a merged base_model."""

    @model_validator(mode="after")
    def _of_an_adapter(self):
        if self.finetune == "full":
            raise ValueError("a second stage trains an adapter: finetune=full does not go with it")
        return self


class PreferenceConfig(SecondStageConfig):
    """What one run of learning from pairs of answers does; annotation_files names the pairs of each split."""

    beta: float = Field(default=0.1, gt=0, le=100)
    """How far the model is held near its start: the smaller, the farther it goes."""
    global_batch_size: int = Field(default=24, gt=0, le=10**6)
    """Pairs an optimizer step learns from, over all processes."""

    @property
    def keeps_start(self) -> bool:
        """Whether the model as it was at the start is asked as well."""
        return True

    @model_validator(mode="after")
    def _paired(self):
        if self.data:
            raise ValueError("pairs are read from annotation_files: no data")
        lacking = [split for split in ("train", "val") if not self.annotation_files.get(split)]
        if lacking:
            raise ValueError(f"annotation_files names no pairs of {', '.join(lacking)}")
        if self.feature_cache:
            raise ValueError("learning from pairs does not go with feature_cache yet")
        return self


class ReinforceConfig(SecondStageConfig):
    """What one run of reinforcement learning does: answers are drawn, rewarded, and learnt from."""

    tasks: list[str] = Field(default_factory=lambda: TASKS.task_set.of_kind(Timed), min_length=1)
    """Tasks whose answers are drawn and rewarded."""
    supervised_tasks: list[str] = Field(default_factory=list)
    """Tasks whose annotated answers are learnt beside them, so that they are not forgotten."""
    supervised_share: float = Field(default=0.5, ge=0, lt=1)
    """Their share of the loss."""
    global_batch_size: int = Field(default=24, ge=0, le=10**6)
    """Questions of supervised_tasks in a step, over all processes."""
    videos_per_step: int = Field(default=8, gt=0, le=10**6)
    """Videos in a step whose questions of `tasks` are asked, over all processes."""
    rollouts: int = Field(default=8, ge=2, le=1024)
    """Answers drawn to each question (a group)."""
    temperature: float = Field(default=1.0, gt=0, le=100)
    """Of the distribution that answers are drawn from."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Answers are drawn from the likeliest tokens that have this share of the probability."""
    max_new_tokens: int = Field(default=32, gt=0, le=10**5)
    """Tokens of a drawn answer at most."""
    rewards: dict[str, str] = Field(default_factory=dict)
    """{task: a reward of rewards.py, or module:function}; a task that is not named has the one of its
    answers' form.
    """
    scale_advantages: bool = True
    """Divide advantages by their group's standard deviation (GRPO); false: Dr. GRPO."""
    token_weighting: Literal["token", "answer", "constant"] = "token"
    """What counts alike: every token of a step, every answer, or every token over max_new_tokens
    (policy.py).
    """
    updates: int = Field(default=1, gt=0, le=100)
    """Optimizer steps made on the same drawn answers."""
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    """By how much a token's ratio may fall below 1 before it counts no more."""
    clip_high: float = Field(default=0.28, gt=0, le=10)
    """By how much it may rise above 1."""
    kl: float = Field(default=0.0, ge=0, le=100)
    """Weight of the divergence from the model that the run started from."""
    dynamic_sampling: bool = False
    """Leave a video out of the next epoch when none of its groups had answers of different worth."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before LoRA's A; with it, a drawn answer's probability in learning is another than in
    drawing.
    """

    @property
    def all_tasks(self) -> list[str]:
        """Every task whose questions are read."""
        return [*self.tasks, *self.supervised_tasks]

    @property
    def keeps_start(self) -> bool:
        """Whether the model as it was at the start is asked as well."""
        return self.kl > 0

    @model_validator(mode="after")
    def _reinforceable(self):
        if self.eval_steps % self.updates:
            raise ValueError(
                f"eval_steps={self.eval_steps} is not a multiple of updates={self.updates}: a checkpoint "
                "holds no drawn answers"
            )
        twice = sorted({*self.tasks} & {*self.supervised_tasks})
        if twice:
            raise ValueError(f"tasks and supervised_tasks both name {', '.join(twice)}")
        if bool(self.supervised_tasks) != bool(self.global_batch_size):
            raise ValueError(
                f"supervised_tasks={self.supervised_tasks} does not go with "
                f"global_batch_size={self.global_batch_size}: give both, or [] and 0"
            )
        if self.annotation_files:
            raise ValueError("reinforcement reads the files of its tasks in data_dir: no annotation_files")
        if self.deepspeed and "zero3" in self.deepspeed.name:
            raise ValueError(
                "answers cannot be drawn from weights that ZeRO-3 has spread: take zero1 or zero2"
            )
        unknown = sorted({*self.rewards} - {*self.tasks})
        if unknown:
            raise ValueError(f"rewards: {', '.join(unknown)} is none of tasks={self.tasks}")
        return self
