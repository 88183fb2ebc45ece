"""Intervals and paired comparisons of scores."""

import numpy as np
import pytest
from nltk.translate.bleu_score import SmoothingFunction, corpus_bleu

from crashchat.metrics.bootstrap import corrected, draws, intervals, paired, paired_mean, wilson
from crashchat.metrics.localization import interval_sums
from crashchat.metrics.recognition import recognition_sums
from crashchat.metrics.sums import joined
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
    assert intervals(sums)["F1"] == intervals(sums)["F1"] != intervals(sums, seed=1)["F1"]


def test_an_interval_at_0_or_1_has_width():
    # Wilson's bound of n right of n is n / (n + z²).
    for answers, end in (("Y" * 100, 1), ("N" * 100, 0)):
        sums = recognition_sums(labels("Y" * 100, answers))
        bound = 100 / (100 + 1.959964**2)
        expected = (bound, 1) if end else (0, 1 - bound)
        assert intervals(sums)["Accuracy"] == pytest.approx(expected)
        assert intervals(sums)["Recall"] == pytest.approx(expected)
    # Two questions on a video are no more than one.
    twice = recognition_sums(labels("Y" * 200, "Y" * 200, per_video=2))
    assert intervals(twice)["Accuracy"] == pytest.approx((100 / (100 + 1.959964**2), 1))
    # The smaller class bounds a mean over both.
    uneven = recognition_sums(labels("Y" * 90 + "N" * 10, "Y" * 90 + "N" * 10))
    assert intervals(uneven)["macro_f1"] == pytest.approx(wilson(1.0, 10))
    exact = [
        {"video_path": str(n), "gt_start": 1.0, "gt_end": 2.0, "pred_start": 1.0, "pred_end": 2.0}
        for n in range(50)
    ]
    assert intervals(interval_sums(exact))["mIoU"] == pytest.approx(wilson(1.0, 50))
    assert intervals(interval_sums(exact))["start_MAE"] == (0, 0)  # seconds, no share


def test_holm_corrects_for_the_family():
    truths = "YN" * 50
    family = [
        paired(
            recognition_sums(labels(truths, "YYNN" * 25)),
            recognition_sums(labels(truths, "YN" * right + "NY" * (50 - right))),
        )["Accuracy"]
        for right in (45, 33, 32, 25)
    ]
    found = corrected(family)
    assert [one.p for one in found] == [one.p for one in family]
    ordered = sorted(one.p for one in family)
    stepwise = [min(1.0, factor * p) for factor, p in zip((4, 3, 2, 1), ordered, strict=True)]
    expected = [max(stepwise[: at + 1]) for at in range(4)]
    assert sorted(one.p_holm for one in found) == pytest.approx(expected)
    assert found[0].at_floor and found[0].p_text == "p ≤ 0.0008" and found[0].significant
    assert found[1].p < 0.05 and not found[1].significant and "≤" not in found[1].p_text


def test_few_videos_never_give_a_small_p():
    # All right against all wrong, on three videos: a coin shows as much in a quarter of its threes.
    found = paired(recognition_sums(labels("YNY", "NYN")), recognition_sums(labels("YNY", "YNY")))
    assert found["Accuracy"].value == 1 and found["Accuracy"].p == 0.25 and not found["Accuracy"].at_floor


def test_the_smallest_detectable_difference_is_found_four_times_in_five():
    generator = np.random.default_rng(1)
    videos, base = 200, 0.5
    detectable = paired(
        recognition_sums(labels("Y" * videos, "".join(generator.choice(["Y", "N"], videos)))),
        recognition_sums(labels("Y" * videos, "".join(generator.choice(["Y", "N"], videos)))),
    )["Accuracy"].detectable
    assert detectable == pytest.approx(2.8 * np.sqrt(2 * 0.25 / videos), rel=0.1)
    found = 0
    for _ in range(100):
        weak = "".join(np.where(generator.random(videos) < base, "Y", "N"))
        strong = "".join(np.where(generator.random(videos) < base + detectable, "Y", "N"))
        pair = (recognition_sums(labels("Y" * videos, answers)) for answers in (weak, strong))
        found += paired(*pair, resamples=400)["Accuracy"].p < 0.05
    assert 65 <= found <= 92


