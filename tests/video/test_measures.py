"""What is measured of clips, how it spreads over a set, and which clips are unlike it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crashchat.video.measures import (
    LOOKED_AT,
    MEASURED,
    ClipSpreads,
    Measures,
    Spread,
    brightness_of,
    measure_clips,
    measures_of,
    unlike,
)
from crashchat.video.source import probe
from tests.helpers.clips import H264, SCENE, ffmpeg
from tests.helpers.flashes import frames, write_video


def flat(value: float) -> Spread:
    return Spread(least=value, low=value, middle=value, high=value, greatest=value)


@pytest.fixture(scope="module")
def greys(tmp_path_factory) -> list[Path]:
    """Grey clips of 5 to 14 s, a frame a second."""
    folder = tmp_path_factory.mktemp("greys")
    return [write_video(folder / f"{number}.mp4", frames(100 + number, 5 + number)) for number in range(10)]


def test_a_sets_measures_spread(greys):
    spreads = measure_clips(greys)
    assert spreads is not None and spreads.videos == 10
    assert (spreads.width, spreads.height, spreads.fps) == (flat(112), flat(56), flat(1))
    assert spreads.seconds == Spread(least=5, low=5.45, middle=9.5, high=13.55, greatest=14)
    assert spreads.brightness is not None
    assert spreads.brightness.least == pytest.approx(100 / 255, abs=0.02)
    assert spreads.brightness.greatest == pytest.approx(109 / 255, abs=0.02)


def test_of_a_large_set_some_are_measured(greys):
    spreads = measure_clips(greys[:1] * (MEASURED + 50))
    assert spreads is not None and spreads.videos == MEASURED > LOOKED_AT


def test_what_cannot_be_read_is_named_and_left_out(greys, tmp_path, capsys):
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    spreads = measure_clips([*greys[:2], tmp_path / "broken.mp4"])
    assert spreads is not None and spreads.videos == 2
    assert f"left out where training clips are measured: {tmp_path / 'broken.mp4'}" in capsys.readouterr().err
    assert measure_clips([tmp_path / "broken.mp4"]) is None and measure_clips([]) is None


def test_the_picture_is_measured_upright(tmp_path):
    ffmpeg(*SCENE, *H264, tmp_path / "lying.mp4")
    lying = probe(tmp_path / "lying.mp4")
    ffmpeg("-display_rotation", "90", "-i", tmp_path / "lying.mp4", "-c", "copy", tmp_path / "standing.mp4")
    standing = measures_of(probe(tmp_path / "standing.mp4"))
    assert (standing.width, standing.height) == (lying.height, lying.width) != (lying.width, lying.height)


def test_brightness_is_the_mean_of_the_pixels():
    pixels = torch.from_numpy(np.array([[0, 255, 255, 0], [255, 0, 0, 255]], np.uint8))
    assert brightness_of(pixels) == 0.5 and brightness_of(pixels[:, 1:2]) == 0.5


SPREADS = ClipSpreads(
    videos=9,
    width=flat(1280),
    height=flat(720),
    fps=Spread(least=10, low=25, middle=30, high=30, greatest=60),
    seconds=Spread(least=1, low=3, middle=6, high=15, greatest=90),
    brightness=Spread(least=0.1, low=0.35, middle=0.45, high=0.55, greatest=0.9),
)


@pytest.mark.parametrize(
    "clip, expected",
    [
        (Measures(1280, 720, 30, 6, 0.45), []),
        (Measures(1920, 1080, 44, 22, 0.64), []),  # within the tolerance
        (Measures(1280, 720, None, None, None), []),  # what is not known is not judged
        (
            Measures(2560, 1440, 30, 6, 0.45),
            ["Its picture is 2560 x 1440 pixels; that of the training clips of x is 1280 x 720."],
        ),
        (
            Measures(720, 1280, 30, 6, 0.45),
            ["Its picture is 720 x 1280 pixels; that of the training clips of x is 1280 x 720."],
        ),
        (
            Measures(1280, 720, 5, 40.25, 0.1),
            [
                "Its frame rate is 5 a second; that of the training clips of x is 25–30.",
                "It lasts 40.2 s; the training clips of x last 3–15 s.",
                "Its brightness is 0.10 (0 is black, 1 white); that of the training clips of x is 0.35–0.55.",
            ],
        ),
    ],
)
def test_a_clip_outside_a_sets_spreads_is_told_with_both_figures(clip, expected):
    assert unlike(clip, SPREADS, "the training clips of x") == expected


def test_a_set_that_told_less_judges_less():
    spreads = SPREADS.model_copy(update={"fps": None, "seconds": None, "brightness": None})
    assert unlike(Measures(1280, 720, 1, 1000, 0), spreads, "others") == []
