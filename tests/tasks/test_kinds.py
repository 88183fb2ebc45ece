"""Kinds of answers: what texts are read as, how values are written, and that nothing makes them raise."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from crashchat.tasks.early_warning import EarlyWarning
from crashchat.tasks.kinds import Choice, Choices, Sentence, Text, YesNo
from crashchat.tasks.quantities import Interval, Intervals, Moment, Number
from crashchat.tasks.records import AnyKind, Record

OPTIONS = ["rear-end", "side crash", "crash", "no crash"]
CHOICE = Choice(kind="choice", options=OPTIONS)
LETTERED = Choice(kind="choice", options=OPTIONS, lettered=True)
USERS = Choices(kind="choices", options=["car", "truck", "pedestrian"])
SENTENCE = Sentence(kind="sentence", options=["The car ahead brakes.", "A pedestrian crosses."])
COUNT = Number(kind="number", whole=True, highest=12)
SPEED = Number(kind="number", unit="km/h", highest=300, tolerance=5)
STRETCHES = Intervals(kind="intervals")
RECORD = Record(
    kind="record", parts={"users": USERS, "count": COUNT, "kind": CHOICE, "when": Interval(kind="interval")}
)
EVERY = [
    YesNo(kind="yes_no"), CHOICE, LETTERED, USERS, SENTENCE, Text(kind="text"), COUNT, SPEED,
    Moment(kind="moment"), Interval(kind="interval"), STRETCHES, RECORD,
    EarlyWarning(kind="early_warning", before="a", reasons=OPTIONS[:2], reason_from="b"),
]  # fmt: skip

READ = [
    (CHOICE, "rear-end", "rear-end"),
    (CHOICE, " Rear-End. ", "rear-end"),
    (CHOICE, "It is a side crash.", "side crash"),  # not `crash`, which stands in it
    (CHOICE, "The answer is: no crash", "no crash"),
    (CHOICE, "rear-end or side crash", None),
    (CHOICE, "This is not a rear-end collision.", None),
    (CHOICE, "I cannot tell.", None),
    (CHOICE, "A", None),  # no letters were offered
    (LETTERED, "B", "side crash"),
    (LETTERED, "(b)", None),
    (LETTERED, "(B)", "side crash"),
    (LETTERED, "Answer: B. side crash", "side crash"),
    (LETTERED, "The correct answer is D", "no crash"),
    (LETTERED, "B) rear-end", None),  # letter and words disagree
    (LETTERED, "A or B", None),
    (LETTERED, "E", None),
    (LETTERED, "A car brakes.", None),
    (LETTERED, "rear-end", "rear-end"),
    (USERS, "car, pedestrian", ["car", "pedestrian"]),
    (USERS, "A pedestrian and a CAR.", ["car", "pedestrian"]),
    (USERS, "No pedestrian, one car", ["car"]),
    (USERS, "none", []),
    (USERS, "I see a bus", None),
    (SENTENCE, "the car ahead brakes", "The car ahead brakes."),
    (SENTENCE, "I think: A pedestrian crosses. ", "A pedestrian crosses."),
    (SENTENCE, "The car ahead brakes. A pedestrian crosses.", None),
    (COUNT, "3", 3.0),
    (COUNT, "There are two vehicles.", 2.0),
    (COUNT, "2 or 3", None),
    (COUNT, "2.5", None),
    (COUNT, "13", None),
    (SPEED, "about 50 km/h", 50.0),
    (SPEED, "In the 10 s clip it drives 1,200 m at 72.5 km/h", 72.5),
    (SPEED, "-3 km/h", None),
    (STRETCHES, "1.0 - 2.0 seconds; 3.5 - 4.0 seconds", [[1.0, 2.0], [3.5, 4.0]]),
    (STRETCHES, "4 to 3 s", [[3.0, 4.0]]),
    (STRETCHES, "None", []),
    (STRETCHES, "at the start", None),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "value"), READ)
def test_answers_are_read_as_people_mean_them(kind, text, value):
    assert kind.parse(text) == (None if value is None else {kind.fields[0]: value})


def test_a_record_is_read_from_json_and_around_it():
    said = '{"users": ["car", "truck"], "count": 2, "kind": "B-movie", "when": "1.0 - 2.5 seconds"}'
    read = {"users": ["car", "truck"], "count": 2.0, "kind": None, "when": [1.0, 2.5]}
    for text in (said, f"```json\n{said}\n```", f"Here it is: {said} I hope it helps."):
        assert RECORD.parse(text) == {"record": read}
    assert RECORD.parse("[1]") is None and RECORD.parse('{"other": 1}') is None
    with pytest.raises(ValueError, match="no answer, or none that parses, in kind"):
        RECORD.truth(said)


PIECES = [*OPTIONS, *USERS.options, *SENTENCE.options, "Yes", "No", " ", ", ", "not ", "A", "(B)", "{", "}",
'"count": ',
          "1.5", " - ", "seconds", "km/h", "9" * 400, "1:02", "none", "```", "\0", "٣"]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.text() | st.lists(st.sampled_from(PIECES)).map("".join))
def test_no_text_makes_a_kind_raise_and_what_it_reads_a_record_may_hold(text):
    for kind in EVERY:
        values = kind.parse(text)
        if values is not None:
            assert tuple(values) == kind.fields
            assert all(map(kind.holds, values.values())) and json.dumps(values, allow_nan=False)
            assert kind.shown(values)


VALUES = {
    YesNo: st.sampled_from(["Yes", "No"]),
    Choice: st.sampled_from(OPTIONS),
    Choices: st.lists(st.sampled_from(USERS.options), unique=True).map(lambda few: sorted(few,
    key=USERS.options.index)), Sentence: st.sampled_from(SENTENCE.options),
    Number: st.integers(0, 12).map(float),
    Moment: st.integers(0, 999).map(lambda tenths: tenths / 10),
    Intervals: st.lists(
        st.tuples(st.integers(0, 99), st.integers(0, 99)).map(lambda ends: sorted(end / 10 for end in ends)),
        max_size=4
    ).map(sorted),
}  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_written_is_read_again_and_is_of_the_pattern(data):
    import regex

    for kind in EVERY:
        if type(kind) not in VALUES:
            continue
        value = data.draw(VALUES[type(kind)])
        text = kind.write(value)
        assert kind.truth(text) == {kind.fields[0]: value} == kind.parse(text)
        if pattern := kind.pattern(99.9):
            assert regex.fullmatch(pattern, text), (pattern, text)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "choice", "options": ["a"]}, "at least 2 items"),
        ({"kind": "choice", "options": ["a", "A."]}, "differ in more than case"),
        ({"kind": "choice", "options": [str(n) for n in range(30)], "lettered": True}, "26 at most"),
        ({"kind": "number", "lowest": 3, "highest": 2}, "is not below"),
        ({"kind": "record", "parts": {"a": {"kind": "moment", "before": "b"}}}, "scored by its distance"),
        ({"kind": "poem"}, "poem"),
        ({"kind": "text", "options_": "x"}, "Extra inputs"),
    ],
)
def test_kinds_that_cannot_be_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TypeAdapter(AnyKind).validate_python(values)
