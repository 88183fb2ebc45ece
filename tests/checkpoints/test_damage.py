"""Damaged files: one line that names the file, or a valid result; never a traceback,
never another one's code.
"""

import json
import shutil

import pytest
import yaml

from crashchat.checkpoints.adapters import load_adapter, write_adapter
from crashchat.checkpoints.conversion import convert
from crashchat.checkpoints.folders import load_model, load_tokenizer, load_video_settings
from crashchat.checkpoints.model_card import read_card
from crashchat.config import CONFIG_DIR, load_config
from crashchat.data.annotations import load_annotations
from crashchat.data.journals import PredictionJournal
from crashchat.data.predictions import read_predictions
from crashchat.errors import CrashChatError, error_line
from crashchat.settings import TrainConfig
from tests.data.test_annotations import record as question
from tests.data.test_predictions import GOOD
from tests.helpers.models import CPU
from tests.helpers.mutations import EXECUTED, damage_checkpoint, damage_file, mutate_json

SEEDS = range(40)


def told(work, *names) -> str | None:
    """None where it runs; else the one line that it ends with, which names the file.

    Any other error is the test's.
    """
    try:
        work()
    except (CrashChatError, OSError) as error:
        line = error_line(error)
        assert any(str(name) in line for name in names), line
        assert max(map(len, line.splitlines())) < 1500
        return line
    return None


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_checkpoint(copy, tmp_path, seed):
    what = damage_checkpoint(copy, seed)

    def use():
        tokenizer = load_tokenizer(copy)
        load_video_settings(copy)
        read_card(copy)
        load_model(copy, tokenizer, CPU)

    loaded = told(use, copy)
    converted = told(lambda: convert(copy, tmp_path / "out"), copy)
    assert (loaded is None) == (converted is None) or what.startswith("generation_config.json"), (
        what,
        loaded,
        converted,
    )
    assert (tmp_path / "out").exists() == (converted is None)
    assert not (copy / EXECUTED).exists()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_adapter(adapter, tiny_base, tiny_tokenizer, tmp_path, seed):
    copy = shutil.copytree(adapter, tmp_path / "adapter")
    damage_checkpoint(copy, seed)
    told(lambda: load_adapter(load_model(tiny_base, tiny_tokenizer, CPU), copy), copy)
    told(lambda: write_adapter(copy, tmp_path / "out"), copy)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_annotation_file(tmp_path, seed):
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps([question(), question("videos/b.mp4", answer="No")]))
    damage_file(path, seed)
    told(lambda: load_annotations([path], tmp_path), path)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_config(tmp_path, seed):
    path = tmp_path / "config.yaml"
    values = dict(yaml.safe_load((CONFIG_DIR / "train" / "recipe.yaml").read_text()).items())
    path.write_text(yaml.safe_dump(values | {"output_dir": "out", "tasks": ["crash_recognition"]}))
    damage_file(path, seed)
    told(lambda: load_config(TrainConfig, path), path)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_damaged_prediction_file_and_journal(tmp_path, seed):
    path, journal = tmp_path / "predict.json", tmp_path / "journal.jsonl"
    path.write_text(json.dumps([GOOD, GOOD | {"data_id": 1, "video_path": "w.mp4"}]))
    damage_file(path, seed)
    told(lambda: read_predictions(path, "crash_localization"), path)
    line = mutate_json(json.dumps(GOOD), seed)
    line = line if isinstance(line, bytes) else line.encode()
    journal.write_bytes(b'{"run": null}\n' + line + b'\n{"data_id": 1}\n')
    told(lambda: PredictionJournal(journal).close(), journal)
