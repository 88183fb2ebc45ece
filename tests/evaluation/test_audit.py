"""The audit of check-data: planted near-duplicates, overlays and giveaways are found, and nothing else."""

import json
import shutil

import numpy as np
import pytest

from crashchat.evaluation.audit import (
    Clip,
    Look,
    audit,
    look_at,
    near_duplicates,
    overlays,
    predictors,
    report,
)
from crashchat.evaluation.check import Video
from crashchat.evaluation.check_data import main
from tests.evaluation.test_check_data import check
from tests.helpers.clips import ffmpeg
from tests.helpers.flashes import frames, write_video


def scenes(count: int, **facts) -> list[Clip]:
    """Clips of moving patches, crashes and calm ones in turn; facts: what crashes have in common."""
    rng, made = np.random.default_rng(0), []
    for number in range(count):
        crash = number % 2 == 0
        usual = {
            "width": 1280,
            "height": 720,
            "fps": 25.0,
            "seconds": float(rng.uniform(5, 9)),
            "codec": "h264",
        }
        pictures = rng.integers(0, 256, (8, 24, 36), dtype=np.uint8)
        look = Look(**usual | (facts if crash else {}), pictures=pictures)
        label = "Yes" if crash else "No"
        made.append(Clip("train", f"{number}.mp4", source="road", label=label, look=look))
    return made


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"fps": 30.0}, "frame rate"),
        ({"seconds": 12.0}, "length"),
        ({"height": 960}, "picture size"),
        ({"codec": "hevc"}, "codec"),
    ],
)
def test_what_gives_the_label_away_is_found(facts, name):
    clips = scenes(60, **facts)
    found = predictors(clips, overlays(clips)[1])
    assert found.pop(name) == 1.0 and max(found.values()) < 0.7 and "overlays" not in found


def test_an_overlay_in_one_label_is_found_and_placed():
    clips = scenes(60)
    for clip in clips:
        if clip.label == "Yes":
            clip.look.pictures[:, 18:, 27:] = 230  # the lower right quarter of both sides
    (found,), there = overlays(clips)
    assert (found.group, found.clips, found.share) == ("label Yes", 30, pytest.approx(1 / 16))
    assert (found.left, found.top, found.right, found.bottom) == (0.75, 0.75, 1.0, 1.0)
    assert predictors(clips, there)["overlays"] == 1.0
    # What stands still but looks otherwise in every clip is scenery.
    for number, clip in enumerate(clips):
        clip.look.pictures[:, 18:, 27:] = 8 * number % 250
    assert overlays(clips)[0] == []


def test_too_few_clips_say_nothing():
    clips = scenes(6)
    assert overlays(clips)[0] == [] and len(predictors(clips, np.zeros((6, 0)))) == 5
    assert predictors(clips[::2], np.zeros((3, 0))) == {} and near_duplicates(clips) == []


def test_a_compressed_copy_in_another_split_is_found(tiny_data, tmp_path, capsys):
    shutil.copytree(tiny_data, tmp_path / "set")
    train, *_ = sorted((tmp_path / "set" / "videos").glob("train_*"))
    test, *_ = sorted((tmp_path / "set" / "videos").glob("test_*"))
    small = ("-vf", "scale=iw/2:-2,fps=8", "-c:v", "libx264", "-crf", "33", "-pix_fmt", "yuv420p")
    ffmpeg("-i", train, *small, test)
    out = tmp_path / "found.json"
    code = main([str(tmp_path / "set"), "--audit", "--workers", "1", "--json", str(out)])
    text = capsys.readouterr().out
    found = json.loads(out.read_text())["audit"]
    (pair,) = found["near_duplicates"]
    assert (pair["first"], pair["second"]) == (f"train: videos/{train.name}", f"test: videos/{test.name}")
    assert pair["distance"] < 0.1 and found["clips"] == 13 and found["unreadable"] == found["flat"] == 0
    assert found["predictors"]["source"] == pytest.approx(0.5, abs=0.2)
    assert "near-duplicates across splits (less than 0.15 of 1 apart): 1\n" in text and test.name in text
    assert code in (0, 1)  # the copy's length may not go with the times annotated for the clip it replaces


def test_still_clips_of_one_scene_are_alike_and_one_cameras_drives_are_not():
    rng = np.random.default_rng(1)
    scene = rng.integers(0, 200, (24, 36))

    def clip(split: str, pictures: np.ndarray) -> Clip:
        look = Look(width=1, height=1, fps=1.0, seconds=8.0, codec="h264", pictures=pictures.astype(np.uint8))
        return Clip(split, f"{split}.mp4", source="road", label=None, look=look)

    still = [clip(split, scene + rng.integers(0, 3, (8, 24, 36))) for split in ("train", "test")]
    (pair,) = near_duplicates(still)
    assert pair.distance < 0.05
    drives = []
    for split in ("train", "test"):
        pictures = np.repeat(scene[None], 8, axis=0)  # below, the car's own bonnet
        pictures[:, :16] = rng.integers(0, 200, (8, 16, 36))
        drives.append(clip(split, pictures))
    assert near_duplicates(drives) == []


def test_clips_that_show_nothing_are_not_alike(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("one", "two"):
        write_video(folder / f"{name}.mp4", frames(16, 20), fps=10)
    (folder / "three.mp4").write_bytes(b"no video")
    look = look_at(folder / "one.mp4")
    assert (look.width, look.height, look.fps, look.codec) == (112, 56, 10.0, "h264")
    assert look.seconds == pytest.approx(2.0, abs=0.01) and look.pictures.shape == (8, 24, 36)
    one, two, three = ({f"videos/{name}.mp4": Video("a")} for name in ("one", "two", "three"))
    videos = {"train": one, "test": two | three}
    found = audit(tmp_path, videos, workers=1)
    assert (found.clips, found.unreadable, found.flat, found.near_duplicates) == (2, 1, 2, [])
    assert found.predictors == {} and "not computed" in report(found, show_all=False)


def test_an_audit_takes_videos(tmp_path):
    code, text = check(tmp_path, "--audit", "--no-videos")
    assert code == 2 and "--audit looks at videos" in text
