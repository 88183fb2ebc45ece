"""What several test files share: the reference data beside the project, and the tiny base checkpoint."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data that may lie beside the project."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder}")
    return folder


TINY_BASE = ROOT / "ckpt" / "tiny_base"


@pytest.fixture(scope="session")
def tiny_base() -> Path:
    """The pre-trained tiny model that is part of the repo."""
    assert (TINY_BASE / "config.json").is_file(), f"{TINY_BASE} belongs to the repo; fetch it again with git checkout"
    return TINY_BASE


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_base):
    """Its tokenizer."""
    from crashchat.checkpoints import load_tokenizer

    return load_tokenizer(tiny_base)


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A small synthetic data set: 6 train, 3 val and 4 test clips with all annotations."""
    from crashchat.synthetic import make_demo_set

    folder = tmp_path_factory.mktemp("data") / "tiny"
    make_demo_set(folder, train=6, val=3, test=4, seed=7, workers=1)
    return folder
