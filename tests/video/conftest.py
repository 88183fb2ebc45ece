"""What tests of reading share."""

from pathlib import Path

import pytest

from tests.helpers.clips import H264, SCENE, ffmpeg


@pytest.fixture(scope="session")
def plain(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("video") / "plain.mp4"
    ffmpeg(*SCENE, *H264, "-movflags", "+faststart", path)
    return path
