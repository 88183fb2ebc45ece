"""A judge's figure, corrected by its errors."""

import numpy as np
import pytest

from crashchat.metrics.judged import Judged, Part


def test_the_share_is_corrected_by_rogan_and_gladen():
    judged = Judged(right=Part(48, 100), sensitivity=Part(45, 50), specificity=Part(40, 50))
    assert judged.skill == pytest.approx(0.7) and judged.corrected == pytest.approx(0.28 / 0.7)
    # By hand: p 49.9207/103.8415, s 46/52, t 41/52; r 0.39996, moved by -0.00876, plus and minus 0.18122.
    assert judged.interval == pytest.approx((0.20999, 0.57242), abs=2e-5)
    perfect = Judged(right=Part(48, 100), sensitivity=Part(50, 50), specificity=Part(50, 50))
    assert perfect.corrected == 0.48 and perfect.interval[0] < 0.48 < perfect.interval[1]


def test_it_stays_a_share_and_lies_in_its_interval():
    for hits in range(0, 21):
        judged = Judged(Part(hits, 20), Part(9, 10), Part(7, 10))
        low, high = judged.interval
        assert 0 <= low <= judged.corrected <= high <= 1 and low < high
    assert Judged(Part(0, 20), Part(10, 10), Part(7, 10)).corrected == 0
    assert Judged(Part(20, 20), Part(9, 10), Part(10, 10)).corrected == 1


def test_a_judge_that_guesses_corrects_nothing():
    with pytest.raises(ValueError, match="without skill"):
        Judged(Part(5, 10), Part(5, 10), Part(5, 10)).corrected  # noqa: B018
    hardly = Judged(Part(5, 10), Part(3, 10), Part(71, 100))
    assert 0 < hardly.skill < 0.02 and hardly.interval == (0.0, 1.0)


@pytest.mark.parametrize(
    ("truth", "sensitivity", "specificity"), [(0.4, 0.9, 0.8), (0.95, 0.8, 0.7), (0.1, 0.95, 0.9)]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(truth, sensitivity, specificity):
    draw = np.random.default_rng(0)
    raw = truth * sensitivity + (1 - truth) * (1 - specificity)
    covered = 0
    for _ in range(2000):
        judged = Judged(
            right=Part(int(draw.binomial(300, raw)), 300),
            sensitivity=Part(int(draw.binomial(60, sensitivity)), 60),
            specificity=Part(int(draw.binomial(60, specificity)), 60),
        )
        low, high = judged.interval
        covered += low <= truth <= high
    assert 0.93 <= covered / 2000 <= 0.99
