"""The manifests that an evaluation writes beside its prediction files."""

import json
import shutil

import pytest

from crashchat.checkpoints.layouts import CheckpointError
from crashchat.data.manifests import manifest_path, read_manifest
from crashchat.data.prediction_files import read_prediction_file
from crashchat.data.predictions import PredictionError
from crashchat.data.truth import Annotations
from crashchat.evaluation.evaluate import evaluate
from crashchat.evaluation_settings import EvalConfig
from crashchat.provenance import content_hash, file_hash
from crashchat.tasks import TASKS

TASK = "crash_recognition"


def test_a_manifest_goes_with_the_file_that_was_written_last(tiny_data, tiny_base, tmp_path, capsys):
    model = shutil.copytree(tiny_base, tmp_path / "model")
    config = EvalConfig(
        model=model,
        data_dir=tiny_data,
        output_dir=tmp_path / "out",
        tasks=[TASK],
        max_new_tokens=2,
        max_frames=4,
        num_workers=0,
    )
    (path,) = evaluate(config.model_copy(update={"limit": 1}))
    assert "limit=1: 1 of 4 videos are asked about; a partial run is scored" in capsys.readouterr().out
    asked, part = Annotations(tiny_data, "test"), read_manifest(path)
    assert (part.records, part.dataset.videos, part.settings["limit"]) == (1, 1, 1)
    with pytest.raises(PredictionError, match="a partial run: 3 of the 4 questions"):
        read_prediction_file(path, asked)
    assert read_prediction_file(path, asked, partial=True).share == "1 of 4"

    annotations = tiny_data / TASKS[TASK].annotation_file("test")
    evaluate(config)
    written, whole = manifest_path(path).read_bytes(), read_manifest(path)
    assert read_prediction_file(path, asked).remarks() == []
    assert (whole.records, whole.task, whole.model, whole.adapter) == (4, TASK, "model", None)
    assert whole.predictions_sha256 == file_hash(path) != part.predictions_sha256
    assert whole.checkpoint.sha256 == content_hash(model)
    assert whole.dataset.annotations == {annotations.name: file_hash(annotations)}
    assert whole.decoding == "greedy, free, at most 2 tokens" and "torch" in whole.versions

    # Nothing was left to ask: the answers are still those of the earlier run, and so says the manifest.
    path.write_text("[]")
    evaluate(config)
    assert manifest_path(path).read_bytes() == written and read_manifest(path) == whole

    # A run does not go on with other weights in the same folder, nor without them.
    settings = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(settings | {"note": "trained further"}))
    with pytest.raises(PredictionError, match="was begun by another run"):
        evaluate(config)
    shutil.rmtree(model)
    with pytest.raises(CheckpointError, match="model: no such folder"):
        evaluate(config)
