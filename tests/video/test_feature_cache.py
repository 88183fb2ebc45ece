"""Vision features on disk: the same losses and answers, for one process or many,
whatever happens to the files.
"""

import multiprocessing
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from crashchat.answering.generate import answer_questions
from crashchat.answering.prefix import encode
from crashchat.checkpoints.folders import load_model, load_video_settings
from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.model.lora import add_adapter
from crashchat.tasks import TASKS
from crashchat.training.batches import QuestionDataset, QuestionLoader
from crashchat.video import reading
from crashchat.video.feature_cache import encoder_hash
from crashchat.video.reading import open_feature_cache, read_visual_tokens
from crashchat.video.source import VideoError
from crashchat.video.tokens import VideoSettings
from tests.helpers.models import CPU
from tests.helpers.small_caches import ENTRY, entry, hammer, holds, small_cache, store, total


@pytest.fixture(scope="module")
def model(tiny_base, tiny_tokenizer):
    return load_model(tiny_base, tiny_tokenizer, CPU)


@pytest.fixture
def settings(tiny_base) -> VideoSettings:
    return load_video_settings(tiny_base)


@pytest.fixture
def dataset(tiny_data, tiny_tokenizer, settings, model, tmp_path):
    """All training questions, with an empty feature cache."""
    videos = load_annotations(annotation_paths(tiny_data, TASKS, "train"), tiny_data)
    cache = open_feature_cache(tmp_path / "cache", 1, model.model.vision_model, settings)
    return QuestionDataset(videos, tiny_tokenizer, settings, max_length=4096, feature_cache=cache)


def run(model, dataset, batch: dict, videos: list | None) -> tuple[float, torch.Tensor]:
    """Loss and the projector's gradient; stores what was encoded."""
    model.zero_grad()
    output = model(**batch)
    output.loss_sum.backward()
    if videos is not None:
        dataset.feature_cache.store_new(videos, output.vision_features)
    projector = next(
        weight
        for name, weight in model.named_parameters()
        if "modules_to_save.default.readout.0.weight" in name
    )
    return float(output.loss_sum.detach()), projector.grad.clone()


