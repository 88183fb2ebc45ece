"""The three ways of learning, from annotated answers, from drawn ones and from pairs: what each is made
of.
"""

from pathlib import Path
from typing import cast

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainingArguments

from crashchat.checkpoints.adapters import read_adapter
from crashchat.config import ConfigError
from crashchat.data.annotations import VideoQAs
from crashchat.json_files import read_json
from crashchat.model.videollama3 import CrashChatModel
from crashchat.second_stages import PreferenceConfig, ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from crashchat.training.batches import QuestionDataset, QuestionSampler, StepSampler
from crashchat.training.preferences import PairDataset, PreferenceTrainer
from crashchat.training.reinforce_trainer import SOLVED, ReinforceTrainer, make_roller, rewards_of
from crashchat.training.rollout_data import RolloutDataset, RolloutSampler
from crashchat.training.trainer import QuestionTrainer
from crashchat.video.feature_cache import FeatureCache
from crashchat.video.tokens import VideoSettings


def check(config: TrainConfig) -> None:
    """What can be known to be wrong before anything is loaded.

    Raises RewardError for a reward that is not known, CheckpointError where the adapter to start from is
    none.
    """
    if isinstance(config, ReinforceConfig):
        rewards_of(config)
    if config.adapter:
        read_adapter(config.adapter)


def make_dataset(
    config: TrainConfig,
    videos: list[VideoQAs],
    tokenizer: PreTrainedTokenizerBase,
    settings: VideoSettings,
    cache: FeatureCache | None,
) -> QuestionDataset:
    """The questions on some videos."""
    sizes = {
        "max_length": config.max_length,
        "max_tokens_per_batch": config.max_tokens_per_batch,
        "cache_videos": config.cache_videos,
    }
    if isinstance(config, ReinforceConfig):
        rewarded = frozenset(config.tasks)
        return RolloutDataset(videos, tokenizer, settings, **sizes, feature_cache=cache, rewarded=rewarded)
    kind = PairDataset if isinstance(config, PreferenceConfig) else QuestionDataset
    return kind(videos, tokenizer, settings, **sizes, feature_cache=cache)


def make_sampler(config: TrainConfig, dataset: QuestionDataset, args: TrainingArguments) -> StepSampler:
    """This process's share of every step."""
    place = {"rank": args.process_index, "processes": args.world_size}
    if isinstance(config, ReinforceConfig):
        assert isinstance(dataset, RolloutDataset), "make_dataset made it"
        return RolloutSampler(*dataset.split(), config, **place)
    return QuestionSampler(
        dataset.numbers,
        config.global_batch_size,
        **place,
        group_by_video=config.group_by_video,
        seed=config.seed,
        shares={name: task.share for name, task in TASKS.items() if task.share < 1},
        tasks=dataset.tasks,
    )


def step_in_words(config: TrainConfig) -> str:
    """What a step learns from."""
    if not isinstance(config, ReinforceConfig):
        return (
            f"{config.global_batch_size} {'pairs' if isinstance(config, PreferenceConfig) else 'questions'}"
        )
    drawn = f"{config.rollouts} answers drawn to each question on {config.videos_per_step} videos"
    others = f" and {config.global_batch_size} annotated ones" if config.global_batch_size else ""
    return drawn + others


def make_trainer(
    config: TrainConfig,
    sampler: StepSampler,
    datasets: list[QuestionDataset],
    *,
    model: CrashChatModel | PeftModel,
    args: TrainingArguments,
    callbacks: list[TrainerCallback],
    checkpoint: Path | None,
) -> QuestionTrainer:
    """The trainer; checkpoint: what the run goes on from."""
    common = {
        "model": model,
        "args": args,
        "train_dataset": datasets[0],
        "eval_dataset": datasets[1],
        "callbacks": callbacks,
    }
    if isinstance(config, PreferenceConfig):
        return PreferenceTrainer(config, sampler, **common)
    if not isinstance(config, ReinforceConfig):
        return QuestionTrainer(config, sampler, **common)
    assert isinstance(sampler, RolloutSampler), "make_sampler made it"
    if checkpoint and (checkpoint / SOLVED).is_file():
        sampler.restore(cast(dict, read_json(checkpoint / SOLVED, ConfigError, "what a run had asked")))
    roller = make_roller(config, datasets[0].tokenizer, datasets[0].settings, datasets[0].videos)
    return ReinforceTrainer(config, sampler, roller, **common)
