"""What stands of a clip after all decisions, undos and settlements on it."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from crashchat.review.labels import CONFIRM, CORRECT, UNDO, UNSURE, Labels, Verdict, contradict


@dataclass(frozen=True)
class Decision:
    """One row of what was decided.

    at: UTC, ISO 8601. before: what the model said; of an undo, what was taken back. after: what was said
    instead. settles: a lead's word on what others disagreed about. undoes: the number of the decision that
    this one takes back.
    """

    id: int
    clip: str
    user: str
    at: str
    verdict: Verdict | Literal["undo"]
    before: Labels
    after: Labels
    comment: str
    settles: bool = False
    undoes: int | None = None

    @property
    def labelled(self) -> bool:
        """Whether it says what is to be seen."""
        return self.verdict in (CONFIRM, CORRECT)


@dataclass
class Standing:
    """What stands of a clip. opinions: {user: their last decision that is not taken back}, without those
    that settle; settled: the last of these.
    """

    opinions: dict[str, Decision] = field(default_factory=dict)
    settled: Decision | None = None

    @property
    def contradicts(self) -> bool:
        """Whether two people's opinions cannot both hold; who is unsure has none."""
        sure = [one for one in self.opinions.values() if one.verdict != UNSURE]
        return any(
            one.labelled != other.labelled or (one.labelled and contradict(one.after, other.after))
            for index, one in enumerate(sure)
            for other in sure[:index]
        )

    @property
    def disagree(self) -> bool:
        """Whether a lead must settle it."""
        return self.settled is None and self.contradicts

    @property
    def final(self) -> Decision | None:
        """The decision that counts: what a lead settled, else the last of those that agree, an unsure one
        only where nobody was sure; None where people disagree.
        """
        if self.settled or self.disagree:
            return self.settled
        return max(self.opinions.values(), key=lambda one: (one.verdict != UNSURE, one.id), default=None)


def standings(decisions: Iterable[Decision]) -> dict[str, Standing]:
    """{clip: what stands of it}, from decisions in their order."""
    kept = list(decisions)
    undone = {one.undoes for one in kept if one.verdict == UNDO}
    found: dict[str, Standing] = {}
    for one in kept:
        if one.verdict == UNDO or one.id in undone:
            continue
        standing = found.setdefault(one.clip, Standing())
        if one.settles:
            standing.settled = one
        else:
            standing.opinions.pop(one.user, None)
            standing.opinions[one.user] = one
    return found
