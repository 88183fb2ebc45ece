"""Which clip is worth a person's time next.

By worth, and among equals first what the model was least certain of in any of its answers: what contradicts
itself, uncertain recognition, windows that disagree. What comes then has no sign of a wrong answer: clips
unlike the training data, clips that failed and all else take turns, so that no look of a whole fleet fills
the queue alone: a model that saw nothing but days finds every night unlike them, and would be shown no rain.
Every few places stands a clip of the random share, in an order that nothing but chance made: however early
people stop, what they saw of it is a random sample, from which the fleet's figures are estimated.
"""

from collections import Counter
from collections.abc import Iterable, Sequence

from crashchat.analysis.cards import sureness
from crashchat.analysis.results import CONTRADICTION, FAILED, UNDECIDED, ClipResult
from crashchat.review.standing import Standing
from crashchat.review.store import ClipRow, draw_of

UNCERTAIN = 0.2  # a probability no further than this from one half is uncertain
REASONS = (
    "contradiction",
    "uncertain recognition",
    "windows disagree",
    "unlike the training data",
    "failed",
    "the rest",
)
SIGNS = 3  # so many of REASONS, the first, are signs of a wrong answer
RANDOM = "random share"
DISAGREEMENT = "reviewers disagree"
OPINIONS = 2  # people who are asked about a clip of the random share, so that their agreement is known


def windows_disagree(result: ClipResult) -> bool:
    """Whether a window saw no crash where another one, which overlaps it, places the middle of one."""
    for event in result.events:
        middle = (event.start + event.end) / 2
        for number, window in enumerate(result.windows):
            if number not in event.windows and not window.error and window.start <= middle <= window.end:
                return True
    return False


def reasons_of(result: ClipResult) -> list[str]:
    """Why a clip is worth a look, the best reason first; "the rest" where there is none."""
    holds = (
        result.status == CONTRADICTION,
        result.status == UNDECIDED or 0 <= sureness(result) <= UNCERTAIN,
        windows_disagree(result),
        bool(result.unlike_training),
        result.status == FAILED,
    )
    return [reason for reason, true in zip(REASONS, holds, strict=False) if true] or [REASONS[-1]]


def least_certain(result: ClipResult) -> float:
    """The certainty of the answer that the model is least sure of, of all windows; 1 where none is known."""
    answers = (answer for window in result.windows for answer in window.answers)
    return min((answer.certainty for answer in answers if answer.certainty is not None), default=1.0)


def by_worth(results: Iterable[ClipResult]) -> list[ClipResult]:
    """The most worth looking at first."""

    def unsure_first(result: ClipResult) -> tuple[float, float, str]:
        # An analysis that says nothing of certainty has what is known of recognition.
        sure = sureness(result)
        return least_certain(result), sure if sure >= 0 else 1.0, result.name

    turns: Counter[int] = Counter()
    places = []
    for result in sorted(results, key=unsure_first):
        reason = REASONS.index(reasons_of(result)[0])
        places.append(((reason, 0) if reason < SIGNS else (SIGNS, turns[reason], reason), result))
        turns[reason] += 1
    return [result for _, result in sorted(places, key=lambda place: place[0])]


def full_queue(
    results: dict[str, ClipResult], rows: dict[str, ClipRow], seed: int = 0
) -> list[tuple[str, str]]:
    """(clip, why it stands there) of all clips of an analysis: by worth, and of the random share, spread
    evenly among them, in the order of their draw.
    """
    drawn = sorted((name for name in results if rows[name].random), key=lambda name: draw_of(name, seed))
    worth = by_worth(result for name, result in results.items() if not rows[name].random)
    places = [((at + 0.5) / len(drawn), name, RANDOM) for at, name in enumerate(drawn)]
    places += [
        ((at + 0.5) / len(worth), result.name, reasons_of(result)[0]) for at, result in enumerate(worth)
    ]
    return [(name, why) for _, name, why in sorted(places, key=lambda place: (place[0], place[2] == RANDOM))]


def due(
    queue: Sequence[tuple[str, str]], standings: dict[str, Standing], user: str, lead: bool, people: int
) -> list[tuple[str, str]]:
    """The part of a full queue that waits for this user; a lead finds what others disagree about first.

    people: how many decide on this analysis; where several do, two are asked about the random share.
    """
    waiting, unsettled = [], []
    for name, why in queue:
        standing = standings.get(name, Standing())
        if lead and standing.disagree:
            unsettled.append((name, DISAGREEMENT))
        elif standing.settled is None and user not in standing.opinions:
            wanted = OPINIONS if why == RANDOM and people > 1 else 1
            if len(standing.opinions) < wanted:
                waiting.append((name, why))
    return [*unsettled, *waiting]
