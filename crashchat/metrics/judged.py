"""A share of right answers as a judge saw it, corrected by how often the judge errs.

The judge calls some right answers wrong and some wrong ones right. How often, answers tell that people have
labelled: its sensitivity, the share of right ones that it calls right, and its specificity, the share of
wrong ones that it calls wrong. Lee et al., How to Correctly Report LLM-as-a-Judge Evaluations
(arXiv 2511.21140).
"""

from dataclasses import dataclass
from math import sqrt

from crashchat.metrics.bootstrap import Interval, Z, wilson


@dataclass(frozen=True)
class Part:
    """`hits` of `number` answers."""

    hits: int
    number: int

    @property
    def share(self) -> float:
        """hits / number; 0 of none."""
        return self.hits / self.number if self.number else 0.0

    @property
    def interval(self) -> Interval:
        """Wilson's 95% interval."""
        return wilson(self.share, self.number)

    def drawn_in(self, pseudo: float) -> "_Drawn":
        """The share with `pseudo` more answers, half of them hits, and the variance of such a share."""
        number = self.number + pseudo
        share = (self.hits + pseudo / 2) / number
        return _Drawn(share, share * (1 - share) / number)


@dataclass(frozen=True)
class _Drawn:
    share: float
    variance: float


@dataclass(frozen=True)
class Judged:
    """What a judge said of answers, and what it is worth.

    right: of the answers, how many it calls right. sensitivity, specificity: of the labelled right answers
    how many it calls right, of the labelled wrong ones how many it calls wrong.
    """

    right: Part
    sensitivity: Part
    specificity: Part

    @property
    def skill(self) -> float:
        """sensitivity + specificity - 1 (Youden's J): 1 for a judge that never errs, 0 for one that guesses;
        at 0 or below nothing can be corrected.
        """
        return self.sensitivity.share + self.specificity.share - 1

    @property
    def corrected(self) -> float:
        """The share of right answers by Rogan and Gladen (1978), (raw + specificity - 1) / skill, within 0
        and 1. Raises ValueError for a judge without skill.
        """
        if self.skill <= 0:
            raise ValueError("a judge without skill")
        return min(1.0, max(0.0, (self.right.share + self.specificity.share - 1) / self.skill))

    @property
    def interval(self) -> Interval:
        """The 95% interval of `corrected`, which carries what is not known of the judged and of the labelled
        answers: the adjusted Wald interval of Lang and Reiczigel (2014), which Lee et al. take over.

        With p of n + z² answers, half of the z² more of them hits, and sensitivity s and specificity t of
        two labelled answers more each, one of them a hit: r = (p + t - 1) / (s + t - 1), moved by
        2 z² (r var(s) - (1 - r) var(t)), plus and minus
        z sqrt(var(p) + (1 - r)² var(t) + r² var(s)) / (s + t - 1), var being share (1 - share) / number.
        """
        raw, sensitivity = self.right.drawn_in(Z**2), self.sensitivity.drawn_in(2)
        specificity = self.specificity.drawn_in(2)
        skill = sensitivity.share + specificity.share - 1
        if skill <= 0:
            return 0.0, 1.0
        rate = (raw.share + specificity.share - 1) / skill
        middle = rate + 2 * Z**2 * (rate * sensitivity.variance - (1 - rate) * specificity.variance)
        variance = raw.variance + (1 - rate) ** 2 * specificity.variance + rate**2 * sensitivity.variance
        half = Z * sqrt(variance) / skill
        # The corrected share lies within, whatever the clipping made of it.
        value = self.corrected
        return max(0.0, min(middle - half, value)), min(1.0, max(middle + half, value))
