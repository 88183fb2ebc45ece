"""The planned passes are those that training makes, from annotated answers, drawn ones and pairs."""

import torch

from crashchat.checkpoints.folders import load_video_settings
from crashchat.config import CONFIG_DIR, ROOT, load_config
from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.data.pairs import load_pairs
from crashchat.second_stages import PreferenceConfig, ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.training.batches import QuestionDataset, QuestionSampler
from crashchat.training.planning.memory import batch_of
from crashchat.training.planning.shapes import Split, shapes_of, steps_of
from crashchat.training.planning.work import DrawnWork, work_of
from crashchat.training.preferences import PairDataset
from tests.helpers.commands import TRAIN_CONFIG
from tests.helpers.pairs import write_pairs
from tests.helpers.planning import config_of

PREFERRED = CONFIG_DIR / "train" / "preferences.yaml"


def test_shapes_and_passes_are_those_of_training(tiny_base, tiny_data, tiny_tokenizer, tmp_path):
    config = config_of(tiny_base, tiny_data, tmp_path, "max_tokens_per_batch=1500", "global_batch_size=8")
    video_settings = load_video_settings(tiny_base)
    split = shapes_of(config, "train", video_settings, tiny_tokenizer, measured=6)
    videos = load_annotations(annotation_paths(tiny_data, config.tasks, "train"), tiny_data, config.tasks)
    limits = (config.max_length, config.max_tokens_per_batch)
    dataset = QuestionDataset(videos, tiny_tokenizer, video_settings, *limits)
    assert len(split.videos) == 6 and split.seconds_to_read > 0
    assert_trained_as_planned(config, split, dataset)


def test_shapes_and_passes_of_pairs_are_those_of_training(tiny_base, tiny_data, tiny_tokenizer, tmp_path):
    files = [write_pairs(tiny_data, tmp_path / f"{split}.json", split) for split in ("train", "val")]
    words = [f"data_dir={tiny_data}", f"base_model={tiny_base}", "max_tokens_per_batch=1500"]
    words += ["global_batch_size=4", f"annotation_files={{train: [{files[0]}], val: [{files[1]}]}}"]
    config = load_config(PreferenceConfig, PREFERRED, words)
    video_settings = load_video_settings(tiny_base)
    work = work_of(config, 2, lambda one, split: shapes_of(one, split, video_settings, tiny_tokenizer, 6))
    videos = load_pairs(files[:1], tiny_data)
    assert work.train.questions == len(videos) == 6 and "pairs of answers" in work.train.sources[0]
    assert all([len(one.answers) for one in video.questions] == [2] for video in work.train.videos)
    limits = (config.max_length, config.max_tokens_per_batch)
    dataset = PairDataset(videos, tiny_tokenizer, video_settings, *limits)
    assert_trained_as_planned(config, work.train, dataset)


def assert_trained_as_planned(config: TrainConfig, split: Split, dataset: QuestionDataset) -> None:
    """Every pass of two processes, token for token."""
    ranks = [
        QuestionSampler(dataset.numbers, config.global_batch_size, rank=rank, processes=2, seed=config.seed)
        for rank in (0, 1)
    ]
    for step, *shares in zip(steps_of(config, split, 2), *ranks, strict=True):
        for planned, numbers in zip(step, shares, strict=True):
            made = [one.batch for one in dataset.__getitems__(numbers).passes]
            assert [sum(video.length for video in one) for one in planned] == [
                batch.input_ids.shape[1] for batch in made
            ]
            assert [sum(video.labelled for video in one) for one in planned] == [
                int((batch.labels >= 0).sum()) for batch in made
            ]
            imagined = [batch_of(one, image_token=1) for one in planned]
            for one, other in zip(imagined, made, strict=True):
                assert one.pixel_values_videos.shape == other.pixel_values_videos.shape
                assert one.video_grid_thw == other.video_grid_thw
                assert torch.equal(one.branch_ids, other.branch_ids)
                assert torch.equal(one.stem_ids, other.stem_ids)
                assert torch.equal(one.position_ids, other.position_ids)


def test_without_annotations_the_released_set_is_taken(tiny_base, tmp_path):
    config = load_config(TrainConfig, ROOT / TRAIN_CONFIG, [f"data_dir={tmp_path}"])
    video_settings = load_video_settings(tmp_path, max_visual_tokens=config.max_visual_tokens)
    split = shapes_of(config, "train", video_settings)
    assert len(split.videos) == 14_708 and "released set" in split.sources[0]
    assert {len(video.questions) for video in split.videos} == {4, 6}
    assert 5.1 < split.questions / len(split.videos) < 5.3
    assert 9_000 < split.videos[0].prefix < 10_240 and split.videos[0].frames == 96
    fewer = load_video_settings(tmp_path, max_frames=32, max_visual_tokens=1024)
    assert shapes_of(config, "train", fewer).videos[0].visual <= 1024
    perception = load_config(
        TrainConfig, CONFIG_DIR / "train" / "homogeneous_perception.yaml", [f"data_dir={tmp_path}"]
    )
    assert len(shapes_of(perception, "train", video_settings).videos) == round(14_708 * 1_139 / 1_838)


REINFORCED = CONFIG_DIR / "train" / "reinforce_localization.yaml"


def test_a_run_that_draws_answers_is_planned_as_it_draws_and_learns(tiny_base, tiny_data, tiny_tokenizer):
    words = [f"data_dir={tiny_data}", f"base_model={tiny_base}", "videos_per_step=3", "rollouts=4"]
    words += ["updates=2", "eval_steps=50", "global_batch_size=6"]
    config = load_config(ReinforceConfig, REINFORCED, words)
    settings = load_video_settings(tiny_base)
    work = work_of(config, 2, lambda one, split: shapes_of(one, split, settings, tiny_tokenizer))
    assert isinstance(work, DrawnWork)
    paths = annotation_paths(tiny_data, config.tasks, "train")
    videos = load_annotations(paths, tiny_data, config.tasks)
    assert len(work.fetches) == -(-len(videos) // 3)
    assert work.train.questions == sum(len(video.questions) for video in videos)
    first, again = work.steps[::2], work.steps[1::2]
    for fetch, own, behind in zip(work.fetches, first, again, strict=True):
        assert own == [share.drawn + share.annotated for share in fetch]
        assert behind == [share.drawn for share in fetch]
        for share in fetch:
            drawn = [video for one in share.drawn for video in one]
            assert all(len(question.answers) == 4 for video in drawn for question in video.questions)
            assert [len(one.questions) for one in drawn] == [len(one.questions) for one in share.asked]
        annotated = [video for share in fetch for one in share.annotated for video in one]
        assert sum(len(video.questions) for video in annotated) == 6
