"""What tests of checkpoints spoil, and an adapter."""

import shutil
from pathlib import Path

import pytest

from crashchat.checkpoints.folders import load_model
from crashchat.model.lora import add_adapter
from tests.helpers.models import CPU


@pytest.fixture
def copy(tiny_base, tmp_path) -> Path:
    """A copy of tiny_base to damage."""
    return shutil.copytree(tiny_base, tmp_path / "checkpoint")


@pytest.fixture(scope="module")
def adapter(tiny_base, tiny_tokenizer, tmp_path_factory) -> Path:
    """An adapter on tiny_base."""
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    add_adapter(load_model(tiny_base, tiny_tokenizer, CPU), rank=4, alpha=8, dropout=0.0).save_pretrained(
        folder
    )
    return folder
