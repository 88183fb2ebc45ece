"""Times, numbers and phrases as models write them: what the kinds of answers (kinds.py) are read with.

No text makes any of these raise.
"""

import math
import re
from collections.abc import Iterable, Sequence

# Times as models write them: `1.9`, `00:01.9`, `0:00:01.9`. ASCII digits only: other scripts' digits are no
# times.
_CLOCK = re.compile(r"(?<![\d.:])(?:(\d{1,2}):)?(\d{1,3}):([0-5]?\d(?:\.\d+)?)(?![\d:])", re.ASCII)
_TIME = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
_UNIT = r"\s*(?:s|secs?|seconds?)\b"
_RANGE = re.compile(
    rf"({_TIME.pattern})(?:{_UNIT})?\.?\s*(?:-+|[‐-―]|~|to|and|until|till|through)\s*({_TIME.pattern})",
    re.ASCII | re.IGNORECASE,
)
_WITH_UNIT = re.compile(rf"({_TIME.pattern}){_UNIT}", re.ASCII | re.IGNORECASE)
# What may stand before an answer in so many words.
_LEAD = r"[\W_]*(?:(?i:(?:(?:the|my|final|correct|best)\s+)*(?:answer|option|choice)\s*(?:is)?)[\W_]*)*"
# `Yes/No` only repeats the question, `No idea` refuses it.
_LABEL = re.compile(
    r"[\W_]*(?:(?:(?:the|my|final|correct)\s+)*answer\s*(?:is)?[\W_]*)?(yes|no)(?![^\W_])(?!\W*(?:or\W*)?(?:yes|no)\b)(?!\s+(?:idea|answer|way)\b)",
    re.IGNORECASE,
)
# `(B)`, `B.`, `B: rear-end`, or `B` and nothing else; `A car …` is no letter, nor is `A or B`.
_LETTER = re.compile(
    rf"{_LEAD}(?<![^\W_])([A-Z])(?:\s*[\W_]*$|\s*[).:,\]*](?!\s*(?:or|and)?\s*[\[(]?[A-Z][).:,\]\s]))",
    re.ASCII,
)
_DENIED = re.compile(
    r"(?:\b(?:no|not|never|without|neither|nor)|n't)(?:[^\w,.;:]+\w+){0,2}[^\w,.;:]*$", re.IGNORECASE
)
_NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:,\d{3})*(?:\.\d+)?(?![\d.]*\d)", re.ASCII)
_WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
_NUMBER_WORD = re.compile(rf"\b({'|'.join(_WORDS)})\b", re.IGNORECASE)


def clocks_as_seconds(text: str) -> str:
    """The text with every `1:02.5` written as seconds."""
    return _CLOCK.sub(
        lambda clock: f"{3600 * int(clock[1] or 0) + 60 * int(clock[2]) + float(clock[3]):.6f}", text
    )


def seconds_in(text: str) -> list[float]:
    """Every non-negative time in `text`, in seconds and in order; `1:02.5` counts as 62.5.

    Infinite where it has 309 digits.
    """
    return [float(number) for number in _TIME.findall(clocks_as_seconds(text))]


def ranges_in(text: str) -> list[tuple[float, float]]:
    """Every finite range (`a - b`, `a to b`) in `text`, in seconds, swapped ends put right."""
    found = [sorted(map(float, ends)) for ends in _RANGE.findall(clocks_as_seconds(text))]
    return [(start, end) for start, end in found if math.isfinite(end)]


def read_label(text: str) -> str | None:
    """'Yes' or 'No' if the answer opens with it (quotes, stars, case and `Answer:` aside), else None."""
    opening = _LABEL.match(text)
    return opening[1].capitalize() if opening else None


def read_interval(text: str) -> tuple[float, float] | None:
    """Start and end in seconds, swapped ends put right.

    The only two times of the answer, or among more the only range (`a - b`, `a to b`); two ranges are no
    answer.
    """
    times = seconds_in(text)
    if len(times) > 2:
        ranges = _RANGE.findall(clocks_as_seconds(text))
        times = [float(end) for end in ranges[0]] if len(ranges) == 1 else []
    if len(times) != 2 or not all(map(math.isfinite, times)):
        return None
    return min(times), max(times)


def read_moment(text: str) -> float | None:
    """One time in seconds: the only number of the answer, or among more the only one with a unit;
    a range is no answer.
    """
    times = seconds_in(text)
    if len(times) > 1:
        text = clocks_as_seconds(text)
        times = [] if _RANGE.search(text) else [float(number) for number in _WITH_UNIT.findall(text)]
    return times[0] if len(times) == 1 and math.isfinite(times[0]) else None


def read_number(text: str, unit: str | None) -> float | None:
    """The only number of the answer, in digits or, up to twelve, in a word; among more the only one that the
    unit follows.
    """
    numbers = [_as_number(found[0]) for found in _NUMBER.finditer(text)]
    if not numbers:
        numbers = [float(_WORDS.index(word.lower())) for word in _NUMBER_WORD.findall(text)]
    elif len(numbers) > 1 and unit:
        behind = re.compile(rf"\s*{re.escape(unit)}\b", re.IGNORECASE)
        numbers = [
            _as_number(found[0]) for found in _NUMBER.finditer(text) if behind.match(text, found.end())
        ]
    return numbers[0] if len(numbers) == 1 and math.isfinite(numbers[0]) else None


def _as_number(digits: str) -> float:
    return float(digits.replace(",", ""))


def read_letter(text: str, count: int) -> int | None:
    """The place of the letter that the answer opens with, among the first `count` of the alphabet."""
    opening = _LETTER.match(text)
    place = ord(opening[1]) - ord("A") if opening else count
    return place if place < count else None


def plain(text: str) -> str:
    """A text in small letters, with single spaces, without quotes, stars and stops around it."""
    return " ".join(text.lower().split()).strip(" .\"'*`_!:;,")


def phrases_in(text: str, phrases: Sequence[str]) -> list[int]:
    """The places of those phrases that `text` names and does not deny, in the order of `phrases`.

    Whole words, whatever their case; of phrases within each other (`crash`, `rear-end crash`) the longest.
    """
    text = " ".join(text.split())
    found = []
    for place in sorted(range(len(phrases)), key=lambda place: -len(phrases[place])):
        phrase = plain(phrases[place])
        named = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)
        if phrase and any(not _DENIED.search(text[: hit.start()]) for hit in named.finditer(text)):
            found.append(place)
        text = named.sub(lambda hit: "\0" * len(hit[0]), text) if phrase else text
    return sorted(found)


def one_line(words: Iterable[str]) -> str:
    """Words with commas between them."""
    return ", ".join(words)
