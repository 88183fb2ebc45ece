"""Scores go into the card of the model that answered, and into no other's."""

import json
import shutil

import pytest

from crashchat.checkpoints.model_card import as_readme, read_card
from crashchat.data.manifests import manifest_path
from crashchat.data.predictions import prediction_path
from crashchat.evaluation.score import main
from crashchat.provenance import CARD_FILE
from tests.helpers.commands import crashchat

RECOGNITION = "crash_recognition"


@pytest.fixture
def scored(tiny_data, tiny_base, tmp_path):
    """A model's folder, and a function that has its answers scored into the card of a folder."""
    model = shutil.copytree(tiny_base, tmp_path / "model")
    words = [f"model={model}", f"data_dir={tiny_data}", f"output_dir={tmp_path}", "num_workers=0"]
    crashchat("evaluate", f"configs/eval/{RECOGNITION}.yaml", *words, "max_new_tokens=2", "fps=1")
    path = prediction_path(tmp_path, RECOGNITION, "model")

    def score(folder, data=tiny_data) -> int:
        words = [RECOGNITION, "--predictions", str(path), "--card", str(folder), "--data-dir", str(data)]
        return main(words)

    return model, path, score


def test_scores_stand_in_the_card_once_with_what_they_are_of(scored, capsys):
    model, path, score = scored
    before = read_card(model)
    for _ in range(2):
        assert score(model) == 0
    card = read_card(model)
    assert card.model_copy(update={"scores": before.scores}) == before
    names = [one.metric for one in card.scores]
    assert f"{RECOGNITION} Accuracy" in names and len(set(names)) == len(names)
    figures = json.loads(path.with_name(f"{path.stem}_metrics.json").read_text())
    (accuracy,) = [one for one in card.scores if one.metric == f"{RECOGNITION} Accuracy"]
    assert (accuracy.dataset, accuracy.split, accuracy.questions) == ("CrashChat synthetic", "test", 4)
    assert accuracy.value == figures["Accuracy"]
    assert accuracy.predictions_sha256 == figures["predictions_sha256"]
    assert (model / "README.md").read_text() == as_readme(card) and "| test | crash_recognition" in as_readme(
        card
    )
    assert f"{model}: {len(card.scores)} scores in its card" in capsys.readouterr().out


def test_no_card_takes_scores_that_are_not_its_own_or_not_sure(scored, tiny_base, tmp_path, capsys):
    model, path, score = scored
    other = shutil.copytree(tiny_base, tmp_path / "other")
    (other / "vocab.json").write_text("{}")
    kept = (other / CARD_FILE).read_text()
    plain = tmp_path / "plain"
    plain.mkdir()
    for folder, said in ((other, "name the folder that answered"), (plain, "no card to write scores into")):
        assert score(folder) == 1 and said in capsys.readouterr().err
    assert (other / CARD_FILE).read_text() == kept
    assert score(model, tmp_path / "nowhere") == 1
    assert "held against their annotations" in " ".join(capsys.readouterr().err.split())
    manifest_path(path).unlink()
    assert score(model) == 1 and "no card takes its scores" in capsys.readouterr().err
    assert read_card(model).scores == read_card(tiny_base).scores
    assert not path.with_name(f"{path.stem}_metrics.json").exists()
