"""Description, causes, prevention: texts against texts."""

from functools import cache

from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu
from rouge_score.rouge_scorer import RougeScorer

ROUGES = ("rouge1", "rouge2", "rougeL")
_PARTS = {"p": "precision", "r": "recall", "f": "fmeasure"}
ROUGE_KEYS = tuple(f"{name}_{part}" for name in ROUGES for part in _PARTS)


def text(records: list[dict], truth_field: str, answer_field: str) -> dict:
    """Scores of the texts in `answer_field` against those in `truth_field` (SPEC.md, Predictions and metrics).

    Plain keys: only records with an answer. BLEU: corpus BLEU-4, whitespace tokens, method1 smoothing. rouge*_{p,r,f}:
    mean over records, stemmed. exact_match: share of answers that are the annotated text,
    white space at the ends aside.
    strict_*: no answer is the empty text. BERTScore needs a model that is not part of this project: None.
    """
    answered: list[tuple[str, str]] = []
    everything: list[tuple[str, str]] = []
    counts = {"num_unparsed": 0, "num_failed": 0, "num_no_truth": 0}
    for record in records:
        truth, answer = record[truth_field], record[answer_field]
        if not truth or not truth.strip():
            counts["num_no_truth"] += 1
            continue
        if record.get("error") is not None:
            counts["num_failed"] += 1
            answer = ""
        elif not answer or not answer.strip():
            counts["num_unparsed"] += 1
            answer = ""
        else:
            answered.append((truth, answer))
        everything.append((truth, answer))
    return {
        "num_records": len(records),
        "num_scored": len(answered),
        **counts,
        **_scores(answered),
        **{f"strict_{key}": value for key, value in _scores(everything).items()},
        "BERTScore": None,
    }


def _scores(pairs: list[tuple[str, str]]) -> dict:
    """Scores of (truth, answer) pairs; all None without any."""
    if not pairs:
        return dict.fromkeys(("BLEU", *ROUGE_KEYS, "exact_match"))
    rouges = [rouge(truth, answer) for truth, answer in pairs]
    means = (sum(column) / len(pairs) for column in zip(*rouges, strict=True))
    return {
        "BLEU": bleu(pairs),
        **dict(zip(ROUGE_KEYS, means, strict=True)),
        "exact_match": sum(truth.strip() == answer.strip() for truth, answer in pairs) / len(pairs),
    }


def bleu(pairs: list[tuple[str, str]]) -> float:
    """Corpus BLEU-4 of (truth, answer) pairs, whitespace tokens, nltk's method1 smoothing."""
    references = [[truth.split()] for truth, _ in pairs]
    hypotheses = [answer.split() for _, answer in pairs]
    return float(corpus_bleu(references, hypotheses, smoothing_function=SmoothingFunction().method1))


@cache
def _scorer() -> RougeScorer:
    return RougeScorer(list(ROUGES), use_stemmer=True)


@cache
def rouge(truth: str, answer: str) -> tuple[float, ...]:
    """The scores of one pair, in the order of ROUGE_KEYS. Cached: real answers repeat, and a pair takes a while."""
    scores = _scorer().score(truth, answer)
    return tuple(getattr(scores[name], part) for name in ROUGES for part in _PARTS.values())
