"""Which questions share a step: every question once an epoch, 24 a step, whatever the number of processes."""

import shutil
from collections import Counter
from dataclasses import replace

import pytest
import torch

from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.config import CONFIG_DIR
from crashchat.data.annotations import Question, annotation_paths, load_annotations
from crashchat.model.sequence import SequenceError
from crashchat.tasks import TASKS, TaskSet, using
from crashchat.training.batches import QuestionDataset, QuestionLoader, QuestionSampler, as_model_input
from crashchat.training.sharing import share_questions
from crashchat.video.source import VideoError

NUMBERS = [list(range(start, start + 6)) for start in range(0, 60, 6)] + [[60, 61, 62, 63]]  # 64 questions


def stream(processes: int, epoch: int = 0, **settings) -> list[list[int]]:
    """Every step of an epoch, the questions of all processes in the order of their numbers."""
    samplers = [QuestionSampler(NUMBERS, 24, rank, processes, **settings) for rank in range(processes)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    return [sorted(sum(shares, [])) for shares in zip(*samplers, strict=True)]


@pytest.mark.parametrize("group_by_video", [True, False])
def test_steps_are_the_same_for_any_number_of_processes(group_by_video):
    alone = stream(1, group_by_video=group_by_video)
    for processes in (2, 3, 4, 5, 24):
        assert stream(processes, group_by_video=group_by_video) == alone
    assert [len(step) for step in alone] == [24, 24, 24]
    asked = Counter(sum(alone, []))
    assert set(asked) == set(range(64)) and sorted(asked.values()) == [1] * 56 + [2] * 8, "once, but the fill"


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


def prefixes_run(processes: int, numbers: list[list[int]]) -> tuple[float, float]:
    """Of a step on average: the prefixes of the process with most, and of all of them."""
    owner = {number: index for index, group in enumerate(numbers) for number in group}
    samplers = [QuestionSampler(numbers, 24, rank, processes) for rank in range(processes)]
    counts = [
        [len({owner[number] for number in share}) for share in shares]
        for shares in zip(*samplers, strict=True)
    ]
    assert min(map(min, counts)) >= 1  # nobody is idle, which would make the others wait
    return sum(map(max, counts)) / len(counts), sum(map(sum, counts)) / len(counts)


def test_a_step_is_shared_by_whole_videos(shared):
    """On the real annotations; cut by number, the slowest of eight processes ran 1.94 prefixes."""
    videos = load_annotations(annotation_paths(shared / "annotations", TASKS, "val"), shared / "annotations")
    numbers, count = [], 0
    for video in videos:
        numbers.append(list(range(count, count + len(video.questions))))
        count += len(video.questions)
    for processes, slowest, together in ((1, 5.2, 5.2), (2, 3.0, 5.3), (4, 2.0, 5.3), (8, 1.0, 8.0)):
        most, total = prefixes_run(processes, numbers)
        assert most <= slowest + 0.05 and total <= together + 0.1, (processes, most, total)


def test_shares_have_an_equal_load_and_keep_the_steps_order():
    owner = {number: number // 6 for number in range(24)}
    numbers = [3, 4, 5, *range(6, 24), 0]
    shares = share_questions(numbers, owner, 3)
    assert sorted(map(len, shares)) == [6, 6, 10] and sorted(sum(shares, [])) == sorted(numbers)
    for share in shares:
        assert share == [number for number in numbers if number in share]
    assert [len(share) for share in share_questions(numbers[:4], owner, 4)] == [1] * 4
    with pytest.raises(ValueError, match="2 questions cannot be shared by 3"):
        share_questions([0, 1], owner, 3)


@pytest.fixture
def dataset(tiny_data, tiny_base, tiny_tokenizer):
    videos = load_annotations(annotation_paths(tiny_data, TASKS, "train"), tiny_data)
    return QuestionDataset(
        videos, tiny_tokenizer, load_video_settings(tiny_base), max_length=4096, cache_videos=1
    )


def test_a_fetch_decodes_each_video_once_and_asks_what_was_wanted(dataset, tiny_tokenizer):
    first, second = dataset.numbers[0], dataset.numbers[1]
    (batch,) = as_model_input(dataset.__getitems__([first[0], second[0], first[1]]))["batches"]
    assert len(batch["video_grid_thw"]) == 2
    videos, branches = batch["video_ids"][0], batch["branch_ids"][0]
    assert [int(branches[videos == video].max()) for video in (0, 1)] == [2, 1]
    text = tiny_tokenizer.decode(batch["input_ids"][0])
    assert dataset.videos[0].questions[0].text in text and dataset.videos[0].questions[1].text in text


def test_the_token_budget_splits_by_video_and_loses_nothing(dataset):
    numbers = sum(dataset.numbers, [])
    (whole,) = (one.batch for one in dataset.__getitems__(numbers).passes)
    budget = whole.input_ids.numel() // 2
    dataset.max_tokens_per_batch = budget
    batches = [one.batch for one in dataset.__getitems__(numbers).passes]
    assert 2 <= len(batches) < len(dataset.numbers)
    assert all(batch.input_ids.numel() <= budget for batch in batches)
    for column in ("input_ids", "labels", "position_ids", "branch_ids", "stem_ids"):
        assert torch.cat([getattr(batch, column) for batch in batches], dim=1).equal(getattr(whole, column))
    dataset.max_tokens_per_batch = 10  # less than any video: each goes alone
    assert len(dataset.__getitems__(numbers).passes) == len(dataset.numbers)


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
    assert len(next(loader)["batches"][0]["video_grid_thw"]) == 1
    with pytest.raises(VideoError) as caught:
        next(loader)
    assert str(caught.value) == f"{path}: no such file" and caught.value.path == str(path)
    dataset.max_length = 50
    with pytest.raises(SequenceError, match="^[^\n]* over max_length=50[^\n]*$"):
        next(iter(QuestionLoader(dataset, [first], workers)))


def test_a_loader_draws_nothing_from_torchs_own_generator(dataset):
    """So that a resumed epoch, whose iterator is another, goes on with the same dropout."""
    torch.manual_seed(5)
    list(QuestionLoader(dataset, [dataset.numbers[0]], 0))
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.rand(1) == drawn


HEAVY = """
name: heavy
file_prefix: crashchat_dada_video_total
base: crashchat.yaml
tasks:
- {name: colour, title: colour, group: more, answer: {kind: text}, prompt: "Which colour?", weight: 3.5}
- {name: sky, title: sky, group: more, answer: {kind: text}, prompt: "What is the sky like?"}
"""


def gradient(model, batches: list[tuple[dict, float]]) -> list[torch.Tensor]:
    """Of the sum of some batches' losses, each multiplied by a number by hand."""
    model.zero_grad()
    for batch, weight in batches:
        (model(**batch).loss_sum * weight).backward()
    return [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


def test_a_tasks_weight_multiplies_what_its_answers_tokens_count(
    dataset, tiny_base, tiny_tokenizer, tmp_path
):
    """Two videos in one packed batch, against each question as a sample of its own, weighted by hand."""
    shutil.copy(CONFIG_DIR / "tasks" / "crashchat.yaml", tmp_path)
    (tmp_path / "heavy.yaml").write_text(HEAVY)
    tasks = TaskSet(tmp_path / "heavy.yaml")
    asked = {"colour": "blue", "sky": "a clear evening sky"}
    questions = [Question(tasks[name].prompt, answer, name, 0) for name, answer in asked.items()]
    videos = [replace(dataset.videos[0], questions=questions), dataset.videos[1]]
    with using(tasks):
        weighted = QuestionDataset(videos, tiny_tokenizer, dataset.settings, max_length=4096)
        numbers = [*weighted.numbers[0], *weighted.numbers[1][:2]]
        (together,) = as_model_input(weighted.__getitems__(numbers))["batches"]
        alone = [as_model_input(weighted[number])["batches"][0] for number in numbers]
    counts = together["label_counts"]
    assert together["label_weights"].tolist() == [3.5] * counts[0] + [1.0] * sum(counts[1:])
    for batch in alone:
        batch.pop("label_weights", None)
    model = load_model(tiny_base, tiny_tokenizer, torch.device("cpu"))
    found = gradient(model, [(together, 1.0)])
    expected = gradient(model, list(zip(alone, (3.5, 1.0, 1.0, 1.0), strict=True)))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5 * float(other.abs().max()) + 1e-9)
    plain = gradient(model, [(batch, 1.0) for batch in alone])
    pairs = zip(found, plain, strict=True)
    assert any(float((one - other).abs().max()) > 0.1 * float(other.abs().max()) for one, other in pairs)


def test_without_weights_a_batch_has_none(dataset):
    assert "label_weights" not in as_model_input(dataset.__getitems__(dataset.numbers[0]))["batches"][0]
