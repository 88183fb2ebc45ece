"""Answers that always parse: which tokens may come next,
for kinds of answers that have a form (decode=constrained).

    Yes | No, options        one of them
    start - end seconds      one decimal, 0 <= start <= end <= the video's end
    time seconds             likewise
    a pattern                numbers, several options, several intervals, records of such
    any other text           one of the training answers, where that is asked for; else free

Greedy decoding takes the likeliest token among those that can still lead to an answer of the form.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Protocol

import regex
from transformers import PreTrainedTokenizerBase

from crashchat.tasks import TASKS
from crashchat.tasks.quantities import GAP, UNIT, Timed

_LETTERS = frozenset("0123456789." + GAP + UNIT)
_UNIT, _GAP = UNIT, GAP


class Constraint(Protocol):
    """What may follow the tokens of an answer so far."""

    def allowed(self, tokens: list[int]) -> list[int]:
        """Token ids, the closing one among them where the answer is complete;
        never none for tokens it allowed.
        """


class Choices:
    """One of some answers, word for word."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, answers: Iterable[str]):
        """Raises ValueError without answers."""
        self.tree: dict = {}
        for answer in answers:
            branch = self.tree
            for token in [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]:
                branch = branch.setdefault(token, {})
        if not self.tree:
            raise ValueError("there are no answers to choose from")

    def allowed(self, tokens: list[int]) -> list[int]:
        branch = self.tree
        for token in tokens:
            branch = branch[token]
        return list(branch)


@lru_cache(maxsize=16)
def _pieces(tokenizer: PreTrainedTokenizerBase, letters: frozenset[str] = _LETTERS) -> dict[int, str]:
    """{token: its text} of the tokens that consist of some letters;
    in a vocabulary of 150,000 those of times are a few hundred.
    """
    words = {
        token: tokenizer.convert_tokens_to_string([word]) for word, token in tokenizer.get_vocab().items()
    }
    return {token: word for token, word in words.items() if word and set(word) <= letters}


class Times:
    """One time or an interval in seconds, within a video."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, end: float, count: int):
        """end: the video's, in seconds. count: 1 for a time, 2 for start and end.

        Raises ValueError where the tokenizer cannot spell out times.
        """
        self.last = int(end * 10 + 1e-6)  # tenths of a second
        self.count = count
        self.closing = tokenizer.eos_token_id
        self.pieces = _pieces(tokenizer)
        endings = {_GAP, _UNIT} if count == 2 else {_UNIT}
        self.spelled = {
            end: [f"{tenths / 10:.1f}{end}" for tenths in range(self.last + 1)] for end in endings
        }
        if not self.allowed([]):
            raise ValueError(f"the tokenizer has no tokens for times such as '1.9{_UNIT}'")

    def allowed(self, tokens: list[int]) -> list[int]:
        text = "".join(self.pieces[token] for token in tokens)
        following = [token for token, piece in self.pieces.items() if self._state(text + piece) != "wrong"]
        return [self.closing, *following] if self._state(text) == "complete" else following

    def _state(self, text: str) -> str:
        """ "complete" for an answer, "begun" for the beginning of one, else "wrong"."""
        earliest = 0
        for number in range(self.count):
            ending = _UNIT if number == self.count - 1 else _GAP
            spelled = self.spelled[ending]
            time = re.match(rf"(\d+)\.(\d){ending}", text)
            if not time:
                return "begun" if any(one.startswith(text) for one in spelled[earliest:]) else "wrong"
            tenths = int(time[1] + time[2])
            if not earliest <= tenths <= self.last or spelled[tenths] != time[0]:
                return "wrong"
            text, earliest = text[time.end() :], tenths
        return "wrong" if text else "complete"


class Spelled:
    """A text that a regular expression matches as a whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, pattern: str):
        """Raises ValueError where the tokenizer cannot spell out such a text."""
        self.pattern = regex.compile(pattern)
        self.closing = tokenizer.eos_token_id
        # Letters that stand for themselves in the pattern, and what its classes of digits stand for.
        self.pieces = _pieces(tokenizer, frozenset(pattern) | _LETTERS)
        self._known: dict[str, list[int]] = {}
        if not self.allowed([]):
            raise ValueError(f"the tokenizer has no tokens for answers such as {pattern[:60]!r}")

    def allowed(self, tokens: list[int]) -> list[int]:
        text = "".join(self.pieces[token] for token in tokens)
        if text not in self._known:
            following = [
                token
                for token, piece in self.pieces.items()
                if self.pattern.fullmatch(text + piece, partial=True)
            ]
            complete = text and self.pattern.fullmatch(text)
            self._known[text] = [self.closing, *following] if complete else following
        return self._known[text]


@lru_cache(maxsize=64)
def _spelled(tokenizer: PreTrainedTokenizerBase, pattern: str) -> Spelled:
    """Made once for all videos that end alike: what may follow is remembered."""
    return Spelled(tokenizer, pattern)


@lru_cache(maxsize=64)
def _chosen(tokenizer: PreTrainedTokenizerBase, answers: tuple[str, ...]) -> Choices:
    return Choices(tokenizer, answers)


def constraint_for(
    task: str, tokenizer: PreTrainedTokenizerBase, end: float, answers: dict[str, Choices] | None = None
) -> Constraint | None:
    """The constraint of a task's answers on a video that ends at `end` seconds; None where they are free.

    answers: {task: its training answers}, for tasks that are limited to them.
    """
    kind = TASKS[task].answer
    if answers and task in answers:
        return answers[task]
    if kind.candidates:
        return _chosen(tokenizer, kind.candidates)
    if isinstance(kind, Timed):
        return Times(tokenizer, end, len(kind.fields))
    pattern = kind.pattern(end)
    return _spelled(tokenizer, pattern) if pattern else None
