"""BLEU, METEOR and BERTScore against the libraries they come from, and texts that are empty."""

import json
import re
from pathlib import Path

import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from crashchat.evaluation.bertscore import BertScore
from crashchat.evaluation.score import main
from crashchat.metrics.meteor import _program, has_java
from crashchat.metrics.text import Extras, text_sums
from tests.evaluation.test_metric_scripts import run_script, some_predictions
from tests.metrics.test_metrics import texts


def test_text_empty_answers():
    pairs = [("car hits car", "car hits car"), ("car hits car", " "), ("car hits truck", None), ("", "car")]
    records = (
        texts(*pairs)
        + texts(("car hits car", None), error="unreadable")
        + texts(("car hits bus", "car hits train"))
    )
    sums = text_sums(records, "gt", "pred")
    metrics, released = sums.metrics(), sums.metrics("released")
    counts = ("num_records", "num_scored", "num_unparsed", "num_failed", "num_no_truth", "num_new")
    assert [metrics[key] for key in counts] == [6, 2, 2, 1, 1, 1]
    assert released["exact_match"] == 0.5 and released["rouge1_f"] == pytest.approx((1 + 2 / 3) / 2)
    assert metrics["exact_match"] == 0.2 and metrics["rouge1_f"] == pytest.approx((1 + 2 / 3) / 5)
    assert 0 < metrics["BLEU"] < released["BLEU"] and 0 < metrics["CIDEr"] < released["CIDEr"]


@pytest.mark.parametrize(
    "pairs",
    [
        [("a b c d e", "a b c d e")],
        [("a b c d e f", "a b c d"), ("one two", "two one"), ("g h i j k", "")],
        [("a b", "c d")],
        [("a b c", "")],
        [("a", "a b c d e f g a")],
    ],
)
def test_bleu_is_nltks(pairs):
    references, answers = [[truth.split()] for truth, _ in pairs], [answer.split() for _, answer in pairs]
    nltks = corpus_bleu(references, answers, smoothing_function=SmoothingFunction().method1)
    assert text_sums(texts(*pairs), "gt", "pred").metrics()["BLEU"] == pytest.approx(nltks, abs=1e-12)


@pytest.mark.skipif(not has_java(), reason="METEOR needs a Java runtime")
def test_meteor_is_pycocoevalcaps():
    pairs = [
        ("A truck hits the parked car at night.", "a truck hit parked cars in the night"),
        (
            "the driver brakes",
            "The driver brakes",
        ),  # no break between the words: its single chunk does not count
        ("Pedestrian crosses suddenly", "nothing happens"),
        ("car hits car", ""),
    ]
    truths, answers = ({n: [pair[side]] for n, pair in enumerate(pairs)} for side in (0, 1))
    theirs, each = _program().compute_score(truths, answers)  # pycocoevalcap's own way to the scores
    sums = text_sums(texts(*pairs), "gt", "pred", Extras(meteor=True))
    assert sums.metrics()["METEOR"] == pytest.approx(theirs, abs=1e-12)
    one_by_one = sums.figures(sums.columns)["METEOR"]
    assert one_by_one.tolist() == pytest.approx(each, abs=1e-12)
    # Line breaks and the program's own separator in an answer don't bring it out of step.
    odd = text_sums(
        texts(("a car turns", "a ||| car\nturns"), ("a b", "a b")), "gt", "pred", Extras(meteor=True)
    )
    assert odd.figures(odd.columns)["METEOR"].tolist() == pytest.approx([1.0, 1.0])


def test_without_java_meteor_is_not_computed(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(some_predictions("crash_description")))
    done = run_script("crash_description", "--predictions", path, cwd=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert re.search(r"METEOR +not computed", done.stdout)
    assert json.loads((tmp_path / "p_metrics.json").read_text())["METEOR"] is None


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory) -> Path:
    """A BERT of random weights."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "car", "truck", "hits", "a", "bus", "slowly"]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(folder)
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


def test_bertscore_is_greedy_matching_of_hidden_states(tiny_bert):
    import torch
    from transformers import AutoModel, AutoTokenizer

    pairs = [("car hits a truck", "a bus hits truck"), ("car hits car", "car hits car"), ("car", "")]
    scores = BertScore(tiny_bert, layer=2).scores(pairs)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert).eval()

    def vectors(text: str) -> torch.Tensor:
        with torch.no_grad():
            return model(**tokenizer(text, return_tensors="pt"), output_hidden_states=True).hidden_states[2][
                0
            ]

    truth, answer = map(vectors, pairs[0])
    likeness = torch.cosine_similarity(answer[:, None], truth[None], dim=-1)
    # [CLS] and [SEP] may be found, but only words search.
    precision, recall = likeness.max(1).values[1:-1].mean().item(), likeness.max(0).values[1:-1].mean().item()
    assert scores == pytest.approx([2 * precision * recall / (precision + recall), 1.0, 0.0], abs=1e-5)
    records = texts(*pairs)
    metrics = text_sums(records, "gt", "pred", Extras(bertscore=BertScore(tiny_bert, layer=2))).metrics()
    assert metrics["BERTScore"] == pytest.approx(sum(scores) / 3)
    with pytest.raises(ValueError, match="has layers 1 to 3, not 4"):
        BertScore(tiny_bert, layer=4)


def test_script_takes_a_bertscore_model(tiny_bert, tmp_path, capsys):
    path = tmp_path / "p.json"
    path.write_text(json.dumps(some_predictions("crash_description")))
    words = ["--predictions", str(path), "--no-meteor", "--bertscore-model"]
    assert main(["crash_description", *words, str(tiny_bert)]) == 0
    assert json.loads((tmp_path / "p_metrics.json").read_text())["BERTScore"] == pytest.approx(1.0, abs=1e-5)
    assert main(["crash_description", *words, str(tmp_path)]) == 1
    assert "no config.json in it" in capsys.readouterr().err
