"""Frame differences, of one file and of many."""

import numpy as np
import pytest

from crashchat.video.motion import MOTION, motion_of, read_motion
from tests.helpers.flashes import frames, write_video


@pytest.fixture(scope="module")
def jump(tmp_path_factory):
    """Four seconds at 10 frames a second of a still picture that becomes another at 2.5 s."""
    pictures = np.concatenate([frames(40, 25), frames(200, 15)])
    return write_video(tmp_path_factory.mktemp("clips") / "jump.mp4", pictures, fps=10)


def test_motion_knows_when_most_changes(jump):
    figures = dict(zip(MOTION, motion_of(jump), strict=True))
    assert figures["moment"] == pytest.approx(2.5, abs=0.2)  # one picture of five a second
    assert figures["place"] == pytest.approx(2.5 / 4, abs=0.05)
    assert figures["largest"] == pytest.approx(160, abs=5)
    assert figures["mean"] == pytest.approx(160 / 19, abs=1) and figures["quantile 0.9"] < 1


def test_motion_of_one_picture_is_none(tmp_path):
    single = write_video(tmp_path / "single.mp4", frames(90, 1))
    assert motion_of(single)[1:].tolist() == [0.0] * (len(MOTION) - 1)


def test_motion_of_many_files_is_that_of_each_or_none(jump, tmp_path):
    (read,) = read_motion([jump])
    assert read.tolist() == motion_of(jump).tolist()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert read_motion([jump, broken]) is None and read_motion([tmp_path / "gone.mp4"]) is None
