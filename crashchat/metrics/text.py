"""Description, causes, prevention: texts against texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any, Protocol

import numpy as np
from pycocoevalcap.cider.cider_scorer import CiderScorer
from pycocoevalcap.tokenizer.ptbtokenizer import PUNCTUATIONS

from crashchat.data.predictions import clip_name
from crashchat.metrics.closed_set import same_choice
from crashchat.metrics.facts import FACTS_KEYS, facts_counts, facts_figures
from crashchat.metrics.meteor import meteor, meteor_columns
from crashchat.metrics.sums import Counted, Sums, Totals, ratio, sums

ROUGES = ("rouge1", "rouge2", "rougeL")
_PARTS = {"p": "precision", "r": "recall", "f": "fmeasure"}
ROUGE_KEYS = tuple(f"{name}_{part}" for name in ROUGES for part in _PARTS)
BLEU_KEYS = (
    *(f"hits{n}" for n in range(1, 5)),
    *(f"grams{n}" for n in range(1, 5)),
    "answer_words",
    "truth_words",
)
_MEANS = (*ROUGE_KEYS, "CIDEr", "exact_match")
_EXTRA_MEANS = ("BERTScore", "closed_set_accuracy")


class PairScorer(Protocol):
    """A model that scores texts."""

    def scores(self, pairs: list[tuple[str, str]]) -> list[float]:
        """A score between 0 and 1 of each (truth, answer) pair."""


class Embedder(Protocol):
    """A model that knows texts by vectors."""

    def vectors(self, texts: Sequence[str]) -> np.ndarray:
        """float[N, D] of unit length, whose products say how alike texts are; zeros for an empty text."""


@dataclass(frozen=True)
class Extras:
    """Scores that need more than the answers; without it they are None ('not computed').

    meteor: ask the Java program. bertscore, semantic: a loaded model. known: the training split's answers,
    the closed set that an answer is read as a choice from.
    """

    meteor: bool = False
    bertscore: PairScorer | None = None
    semantic: Embedder | None = None
    known: tuple[str, ...] = ()


NO_EXTRAS = Extras()


def text_sums(records: list[dict], truth_field: str, answer_field: str, extras: Extras = NO_EXTRAS) -> Sums:
    """The texts in `answer_field` against those in `truth_field` (docs/reference.md, Metrics);
    no answer is the empty text.

    BLEU: corpus BLEU-4, whitespace tokens, nltk's method1 smoothing. rouge*_{p,r,f}: mean over records,
    stemmed. METEOR: of the corpus. CIDEr: mean over records, its word weights from all annotated answers of
    the file, in either protocol. BERTScore: mean F1. exact_match: share of answers that are the annotated
    text, white space at the ends aside. facts_*: what is stated, whatever the words (facts.py).
    semantic: likeness in meaning, 0 by chance. closed_set_accuracy: share of answers that mean the same
    training answer as the annotated one. num_new: answers that are not among the file's annotated ones, which
    are the closed set that most of the answers come from.
    """
    counts = {
        "num_records": len(records),
        "num_unparsed": 0,
        "num_failed": 0,
        "num_no_truth": 0,
        "num_new": 0,
    }
    kept: list[tuple[str, bool]] = []  # (video, answered)
    pairs: list[tuple[str, str]] = []
    for record in records:
        truth, answer = record[truth_field], record[answer_field]
        if not truth or not truth.strip():
            counts["num_no_truth"] += 1
            continue
        answered = record.get("error") is None and bool(answer and answer.strip())
        if not answered:
            counts["num_unparsed" if record.get("error") is None else "num_failed"] += 1
            answer = ""
        kept.append((clip_name(record["video_path"]), answered))
        pairs.append((truth, answer))
    known = {truth.strip() for truth, _ in pairs}
    counts["num_new"] = sum(bool(answer) and answer.strip() not in known for _, answer in pairs)
    questions = [
        {
            "video": video,
            "answered": answered,
            "n": 1,
            "exact_match": truth.strip() == answer.strip(),
            **dict(zip(BLEU_KEYS, bleu_counts(truth, answer), strict=True)),
            **dict(zip(ROUGE_KEYS, rouge(truth, answer), strict=True)),
            "CIDEr": cider_score,
            **facts_counts(truth, answer),
        }
        for (video, answered), (truth, answer), cider_score in zip(kept, pairs, cider(pairs), strict=True)
    ]
    if extras.meteor:
        questions = [question | more for question, more in zip(questions, meteor_columns(pairs), strict=True)]
    more: dict[str, Sequence[float]] = {}
    if extras.bertscore:
        more["BERTScore"] = extras.bertscore.scores(pairs)
    if extras.semantic and pairs:
        more |= semantic_columns(pairs, extras.semantic)
    if extras.known:
        more["closed_set_accuracy"] = same_choice(pairs, extras.known)
    for name, column in more.items():
        questions = [question | {name: value} for question, value in zip(questions, column, strict=True)]
    figures = ("BLEU", *_MEANS, "METEOR", *_EXTRA_MEANS, "facts_precision", "facts_recall", "facts_f1")
    counted: Counted = dict.fromkeys(figures, (("n",),))
    del counted["CIDEr"]  # goes up to 10
    return sums(
        questions,
        _figures,
        counts,
        counted=counted,
        shares=("exact_match", "closed_set_accuracy"),
        empty=("n", *BLEU_KEYS, *_MEANS, *FACTS_KEYS),
    )


def _figures(totals: Totals) -> dict[str, np.ndarray]:
    means = {name: ratio(totals[name], totals["n"]) for name in _MEANS}
    missing = np.full(np.shape(totals["n"]), np.nan)  # not asked for, or not to be had here
    more = {name: ratio(totals[name], totals["n"]) if name in totals else missing for name in _EXTRA_MEANS}
    return {
        "BLEU": np.where(totals["n"] > 0, bleu(totals), np.nan),
        **means,
        "METEOR": meteor(totals) if "chunks" in totals else missing,
        **more,
        "semantic": semantic(totals) if "semantic_chance" in totals else missing,
        **facts_figures(totals),
    }


def semantic_columns(pairs: list[tuple[str, str]], model: Embedder) -> dict[str, Sequence[float]]:
    """The cosine of each (truth, answer) pair, and what chance gives: the answer's mean cosine with all
    truths, which for texts on crashes is high whatever they say.
    """
    truths, answers = (model.vectors([pair[side] for pair in pairs]).astype(float) for side in (0, 1))
    return {
        "semantic_cosine": (truths * answers).sum(axis=1).tolist(),
        "semantic_chance": (answers @ truths.mean(axis=0)).tolist(),
    }


def semantic(totals: Totals) -> np.ndarray:
    """By how much the cosines are above chance, as a share of how much they could be (Cohen's kappa, 1960):
    1 for the truths, 0 for the same answer to all questions.
    """
    above, most = (totals[name] - totals["semantic_chance"] for name in ("semantic_cosine", "n"))
    return ratio(above, np.where(most > 1e-6, most, 0.0)).round(6) + 0.0  # no -0


@cache
def bleu_counts(truth: str, answer: str) -> tuple[int, ...]:
    """What corpus BLEU-4 adds up of one pair, in the order of BLEU_KEYS:
    hits and n-grams for n = 1 … 4, and the lengths.
    """
    from nltk.translate.bleu_score import modified_precision  # more than a second, and training needs none

    reference, words = truth.split(), answer.split()
    parts: list[Fraction] = [modified_precision([reference], words, n) for n in range(1, 5)]
    # nltk's fractions are not reduced: an answer of no n-grams counts 0 of 1.
    return (
        *(part.numerator for part in parts),
        *(part.denominator for part in parts),
        len(words),
        len(reference),
    )


def bleu(totals: Totals) -> np.ndarray:
    """Corpus BLEU-4 of column totals, as nltk's corpus_bleu with method1: no hit counts as 0.1,
    no single word as 0.
    """
    logs: np.ndarray | float = 0.0
    for n in range(1, 5):
        hits, grams = np.asarray(totals[f"hits{n}"]), np.maximum(totals[f"grams{n}"], 1)
        logs = logs + 0.25 * np.log(np.where(hits > 0, hits, 0.1) / grams)
    words = np.asarray(totals["answer_words"], dtype=float)
    penalty = np.exp(np.minimum(0.0, 1 - ratio(totals["truth_words"], words, empty=1.0)))
    return np.where((totals["hits1"] > 0) & (words > 0), penalty * np.exp(logs), 0.0)


@cache
def _rouge_scorer() -> Any:
    from rouge_score.rouge_scorer import RougeScorer  # which needs nltk

    return RougeScorer(list(ROUGES), use_stemmer=True)


@cache
def rouge(truth: str, answer: str) -> tuple[float, ...]:
    """The scores of one pair, in the order of ROUGE_KEYS.

    Cached: real answers repeat, and a pair takes a while.
    """
    scores = _rouge_scorer().score(truth, answer)
    return tuple(getattr(scores[name], part) for name in ROUGES for part in _PARTS.values())


def cider(pairs: list[tuple[str, str]]) -> list[float]:
    """CIDEr-D of each (truth, answer) pair by pycocoevalcap, between 0 and 10;
    the truths are the corpus that weighs the words.

    Words as its own Penn Treebank tokenizer gives them, but from nltk, which needs no Java.
    """
    scorer = CiderScorer()
    for truth, answer in pairs:
        scorer += (_words(answer), [_words(truth)])
    return scorer.compute_score()[1].tolist() if pairs else []


@cache
def _words(text: str) -> str:
    from nltk.tokenize import NLTKWordTokenizer

    return " ".join(word for word in NLTKWordTokenizer().tokenize(text.lower()) if word not in PUNCTUATIONS)
