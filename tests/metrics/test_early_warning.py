"""Figures of warnings: held against scikit-learn and against loops that say the same in another way."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from crashchat.metrics.bootstrap import intervals, paired
from crashchat.metrics.early_warning import early_warning_sums
from crashchat.tasks.early_warning import EarlyWarning

KIND = EarlyWarning(kind="early_warning", before="start", window=1.5)
NAMED = EarlyWarning(
    kind="early_warning", before="start", window=1.5, reasons=["rear-end", "fall"], reason_from="crash_kind"
)
START, SECONDS = 4.0, 6.0


def record(clip, end, start, probability, said=None, reason=None):
    soon = start is not None and start - end <= KIND.horizon + 1e-6
    label = "Yes" if (probability >= 0.5 if said is None else said) else "No"
    found = {
        "video_path": f"data/videos/{clip}.mp4#t={end - 1.5:g},{end:g}",
        "gt_label": "Yes" if soon else "No",
        "pred_label": label,
        "gt_reason": "fall" if soon else "none",
        "pred_reason": (reason or "fall") if label == "Yes" else "none",
        "crash_probability": probability,
    }
    return found if start is None else {**found, "crash_start": start}


def clip(name, start, probability, **said):
    """The records of a clip; probability: of a window's end."""
    return [record(name, end, start, probability(end), **said) for _, end in KIND.windows(SECONDS, start)]


def some_clips(seed, count=30):
    draw = np.random.default_rng(seed)
    records = []
    for number in range(count):
        start = float(draw.integers(25, 60)) / 10 if number % 2 else None
        lift = draw.normal(1.0, 1.0)
        records += clip(
            f"c{number}",
            start,
            lambda end, start=start, lift=lift: float(
                1 / (1 + np.exp(-(draw.normal() + (lift * 2 / (0.4 + start - end) if start else 0.0))))
            ),
        )
    return records


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_scikit_learn_s_each_clip_counted_once(seed):
    records = some_clips(seed)
    figures = early_warning_sums(records, KIND).metrics()
    for lead in KIND.lead_times:
        truth, scores, weights = [], [], []
        for one in records:
            name, _, span = one["video_path"].partition("#t=")
            end, start = float(span.split(",")[1]), one.get("crash_start")
            if start is None:
                truth.append(0)
                weights.append(1 / sum(other["video_path"].startswith(name + "#") for other in records))
            elif abs(start - end - lead) < 1e-6:
                truth.append(1)
                weights.append(1.0)
            else:
                continue
            scores.append(one["crash_probability"])
        expected = average_precision_score(truth, scores, sample_weight=weights)
        # Thresholds are 0.2 of log-odds apart.
        assert figures[f"AP@{lead:g}s"] == pytest.approx(expected, abs=0.03)
    assert figures["mAP"] == pytest.approx(np.mean([figures[f"AP@{lead:g}s"] for lead in KIND.lead_times]))


def test_one_who_knows_and_one_who_always_warns():
    def of(probability):
        records = [one for n in range(6) for one in clip(f"crash{n}", START, probability(True))]
        records += [one for n in range(6) for one in clip(f"calm{n}", None, probability(False))]
        return early_warning_sums(records, KIND).metrics()

    knows = of(lambda crash: lambda end: 0.9 if crash and START - end <= 1.5 else 0.1)
    assert knows["mAP"] == knows["right_time"] == 1.0
    assert knows["TTA@R80"] == pytest.approx(1.5) and knows["alarms/h@R80"] == 0
    always = of(lambda _: lambda _: 0.9)
    assert always["mAP"] == pytest.approx(0.5), "as many clips with a crash as without"
    assert always["right_time"] == 0.0, "it warned from the first window on"
    assert always["TTA@R80"] == pytest.approx(START - 1.5), "the first window ends at 1.5 s"
    windows = len(list(KIND.windows(SECONDS, None)))
    assert always["alarms/h@R80"] == pytest.approx(3600 / (windows * 0.5)), "windows in a row are one alarm"
    never = of(lambda _: lambda _: 0.1)
    assert never["right_time"] == 0.0 and never["mAP"] == pytest.approx(0.5)


def test_alarms_that_come_and_go_are_counted_each():
    times = {1.5: 0.9, 2.0: 0.9, 3.0: 0.9, 5.0: 0.9}
    records = clip("calm", None, lambda end: times.get(end, 0.1)) + clip("crash", START, lambda _: 0.9)
    figures = early_warning_sums(records, KIND).metrics()
    hours = len(list(KIND.windows(SECONDS, None))) * 0.5 / 3600
    assert figures["alarms/h@R80"] == pytest.approx(3 / hours)


def test_right_time_and_right_reason_are_both_needed():
    def soon(end):
        return 0.9 if START - end <= 1.5 else 0.1

    records = clip("right", START, soon) + clip("calm", None, lambda _: 0.1)
    records += clip("wrong reason", START, soon, reason="rear-end")
    records += clip("too early", START, lambda end: 0.9 if START - end <= 2.0 else 0.1)
    records += clip("never", START, lambda _: 0.1)
    figures = early_warning_sums(records, NAMED).metrics()
    assert figures["right_time"] == 0.5 and figures["joint"] == 0.25
    assert "joint" not in early_warning_sums(records, KIND).metrics()


def test_answers_without_probability_are_all_or_nothing_and_faults_are_no_warning():
    records = clip("crash", START, lambda end: 0.9 if START - end <= 1.0 else 0.1)
    records += clip("calm", None, lambda _: 0.1)
    for one in records:
        del one["crash_probability"]
    figures = early_warning_sums(records, KIND).metrics()
    assert figures["num_without_probability"] == len(records) and figures["AP@1s"] == 1.0
    assert figures["AP@1.5s"] == pytest.approx(0.5) and figures["TTA@R80"] == pytest.approx(1.0)
    for one in records[:-1]:
        one["error"], one["pred_label"] = "cannot be read", None
    figures = early_warning_sums(records, KIND).metrics()
    assert figures["num_failed"] == len(records) - 1 and figures["right_time"] == 0


def test_what_cannot_be_scored_is_counted():
    records = clip("crash", START, lambda _: 0.9)
    whole = {**records[0], "video_path": "data/videos/crash.mp4"}
    lost = {key: value for key, value in records[-1].items() if key != "crash_start"} | {
        "video_path": "data/videos/lost.mp4#t=0,1.5"
    }
    figures = early_warning_sums([*records, whole, lost], KIND).metrics()
    assert figures["num_no_part"] == figures["missing_video_count"] == 1
    assert figures["AP@1s"] is None, "no clip without a crash"
    known = early_warning_sums([*records, lost], KIND, {"lost.mp4": 2.0}).metrics()
    assert known["missing_video_count"] == 0 and known["crash_count"] == 2
    nothing = early_warning_sums([], KIND).metrics()
    assert nothing["mAP"] is None and nothing["num_records"] == 0


def test_a_clip_s_windows_are_drawn_together_and_two_models_are_compared_by_clip():
    records = some_clips(7)
    sums = early_warning_sums(records, KIND)
    assert sorted(sums.videos) == sorted({one["video_path"].split("/")[-1].split("#")[0] for one in records})
    ranges = intervals(sums)
    assert ranges["mAP"][0] < sums.metrics()["mAP"] < ranges["mAP"][1]
    worse = [one | {"crash_probability": 1 - one["crash_probability"]} for one in records]
    found = paired(early_warning_sums(worse, KIND), sums)
    assert found["mAP"].value > 0 and found["mAP"].p < 0.05
