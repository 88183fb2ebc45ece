"""A feature cache that cannot be written or read: the same predictions as without it,
and no video blamed for it.
"""

import json
import os
import shutil
import sys
import warnings
from pathlib import Path

import pytest

from crashchat.checkpoints.folders import load_model
from crashchat.data.journals import PredictionJournal, done_ids, find_journals, journal_path, merge_journals
from crashchat.training.batches import VideoError
from crashchat.video.reading import open_feature_cache, read_visual_tokens
from crashchat.video.tokens import VideoSettings
from tests.helpers.commands import crashchat, run
from tests.helpers.models import CPU
from tests.helpers.small_caches import entry, holds, small_cache, store

LOST = "the feature cache can't be used, videos are read without it"


def evaluate(
    out: Path, model: Path, data: Path, *settings: str, process: bool = False
) -> tuple[list[dict], str]:
    """What is answered on crash recognition, and what is said.

    process: whether in one of its own, which warns where a user sees it.
    """
    words = ["evaluate", "configs/eval/crash_recognition.yaml", f"model={model}", f"data_dir={data}"]
    words += [f"output_dir={out}", "max_new_tokens=8", "num_workers=0", *settings]
    said = run(sys.executable, "-m", "crashchat", *words) if process else crashchat(*words)
    (file,) = out.glob("*/*/*_predict.json")
    return json.loads(file.read_text()), said


@pytest.fixture(scope="module")
def without(tiny_base, tiny_data, tmp_path_factory) -> list[dict]:
    """The records of an evaluation without a cache."""
    return evaluate(tmp_path_factory.mktemp("without"), tiny_base, tiny_data)[0]


def test_a_full_disk_changes_no_answer(without, tiny_base, tiny_data, full_disk, tmp_path):
    cache = f"feature_cache={full_disk / 'cache'}"
    records, said = evaluate(tmp_path, tiny_base, tiny_data, cache, process=True)
    assert records == without and len(records) > 1
    assert said.count(LOST) == 1 and "No space left on device" in said


def test_a_folder_that_cannot_be_made_changes_no_answer(without, tiny_base, tiny_data, tmp_path):
    (tmp_path / "file").write_text("no folder")
    cache = f"feature_cache={tmp_path / 'file' / 'cache'}"
    records, said = evaluate(tmp_path / "out", tiny_base, tiny_data, cache, process=True)
    assert records == without
    assert said.count("no feature cache can be made there") == 1


def answers(records: list[dict]) -> list[tuple]:
    """What was answered. Probabilities have other last digits beside other videos."""
    return [(record["data_id"], record["video_path"], record["raw_response"]) for record in records]


def test_a_video_that_could_not_be_read_is_asked_again(without, tiny_base, tiny_data, tmp_path):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    without = [
        record | {"video_path": record["video_path"].replace(str(tiny_data), str(data))} for record in without
    ]
    video = Path(without[0]["video_path"])
    video.rename(tmp_path / "away.mp4")
    records, said = evaluate(tmp_path / "out", tiny_base, data)
    assert (
        answers(records[1:]) == answers(without[1:])
        and "no such file" in records[0]["error"]
        and "1 of videos that cannot be read" in said
    )
    again, said = evaluate(tmp_path / "out", tiny_base, data)  # still away
    assert again == records and f"{len(records) - 1} answered before" in said
    (tmp_path / "away.mp4").rename(video)
    records, said = evaluate(tmp_path / "out", tiny_base, data)
    assert (
        answers(records) == answers(without)
        and "error" not in records[0]
        and "0 of videos that cannot be read" in said
    )


ERROR, ANSWER = {"data_id": 1, "error": "away"}, {"data_id": 1, "pred": "Yes"}


@pytest.mark.parametrize("journals", [[[ERROR, ERROR, ANSWER]], [[ERROR], [ANSWER]], [[ANSWER], [ERROR]]])
def test_an_answer_takes_the_place_of_an_error(tmp_path, journals):
    final = tmp_path / "predict.json"
    for rank, records in enumerate(journals):
        for record in records:  # opened anew each time, as by a run that goes on
            with PredictionJournal(journal_path(final, rank)) as journal:
                journal.append(record)
    assert done_ids(final) == {1}
    assert merge_journals(find_journals(final), final, [1]) == [ANSWER]


def test_the_newest_error_stays(tmp_path):
    final = tmp_path / "predict.json"
    newer = ERROR | {"error": "damaged"}
    with PredictionJournal(journal_path(final)) as journal:
        journal.append(ERROR)
        journal.append(newer)
    assert done_ids(final) == set() and merge_journals([journal_path(final)], final, [1]) == [newer]


# --- what lies in the way


def block_with_folders(folder: Path, key: str) -> None:
    """A folder in the place of every file that the cache would write."""
    for memo in list((folder / "contents").glob("*.json")):
        memo.unlink()
        memo.mkdir()
    for name in ("lock", "size", f"{key[:2]}/{key}.safetensors"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir(parents=True)


def block_with_files(folder: Path, key: str) -> None:
    """A file in the place of every folder."""
    for name in ("contents", key[:2]):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).write_text("no folder")


def remove(folder: Path, key: str) -> None:
    shutil.rmtree(folder)
    folder.write_text("no folder")


@pytest.mark.parametrize("block", [block_with_folders, block_with_files, remove])
def test_what_lies_in_the_way_is_warned_about_once(block, tiny_base, tiny_tokenizer, tiny_data, tmp_path):
    settings = VideoSettings()
    cache = open_feature_cache(
        tmp_path / "cache", 1, load_model(tiny_base, tiny_tokenizer, CPU).model.vision_model, settings
    )
    videos = sorted((tiny_data / "videos").iterdir())[:2]
    keys = [cache.key(video) for video in videos]
    block(cache.folder, entry(1)[0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert [read_visual_tokens(str(video), settings, cache).cache_key for video in videos] == keys
        store(cache, 1)
        assert not holds(cache, 1)
        with pytest.raises(VideoError, match="no such file"):
            read_visual_tokens(str(tmp_path / "gone.mp4"), settings, cache)
    assert [str(warning.message).startswith(f"{cache.folder}: {LOST} (") for warning in said] == [True]


def test_room_is_made_beside_a_folder_that_is_no_entry(tmp_path):
    cache = small_cache(tmp_path, 2)
    (tmp_path / "00" / "folder").mkdir(parents=True)
    for number in range(4):
        store(cache, number)
    assert holds(cache, 3) and (tmp_path / "00" / "folder").is_dir()


def test_a_pipe_is_not_waited_for(tiny_base, tiny_tokenizer, tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    cache = open_feature_cache(
        tmp_path / "cache", 1, load_model(tiny_base, tiny_tokenizer, CPU).model.vision_model, VideoSettings()
    )
    with pytest.raises(VideoError, match="not a regular file"):
        read_visual_tokens(str(tmp_path / "pipe.mp4"), VideoSettings(), cache)
