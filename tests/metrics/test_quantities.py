"""Numbers, moments, several intervals and records: figures by hand, and overlaps against counted tenths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashchat.metrics.localization import interval_iou
from crashchat.metrics.quantities import coverage, intervals_sums, matched, moment_sums, number_sums
from crashchat.metrics.records import is_right, record_sums
from crashchat.tasks.kinds import Choice, Choices, Text, YesNo
from crashchat.tasks.quantities import Interval, Intervals, Moment, Number
from crashchat.tasks.records import Record


def answered(*pairs: tuple, failed: tuple[int, ...] = ()) -> list[dict]:
    """Records of (annotated, predicted) values, each on a video of its own; failed: which of them failed."""
    return [
        {
            "video_path": f"videos/{place}.mp4",
            "truth": truth,
            "answer": answer,
            "error": "no video" if place in failed else None,
        }
        for place, (truth, answer) in enumerate(pairs)
    ]


def test_numbers():
    records = answered((50, 55), (50, 56), (50, 45.0), (50, None), (None, 3), (50, 50), failed=(5,))
    found = number_sums(records, "truth", "answer", tolerance=5)
    assert found.metrics() == pytest.approx(
        {
            "num_records": 6,
            "num_scored": 3,
            "num_unparsed": 1,
            "num_failed": 1,
            "num_no_truth": 1,
            "Accuracy": 2 / 5,
            "MAE": 16 / 3,
        }
    )
    # The released way leaves out what does not parse.
    assert found.metrics("released")["Accuracy"] == pytest.approx(2 / 3)


def test_a_tolerance_is_held_to_the_last_digit_of_a_decimal():
    close = number_sums(answered((0.3, 0.1), (0.3, 0.0999)), "truth", "answer", tolerance=0.2)
    assert close.metrics()["Accuracy"] == 0.5


def test_moments():
    records = answered((2.0, 2.5), (2.0, 2.6), (2.0, 3.0), (2.0, 0.0), (2.0, 4.1), (2.0, None))
    figures = moment_sums(records, "truth", "answer").metrics()
    shares = [figures[name] for name in ("within_0.5s", "within_1s", "within_2s")]
    assert shares == pytest.approx([1 / 6, 3 / 6, 4 / 6])
    assert figures["MAE"] == pytest.approx((0.5 + 0.6 + 1.0 + 2.0 + 2.1) / 5)


def test_several_intervals():
    records = answered(
        ([[1.0, 2.0], [4.0, 6.0]], [[1.0, 2.0], [4.0, 5.0], [8.0, 9.0]]),  # two pairs, one of IoU 0.5
        ([[1.0, 2.0]], [[1.6, 2.6]]),  # an IoU of 0.25
        ([], []),
        ([[1.0, 2.0]], None),
        (None, [[1.0, 2.0]]),
    )
    figures = intervals_sums(records, "truth", "answer").metrics()
    assert figures["num_no_truth"] == figures["num_unparsed"] == 1 and figures["num_scored"] == 3
    assert figures["F1@50"] == pytest.approx(2 * 2 / ((3 + 1 + 0 + 0) + (2 + 1 + 0 + 1)))
    assert figures["coverage_iou"] == pytest.approx((2 / 4 + 0.4 / 1.6 + 1 + 0) / 4)


def test_an_interval_has_one_partner_the_closest():
    assert matched([[0, 10]], [[0, 10], [0, 9]]) == 1
    # The first answer is as good as the second to the first interval, and the only one to the second.
    assert matched([[0, 10], [2, 12]], [[1, 11], [0, 10]]) == 2
    assert matched([[0, 10]], [[0, 4.9]]) == 0 == matched([[0, 10]], [])
    assert coverage([[3, 1]], [[1, 3]]) == 1, "ends the wrong way round are put right"


STRETCHES = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda ends: [end / 10 for end in sorted(ends)]),
    max_size=4,
)


@settings(max_examples=200, deadline=None)
@given(STRETCHES, STRETCHES)
def test_covered_time_is_that_of_the_tenths_counted(truth, answer):
    def tenths(stretches: list) -> set[int]:
        return {at for start, end in stretches for at in range(round(10 * start), round(10 * end))}

    first, second = tenths(truth), tenths(answer)
    either = len(first | second)
    expected = len(first & second) / either if either else float(not truth and not answer)
    assert coverage(truth, answer) == pytest.approx(expected) == coverage(answer, truth)
    pairs = matched(truth, answer)
    assert pairs <= min(len(truth), len(answer))
    assert (pairs > 0) == any(interval_iou(tuple(a), tuple(b)) >= 0.5 for a in truth for b in answer)


RECORD = Record(
    kind="record",
    parts={
        "crash": YesNo(kind="yes_no"),
        "users": Choices(kind="choices", options=["car", "truck"]),
        "kind": Choice(kind="choice", options=["rear-end", "fall"]),
        "note": Text(kind="text"),
        "count": Number(kind="number", tolerance=1),
        "sign": Moment(kind="moment"),
        "when": Interval(kind="interval"),
        "stops": Intervals(kind="intervals"),
    },
)
TRUTH = {
    "crash": "Yes", "users": ["car", "truck"], "kind": "fall", "note": "It rains.", "count": 2.0,
    "sign": 1.0, "when": [1.0, 3.0], "stops": [[0.0, 1.0], [5.0, 6.0]],
}  # fmt: skip
RIGHT = TRUTH | {
    "note": "it  rains", "count": 3.0, "sign": 2.0, "when": [1.0, 2.0], "stops": [[0.0, 1.0]],
}  # fmt: skip
WRONG = {
    "crash": "No", "users": ["car"], "kind": "rear-end", "note": "It snows.", "count": 3.5,
    "sign": 2.2, "when": [2.1, 3.0], "stops": [[0.0, 0.9]],
}  # fmt: skip


@pytest.mark.parametrize("part", RECORD.parts)
def test_a_part_is_right_by_its_own_kind(part):
    kind = RECORD.parts[part]
    assert is_right(kind, TRUTH[part], TRUTH[part]) and is_right(kind, TRUTH[part], RIGHT[part])
    assert not is_right(kind, TRUTH[part], WRONG[part]) and not is_right(kind, TRUTH[part], None)


def test_records():
    lacking = {name: value for name, value in TRUTH.items() if name != "note"}
    records = answered(
        (TRUTH, RIGHT),
        (TRUTH, WRONG | {"crash": "Yes", "count": 1.0}),
        (TRUTH, {"crash": "Yes"}),  # the other parts did not parse
        (TRUTH, None),
        (None, RIGHT),
        (lacking, RIGHT),
        (TRUTH, RIGHT),
        failed=(6,),
    )
    figures = record_sums(records, "truth", "answer", RECORD).metrics()
    counts = {name: value for name, value in figures.items() if name.startswith("num_")}
    assert counts == {
        "num_records": 7, "num_scored": 3, "num_unparsed": 1, "num_failed": 1, "num_no_truth": 2,
    }  # fmt: skip
    assert figures["parts_right"] == pytest.approx((8 + 2 + 1) / 8 / 5)
    assert figures["all_right"] == pytest.approx(1 / 5)
    assert figures["part_crash"] == pytest.approx(3 / 5) and figures["part_count"] == pytest.approx(2 / 5)
    assert figures["part_when"] == pytest.approx(1 / 5)