def test_the_mean_over_tasks_is_compared_on_the_same_videos():
    truths = "YN" * 50
    good, bad = (recognition_sums(labels(truths, "YN" * right + "NY" * (50 - right))) for right in (45, 30))
    alone = paired(bad, good)["Accuracy"]
    # The same task twice is the task itself, and one against its opposite no difference in any resample.
    twice = paired_mean([(bad, good, "Accuracy")] * 2)
    assert (twice.value, twice.low, twice.high) == pytest.approx((alone.value, alone.low, alone.high))
    none = paired_mean([(bad, good, "Accuracy"), (good, bad, "Accuracy")])
    assert (none.value, none.low, none.high, none.p) == pytest.approx((0, 0, 0, 1))
    # Of a task that is asked of some of the videos, those resamples count that hold them.
    part = [recognition_sums(labels("Y" * 30, "Y" * right + "N" * (30 - right))) for right in (10, 20)]
    both = paired_mean([(bad, good, "Accuracy"), (*part, "Accuracy")])
    assert both.value == pytest.approx((0.3 + 1 / 3) / 2) and 0 < both.low < both.value < both.high
    with pytest.raises(ValueError, match="expected some questions"):
        paired_mean([])


def test_errors_in_seconds_are_compared_on_what_both_answered():
    def answers(starts: list[float | None]) -> list[dict]:
        return [
            {"video_path": str(n), "gt_start": 1.0, "gt_end": 3.0, "pred_start": start, "pred_end": start}
            for n, start in enumerate(starts)
        ]

    # Of the base only one answer parses, and it is far off; on that video the other is off by half a second.
    base = interval_sums(answers([9.0, *[None] * 9]))
    other = interval_sums(answers([1.5, *[1.0] * 9]))
    difference = paired(base, other)["start_MAE"]
    assert difference.over == 1 and difference.value == pytest.approx(0.5 - 8.0)
    assert paired(base, other)["mIoU"].over is None
    nothing = interval_sums(answers([None] * 10))
    assert "start_MAE" not in paired(nothing, other)


def test_runs_of_one_strategy_are_one_row_with_mean_spread_and_a_wider_interval():
    truths = "YN" * 100
    rights = (90, 70, 50)
    runs = [recognition_sums(labels(truths, "YN" * right + "NY" * (100 - right))) for right in rights]
    pooled = joined(runs)
    assert pooled.metrics()["Accuracy"] == pytest.approx(0.7)
    assert pooled.metrics()["macro_f1"] == pytest.approx(np.mean([run.metrics()["macro_f1"] for run in runs]))
    assert pooled.metrics()["num_records"] == 600 and pooled.metrics()["confusion"]["Yes"]["Yes"] == 210
    assert pooled.spread()["Accuracy"] == pytest.approx(0.2)
    low, high = intervals(pooled)["Accuracy"]
    alone = intervals(runs[1])["Accuracy"]
    assert low < alone[0] and high > alone[1] and high - low > 0.3
    # Three times the same run is one run.
    same = joined([runs[1]] * 3)
    assert intervals(same)["F1"] == pytest.approx(intervals(runs[1])["F1"])
    assert same.spread()["Accuracy"] == pytest.approx(0) and runs[1].spread() == {}
    assert paired(runs[1], same)["Accuracy"].p == 1
    # One good and two bad seeds are no proof that a strategy is better than another in between.
    assert not paired(runs[1], joined([runs[0], runs[1], runs[2]]))["Accuracy"].significant
    with pytest.raises(ValueError, match="not asked the same questions"):
        joined([runs[0], recognition_sums(labels(truths[:-2], truths[:-2]))])


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
    assert intervals(refusals, "released") == {} and intervals(refusals)["Accuracy"] == wilson(0.0, 2)
    assert intervals(recognition_sums([])) == {}
    text = text_sums([{"video_path": "a", "gt": "a b", "pred": "a b"}], "gt", "pred")
    assert "METEOR" not in intervals(text) and intervals(text)["rouge1_f"] == wilson(1.0, 1)
    # Where no answer has an error in seconds in some resamples, the others give the interval.
    times = [
        {"video_path": n, "gt_start": 1.0, "gt_end": 2.0, "pred_start": s, "pred_end": s}
        for n, s in (("a", None), ("b", 1.5))
    ]
    assert intervals(interval_sums(times))["start_MAE"] == (0.5, 0.5)


def test_paired_differences():
    truths = "YN" * 50
    weak, strong = labels(truths, "YYNN" * 25), labels(truths, "YN" * 45 + "NY" * 5)
    found = paired(recognition_sums(weak), recognition_sums(strong))["Accuracy"]
    assert found.value == pytest.approx(0.4) and found.low < 0.4 < found.high and found.low > 0.2
    assert found.p == pytest.approx(2 / 10_001) and found.at_floor
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
