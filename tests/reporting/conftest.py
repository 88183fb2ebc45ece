"""What tests of comparisons share."""

from pathlib import Path

import pytest

from crashchat.tasks import TASKS
from tests.helpers.predictions import write_row


@pytest.fixture
def rows(tiny_data, tmp_path) -> dict[str, Path]:
    """A model that is always right, one that says nothing that parses, and one that was asked two tasks."""
    return {
        "mute": write_row(tmp_path / "mute", tiny_data, lambda task, truth: ""),
        "perfect": write_row(tmp_path / "perfect", tiny_data, lambda task, truth: truth),
        "partial": write_row(tmp_path / "partial", tiny_data, lambda task, truth: truth, list(TASKS)[-2:]),
    }