@pytest.mark.parametrize("workers", [0, 2])
def test_losses_are_the_same_without_cold_mixed_and_warm(dataset, tiny_base, tiny_tokenizer, workers):
    model = load_model(tiny_base, tiny_tokenizer, CPU).requires_grad_(False)
    model = add_adapter(model, rank=4, alpha=8, dropout=0.0)
    first, second, third = (numbers[:2] for numbers in dataset.numbers[:3])
    question_lists = [
        [*first, *third],
        [*first, *second, *third],
        [*first, *second, *third],
    ]  # cold, mixed, warm
    cache, results = dataset.feature_cache, {}
    for name in ("without", "with"):
        dataset.feature_cache = cache if name == "with" else None
        for index, numbers in enumerate(question_lists):
            fetched = next(iter(QuestionLoader(dataset, [numbers], workers)))
            (batch,), (videos,) = fetched["batches"], fetched["videos"]
            videos_of, cached_of = (2, 3, 3)[index], (0, 2, 3)[index] if name == "with" else 0
            assert len(batch["video_grid_thw"]) == videos_of - cached_of
            assert ("vision_features" in batch) == (cached_of > 0)
            assert ("feature_order" in batch) == (0 < cached_of < videos_of)
            assert batch["wants_features"] == (name == "with")
            assert (len(batch["pixel_values_videos"]) == 0) == (name == "with" and index == 2)
            results[name, index] = run(model, dataset, batch, videos)
    for index in range(3):
        loss, gradient = results["with", index]
        expected_loss, expected = results["without", index]
        assert abs(loss - expected_loss) <= 1e-6 * abs(expected_loss)
        assert torch.allclose(gradient, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


def test_answers_are_the_same_and_nothing_is_decoded(
    model, settings, tiny_tokenizer, tiny_data, tmp_path, monkeypatch
):
    cache = open_feature_cache(tmp_path / "cache", 1, model.model.vision_model, settings)
    questions = [task.prompt for task in TASKS.values()]
    clips = sorted((tiny_data / "videos").iterdir())[:3]
    expected = []
    for clip in clips:
        visual = read_visual_tokens(str(clip), settings, cache)
        expected.append(
            answer_questions(
                model, tiny_tokenizer, visuals=[visual], questions=[questions], max_new_tokens=16
            )[0]
        )
        cache.store(visual.cache_key, visual, encode(model, [visual]))
    monkeypatch.setattr(reading, "read_clip", None)
    for clip, answers in zip(clips, expected, strict=True):
        moved = Path(shutil.copy(clip, tmp_path / f"moved_{clip.name}"))
        visual = read_visual_tokens(str(moved), settings, cache)
        assert visual.cache_key is None and not len(visual.pixel_values)
        assert (
            answer_questions(
                model, tiny_tokenizer, visuals=[visual], questions=[questions], max_new_tokens=16
            )[0]
            == answers
        )


def test_the_key_is_content_settings_and_encoder(
    model, settings, tiny_base, tiny_tokenizer, tiny_data, tmp_path
):
    first, second = sorted((tiny_data / "videos").iterdir())[:2]
    video = Path(shutil.copy(first, tmp_path / "video.mp4"))
    cache = open_feature_cache(tmp_path / "cache", 1, model.model.vision_model, settings)
    key = cache.key(video)
    assert key == cache.key(first) == cache.key(video) != cache.key(second)
    for other in (
        replace(settings, fps=settings.fps + 1),
        replace(settings, max_frames=settings.max_frames + 1),
        replace(settings, token_compression=not settings.token_compression),
        replace(settings, vision=replace(settings.vision, max_tokens=settings.vision.max_tokens + 1)),
    ):
        assert open_feature_cache(tmp_path / "cache", 1, model.model.vision_model, other).key(video) != key
    changed = load_model(tiny_base, tiny_tokenizer, CPU)
    with torch.no_grad():
        changed.model.vision_model.post_layernorm.bias[0] += 1e-3
    assert open_feature_cache(tmp_path / "cache", 1, changed.model.vision_model, settings).key(video) != key
    half = load_model(tiny_base, tiny_tokenizer, CPU, dtype=torch.bfloat16)
    assert encoder_hash(half.model.vision_model) != encoder_hash(model.model.vision_model)
    shutil.copy(second, video)
    assert cache.key(video) == cache.key(second)
    with pytest.raises(VideoError, match="gone.mp4: no such file"):
        read_visual_tokens(str(tmp_path / "gone.mp4"), settings, cache)


# --- small made-up entries


def test_the_longest_unused_goes_first(tmp_path):
    cache = small_cache(tmp_path, 5)
    for number in range(4):
        store(cache, number)
        time.sleep(0.01)
    assert holds(cache, 0)  # and is thereby used
    for number in (4, 5):
        store(cache, number)
    assert [number for number in range(6) if holds(cache, number)] == [0, 3, 4, 5]
    assert total(tmp_path) <= cache.limit


def test_the_limit_holds_after_a_kill_and_for_one_large_entry(tmp_path):
    cache = small_cache(tmp_path, 5)
    for number in range(5):
        store(cache, number)
    (tmp_path / "size").write_text("rubbish")
    left = tmp_path / entry(7)[0][:2] / ".left.by.a.killed.process"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(bytes(ENTRY))
    store(cache, 6)
    assert total(tmp_path) <= cache.limit and holds(cache, 6) and not left.exists()
    with pytest.warns(UserWarning, match="is over feature_cache_gb"):
        store(small_cache(tmp_path / "tiny", 0.5), 1)
    assert not holds(small_cache(tmp_path / "tiny", 0.5), 1)


DAMAGE = {
    "cut off": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "a flipped bit": lambda data: data[:-500] + bytes([data[-500] ^ 1]) + data[-499:],
    "something else": lambda data: b"not at all what was stored" * 100,
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_entry_is_removed_and_made_again(tmp_path, kind):
    cache = small_cache(tmp_path, 5)
    store(cache, 1)
    path = next(tmp_path.glob("??/*.safetensors"))
    path.write_bytes(DAMAGE[kind](path.read_bytes()))
    with pytest.warns(UserWarning, match=f"{path.name}: damaged, it is removed"):
        assert not holds(cache, 1)
    assert not path.exists()
    store(cache, 1)
    assert holds(cache, 1)


def test_several_processes_at_once_under_a_small_limit(tmp_path):
    context = multiprocessing.get_context("fork")
    counters = [context.Value("i", 0) for _ in range(4)]
    workers = [
        context.Process(target=hammer, args=(tmp_path, seed, hits)) for seed, hits in enumerate(counters)
    ]
    for worker in workers:
        worker.start()
    most = 0
    while any(worker.is_alive() for worker in workers):
        most = max(most, total(tmp_path))
        time.sleep(0.002)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert all(0 < hits.value < 150 for hits in counters)
    limit = small_cache(tmp_path, 8).limit
    # A listing while entries come and go may count one that leaves and one that takes its place.
    assert 0 < most <= limit + 4 * ENTRY
    assert total(tmp_path) <= limit
    assert int((tmp_path / "size").read_text()) == total(tmp_path)
    assert not list(tmp_path.glob("??/.*"))
