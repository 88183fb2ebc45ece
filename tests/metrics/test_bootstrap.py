"""Intervals and paired comparisons of scores."""

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from crashchat.metrics.bootstrap import draws, intervals, paired
from crashchat.metrics.localization import crash_localization_sums
from crashchat.metrics.recognition import recognition_sums
from crashchat.metrics.text import text_sums


def labels(truths: str, answers: str, per_video: int = 1) -> list[dict]:
    """Y, N and ? (no answer), a letter a question."""
    names = {"Y": "Yes", "N": "No", "?": None}
    pairs = zip(truths, answers, strict=True)
    return [
        {"video_path": f"{at // per_video}.mp4", "gt_label": names[truth], "pred_label": names[answer]}
        for at, (truth, answer) in enumerate(pairs)
    ]


def test_interval_of_a_share_is_the_binomial_ones():
    right = np.random.default_rng(3).random(2000) < 0.7
    sums = recognition_sums(labels("Y" * 2000, "".join("Y" if good else "N" for good in right)))
    low, high = intervals(sums)["Accuracy"]
    share = right.mean()
    half = 1.96 * np.sqrt(share * (1 - share) / 2000)
    assert low == pytest.approx(share - half, abs=0.004) and high == pytest.approx(share + half, abs=0.004)
    assert intervals(sums)["Accuracy"] == (low, high) != intervals(sums, seed=1)["Accuracy"]


def test_questions_on_one_video_are_drawn_together():
    truths, answers = "YYYYNNNN" * 5, "YYNNNNYN" * 5
    single = recognition_sums(labels(truths, answers))
    doubled = recognition_sums(
        labels("".join(c * 2 for c in truths), "".join(c * 2 for c in answers), per_video=2)
    )
    # Asking everything twice tells nothing new, so the interval must not shrink.
    assert intervals(single)["F1"] == pytest.approx(intervals(doubled)["F1"])


def test_resampled_bleu_is_the_bleu_of_the_resampled_texts():
    words = ["car", "hits", "a", "truck", "at", "the", "red", "light", "of", "a", "wet", "road"]
    generator = np.random.default_rng(0)
    pairs = [(" ".join(generator.choice(words, 9)), " ".join(generator.choice(words, 8))) for _ in range(20)]
    sums = text_sums(
        [{"video_path": f"{n:02}", "gt": truth, "pred": answer} for n, (truth, answer) in enumerate(pairs)],
        "gt",
        "pred",
    )
    values = []
    for weights in draws(20, 50, seed=5):
        drawn = [pair for pair, times in zip(pairs, weights, strict=True) for _ in range(int(times))]
        references, answers = [[truth.split()] for truth, _ in drawn], [answer.split() for _, answer in drawn]
        values.append(corpus_bleu(references, answers, smoothing_function=SmoothingFunction().method1))
    assert intervals(sums, resamples=50, seed=5)["BLEU"] == pytest.approx(
        tuple(np.quantile(values, (0.025, 0.975))), abs=1e-9
    )


def test_what_cannot_be_computed_has_no_interval():
    refusals = recognition_sums(labels("YN", "??"))
    assert intervals(refusals, "released") == {} and intervals(refusals)["Accuracy"] == (0, 0)
    assert intervals(recognition_sums([])) == {}
    text = text_sums([{"video_path": "a", "gt": "a b", "pred": "a b"}], "gt", "pred")
    assert "METEOR" not in intervals(text) and intervals(text)["rouge1_f"] == (1, 1)
    # Where no answer has an error in seconds in some resamples, the others give the interval.
    times = [
        {"video_path": n, "gt_start": 1.0, "gt_end": 2.0, "pred_start": s, "pred_end": s}
        for n, s in (("a", None), ("b", 1.5))
    ]
    assert intervals(crash_localization_sums(times))["start_MAE"] == (0.5, 0.5)


def test_paired_differences():
    truths = "YN" * 50
    weak, strong = labels(truths, "YYNN" * 25), labels(truths, "YN" * 45 + "NY" * 5)
    found = paired(recognition_sums(weak), recognition_sums(strong))["Accuracy"]
    assert found.value == pytest.approx(0.4) and found.low < 0.4 < found.high and found.low > 0.2
    assert found.p == pytest.approx(2 / 1001)
    same = paired(recognition_sums(weak), recognition_sums(list(reversed(weak))))["macro_f1"]
    assert (same.value, same.low, same.high, same.p) == (0, 0, 0, 1)
    back = paired(recognition_sums(strong), recognition_sums(weak))["Accuracy"]
    assert back.value == -found.value and back.p == found.p
    with pytest.raises(ValueError, match="2 videos are in only one of the two"):
        paired(recognition_sums(weak), recognition_sums(weak[:-2]))


def test_p_values_of_equal_models_are_rarely_small():
    generator = np.random.default_rng(0)
    small = 0
    for _ in range(200):
        first, second = ("".join(generator.choice(["Y", "N"], 60)) for _ in "ab")
        difference = paired(
            recognition_sums(labels("Y" * 60, first)),
            recognition_sums(labels("Y" * 60, second)),
            resamples=200,
        )
        small += difference["Accuracy"].p < 0.05
    assert 2 <= small <= 22  # 10 expected of 200
