"""METEOR 1.5 as pycocoevalcap runs it, in a form that can be resampled.

The program takes ten seconds and more to start (it reads a table of paraphrases), so one process serves the
whole run and each pair of texts is asked about once. It gives a pair's matches; the score, of a pair or of a
corpus, is a formula on their totals, written here as in the METEOR 1.5 release with its parameters for
English.
"""

import atexit
import shutil
from functools import cache

import numpy as np
from tqdm import tqdm

from crashchat.errors import CrashChatError
from crashchat.metrics.sums import Totals, ratio

COLUMNS = ("answer_matched", "answer_weight", "truth_matched", "truth_weight", "chunks", "matched_words")
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_MODULES = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase
_known: dict[tuple[str, str], tuple[float, ...]] = {}


class MetricError(CrashChatError):
    """A metric's program or model that cannot be used; the message says which and what to do."""


def has_java() -> bool:
    """Whether there is a Java runtime on the path."""
    return shutil.which("java") is not None


@cache
def _program():
    from pycocoevalcap.meteor.meteor import Meteor

    atexit.register(_program.cache_clear)  # ends the process while the interpreter is still whole
    return Meteor()


def meteor_columns(pairs: list[tuple[str, str]]) -> list[dict[str, float]]:
    """What `meteor` needs of each (truth, answer) pair: {column: value},
    0 for an empty answer but for the truth's own weight.

    Raises MetricError when the Java program answers with anything but its statistics.
    """
    pairs = [(_line(truth), _line(answer)) for truth, answer in pairs]
    new = [pair for pair in dict.fromkeys(pairs) if pair not in _known]
    for truth, answer in tqdm(
        new, desc="METEOR", unit="pair", leave=False, disable=None if len(new) > 50 else True
    ):
        _known[truth, answer] = _columns(_program()._stat(answer, [truth]))
    return [dict(zip(COLUMNS, _known[pair], strict=True)) for pair in pairs]


def _line(text: str) -> str:
    """The program's protocol is a line a pair with ||| between the texts."""
    return " ".join(text.replace("|||", " ").split())


def _columns(statistics: str) -> tuple[float, ...]:
    """Order of the program's 23 numbers: lengths of answer and truth, their function words, then for each
    module matched content words of answer and truth and matched function words of both, then chunks and all
    matched words of both."""
    try:
        values = [float(value) for value in statistics.split()]
        length, truth_length, function, truth_function, *matches, chunks, matched, truth_matched = values
        modules = None
        if len(matches) == 16:  # four numbers a module
            fours = [matches[start : start + 4] for start in range(0, 16, 4)]
            modules = [(*four, module) for four, module in zip(fours, _MODULES, strict=True)]
    except ValueError:
        modules = None
    if modules is None:
        raise MetricError(
            f"METEOR answered {statistics[:80]!r}, not its 23 statistics; try `java -version`, or score "
            "with --no-meteor"
        )
    # A pair without any break is no chunk at all in the sum over a corpus.
    whole = matched == length and truth_matched == truth_length and chunks == 1
    return (
        sum(
            weight * (_DELTA * content + (1 - _DELTA) * functional)
            for content, _, functional, _, weight in modules
        ),
        _DELTA * (length - function) + (1 - _DELTA) * function,
        sum(
            weight * (_DELTA * content + (1 - _DELTA) * functional)
            for _, content, _, functional, weight in modules
        ),
        _DELTA * (truth_length - truth_function) + (1 - _DELTA) * truth_function,
        0.0 if whole else chunks,
        (matched + truth_matched) / 2,
    )


def meteor(totals: Totals) -> np.ndarray:
    """Corpus METEOR of column totals; 0 where nothing matches, NaN where there is no truth."""
    precision = ratio(totals["answer_matched"], totals["answer_weight"], empty=0.0)
    recall = ratio(totals["truth_matched"], totals["truth_weight"])
    mean = ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall, empty=0.0)
    breaks = ratio(totals["chunks"], totals["matched_words"], empty=0.0)
    return np.where(np.isnan(recall), np.nan, mean * (1 - _GAMMA * breaks**_BETA))
