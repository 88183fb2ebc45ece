"""Which questions share a step: every question once an epoch, 24 a step, whatever the number of processes."""

from collections import Counter

import pytest
import torch

from crashchat.checkpoints.folders import load_video_settings
from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.model.sequence import SequenceError
from crashchat.tasks import TASKS
from crashchat.training.batches import QuestionDataset, QuestionLoader, QuestionSampler, as_model_input
from crashchat.video.source import VideoError

NUMBERS = [list(range(start, start + 6)) for start in range(0, 60, 6)] + [[60, 61, 62, 63]]  # 64 questions


def stream(processes: int, epoch: int = 0, **settings) -> list[list[int]]:
    """Every step of an epoch, each step's questions of all processes joined in order."""
    samplers = [QuestionSampler(NUMBERS, 24, rank, processes, **settings) for rank in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    shares = [list(sampler) for sampler in samplers]
    rounds = [batch for batches in zip(*shares, strict=True) for batch in batches]
    flat = [number for batch in rounds for number in batch]
    return [flat[start : start + 24] for start in range(0, len(flat), 24)]


@pytest.mark.parametrize("group_by_video", [True, False])
def test_steps_are_the_same_for_any_number_of_processes(group_by_video):
    alone = stream(1, group_by_video=group_by_video)
    for processes in (2, 3, 4, 24):
        assert stream(processes, group_by_video=group_by_video) == alone
    assert [len(step) for step in alone] == [24, 24, 24]
    assert set(Counter(sum(alone, [])[:64]).values()) == {1}, "each question once before the fill"


def test_grouping_keeps_a_videos_questions_together_and_ungrouping_does_not():
    def videos_a_step(group_by_video):
        owner = {number: index for index, numbers in enumerate(NUMBERS) for number in numbers}
        steps = stream(1, group_by_video=group_by_video)[:2]
        return [len({owner[number] for number in step}) for step in steps]

    assert max(videos_a_step(True)) <= 5
    assert min(videos_a_step(False)) > 6


def test_epochs_differ_and_seeds_repeat():
    assert stream(1, epoch=0) != stream(1, epoch=1)
    assert stream(1, epoch=1) == stream(2, epoch=1)
    assert stream(1, seed=1) != stream(1, seed=2)


@pytest.fixture
def dataset(tiny_data, tiny_base, tiny_tokenizer):
    videos = load_annotations(annotation_paths(tiny_data, TASKS, "train"), tiny_data)
    return QuestionDataset(
        videos, tiny_tokenizer, load_video_settings(tiny_base), max_length=4096, cache_videos=1
    )


def test_a_fetch_decodes_each_video_once_and_asks_what_was_wanted(dataset, tiny_tokenizer):
    first, second = dataset.numbers[0], dataset.numbers[1]
    (batch,) = as_model_input(dataset.__getitems__([first[0], second[0], first[1]]))["batches"]
    assert batch["video_grid_thw"].shape == (2, 3)
    videos, branches = batch["video_ids"][0], batch["branch_ids"][0]
    assert [int(branches[videos == video].max()) for video in (0, 1)] == [2, 1]
    text = tiny_tokenizer.decode(batch["input_ids"][0])
    assert dataset.videos[0].questions[0].text in text and dataset.videos[0].questions[1].text in text


def test_the_token_budget_splits_by_video_and_loses_nothing(dataset):
    numbers = sum(dataset.numbers, [])
    (whole,) = (one.batch for one in dataset.__getitems__(numbers))
    budget = whole.input_ids.numel() // 2
    dataset.max_tokens_per_batch = budget
    batches = [one.batch for one in dataset.__getitems__(numbers)]
    assert 2 <= len(batches) < len(dataset.numbers)
    assert all(batch.input_ids.numel() <= budget for batch in batches)
    for column in ("input_ids", "labels", "position_ids", "branch_ids"):
        assert torch.cat([getattr(batch, column) for batch in batches], dim=1).equal(getattr(whole, column))
    dataset.max_tokens_per_batch = 10  # less than any video: each goes alone
    assert len(dataset.__getitems__(numbers)) == len(dataset.numbers)


def test_a_question_too_long_and_a_missing_video_stop_the_run(dataset):
    dataset.max_length = 50
    with pytest.raises(SequenceError, match="over max_length=50"):
        dataset[0]
    dataset.videos[2].path = dataset.videos[2].path.with_name("gone.mp4")
    with pytest.raises(VideoError, match="gone.mp4"):
        dataset[dataset.numbers[2][0]]


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_worker_processes_arrive_as_themselves(dataset, workers):
    first, _, third = dataset.numbers[:3]
    path = dataset.videos[2].path = dataset.videos[2].path.with_name("gone.mp4")
    loader = iter(QuestionLoader(dataset, [first, third], workers))
    assert next(loader)["batches"][0]["video_grid_thw"].shape == (1, 3)
    with pytest.raises(VideoError) as caught:
        next(loader)
    assert str(caught.value) == f"{path}: no such file" and caught.value.path == str(path)
    dataset.max_length = 50
    with pytest.raises(SequenceError, match="^[^\n]* over max_length=50[^\n]*$"):
        next(iter(QuestionLoader(dataset, [first], workers)))
