"""Warnings before a crash: which windows a clip has, what is true of each, and the command that cuts them."""

import json
import shutil
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crashchat.config import CONFIG_DIR
from crashchat.parts import file_of, part_name, span_of, whole_name
from crashchat.tasks import TaskSet, TaskSetError
from crashchat.tasks.early_warning import EarlyWarning
from tests.helpers.commands import crashchat

EXAMPLE = CONFIG_DIR / "tasks" / "early_warning.yaml"
PLAIN = EarlyWarning(kind="early_warning", before="start")
NAMED = EarlyWarning(
    kind="early_warning", before="start", reasons=["rear-end", "fall"], reason_from="crash_kind"
)
TENTHS = st.integers(1, 300).map(lambda tenths: tenths / 10)


@settings(max_examples=200, deadline=None)
@given(seconds=TENTHS, start=st.none() | TENTHS, window=st.sampled_from([1.0, 1.5, 2.5]))
def test_windows_end_before_the_crash_and_at_every_lead_time(seconds, start, window):
    kind = EarlyWarning(kind="early_warning", before="start", window=window)
    found = list(kind.windows(seconds, start))
    ends = [end for _, end in found]
    assert all(first >= 0 and end - first == pytest.approx(window) for first, end in found)
    assert all(end <= seconds + 1e-6 for end in ends)
    assert [b - a for a, b in pairwise(ends)] == pytest.approx([0.5] * (len(ends) - 1))
    if start is None:
        assert bool(found) == (seconds >= window - 1e-6)
        assert not found or ends[-1] == pytest.approx(seconds)
        return
    assert all(end <= start - kind.every + 1e-6 for end in ends)
    for lead in kind.lead_times:
        there = any(end == pytest.approx(start - lead) for end in ends)
        if start <= seconds:
            assert there == (start - lead - window >= -1e-6)
    for end in ends:
        assert kind.answer_at(end, start) == ("Yes" if start - end <= 1.5 + 1e-6 else "No")
        assert kind.answer_at(end, None) == "No"


@pytest.mark.parametrize(
    ("kind", "text", "values"),
    [
        (PLAIN, "Yes.", {"label": "Yes"}),
        (PLAIN, "No, all is calm", {"label": "No"}),
        (PLAIN, "perhaps", None),
        (NAMED, "yes, Rear-End.", {"label": "Yes", "reason": "rear-end"}),
        (NAMED, "No", {"label": "No", "reason": "none"}),
        (NAMED, "Yes", None),
        (NAMED, "Yes, a meteor", None),
    ],
)
def test_answers_are_read_strictly(kind, text, values):
    assert kind.parse(text) == values


def test_what_is_written_is_read_again():
    for kind in (PLAIN, NAMED):
        for text in kind.candidates:
            values = kind.parse(text)
            assert tuple(values) == kind.fields and kind.write(list(values.values())) == text
    assert NAMED.candidates == ("No", "Yes, rear-end", "Yes, fall")


@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("videos/a.mp4", None),
        ("videos/a.mp4#t=1.5,4", (1.5, 4.0)),
        ("videos/a.mp4#t=0,0.25", (0.0, 0.25)),
        ("videos/a.mp4#t=1.5", None),
        ("videos/a#1.mp4", None),
        ("#t=1,2", None),
        ("a.mp4#t=٣,4", None),  # no ASCII digit
    ],
)
def test_parts_are_named_as_web_addresses_name_them(name, span):
    assert span_of(name) == span
    assert whole_name(name) == (name.split("#t=")[0] if span else name) == str(file_of(name))
    if span:
        assert part_name(whole_name(name), *span) == name


def test_a_part_that_ends_before_it_begins_is_refused():
    with pytest.raises(ValueError, match="does not end behind its start"):
        span_of("a.mp4#t=4,1.5")


HEAD = """name: mine
file_prefix: mine
tasks:
  - {name: crash, title: a, group: a, answer: {kind: yes_no}, fact: crash, prompt: a}
  - {name: kind, title: b, group: a, answer: {kind: choice, options: [fall, other]}, prompt: b}
  - {name: start, title: c, group: a, answer: {kind: moment}, prompt: c}
  - {name: soon, title: d, group: a, prompt: d, answer: {kind: early_warning, ANSWER}}
"""


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("before: nothing", "line 7: soon: answer: before: found nothing, expected a task before this one"),
        ("before: crash", "whose answers are intervals or moments"),
        ("before: start, every: 0.4", "lead_times: found 0.5, expected multiples of every=0.4"),
        ("before: start, reasons: [fall, car]", "need reason_from"),
        ("before: start, reason_from: kind", "needs reasons"),
        ("before: start, reasons: [fall, car], reason_from: kind", "has all the reasons among its options"),
        ("before: start, reasons: [fall, none], reason_from: kind", "none of them empty or 'none'"),
    ],
)
def test_a_warning_that_does_not_go_with_its_set_is_an_error_with_file_and_line(tmp_path, answer, message):
    path = tmp_path / "mine.yaml"
    path.write_text(HEAD.replace("ANSWER", answer))
    with pytest.raises(TaskSetError) as error:
        TaskSet(path)
    assert message in str(error.value) and str(path) in str(error.value)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warning") / "data"
    crashchat("synthesize", "--out", folder, "--train", 6, "--val", 0, "--test", 0, "--workers", 1,
              "--task-set", EXAMPLE)  # fmt: skip
    return folder


def test_cut_from_annotations_the_windows_are_those_of_the_drawn_world(drawn, tmp_path):
    folder, name = tmp_path / "data", "warning_crash_warning_train.json"
    shutil.copytree(drawn, folder)
    (folder / name).unlink()
    told = crashchat("cut-warnings", folder, "--task-set", EXAMPLE, "--split", "train", "--workers", 1)
    own, cut = (json.loads((path / name).read_text()) for path in (drawn, folder))
    known = {"video", "conversations", "source"}
    assert cut == [{key: value for key, value in record.items() if key in known} for record in own]
    answers = [record["conversations"][1]["value"] for record in cut]
    yes = sum(answer.startswith("Yes, ") for answer in answers)
    assert f"{len(cut)} windows of 6 clips, {yes} of them Yes" in told and 0 < yes < len(cut)
    told = crashchat("check-data", folder, "--task-set", EXAMPLE, "--split", "train", "--workers", 1)
    assert "0 errors, 0 notes" in told


def test_what_cannot_be_cut_is_named(drawn, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(drawn, folder)
    assert "no task's answers are of the kind early_warning" in crashchat("cut-warnings", folder, ok=False)
    words = ["cut-warnings", folder, "--task-set", EXAMPLE, "--workers", 1]
    kinds = json.loads((folder / "warning_crash_kind_train.json").read_text())
    for record in kinds:
        record["conversations"][1]["value"] = "no crash"
    (folder / "warning_crash_kind_train.json").write_text(json.dumps(kinds))
    assert "crash_kind is 'no crash', expected one of rear-end" in crashchat(*words, ok=False)
    for clip in (folder / "videos").iterdir():
        clip.write_bytes(b"")
    assert "6 clip(s) cannot be read" in crashchat(*words, ok=False)
    (folder / "warning_crash_start_train.json").unlink()
    assert "warning_crash_start_train.json: not there" in crashchat(*words, ok=False)


def test_parts_of_one_clip_in_two_splits_are_a_leak(drawn, tmp_path):
    folder, name = tmp_path / "data", "warning_crash_warning_{}.json"
    shutil.copytree(drawn, folder)
    records = json.loads((folder / name.format("train")).read_text())
    (folder / name.format("train")).write_text(json.dumps(records[:-1]))
    (folder / name.format("test")).write_text(json.dumps(records[-1:]))
    told = crashchat("check-data", folder, "--task-set", EXAMPLE, "--no-videos", "--all", ok=False)
    clip = whole_name(records[-1]["video"][0])
    assert f"train: {clip}: in train, test: what is learned is tested" in told and told.count(clip) == 1


def test_nexar_s_labels_become_questions_before_the_crash(drawn, tmp_path):
    task_set = tmp_path / "nexar.yaml"
    task_set.write_text(
        (CONFIG_DIR / "tasks" / "nexar.yaml").read_text().replace("window: 10", "window: 1.5")
    )
    clips = sorted(path.name for path in (drawn / "videos").iterdir())[:2]
    table = tmp_path / "train.csv"
    table.write_text(
        f"id,file_name,time_of_event,time_of_alert,target\n1,{clips[0]},3.0,1.25,1\n2,{clips[1]},,,0\n"
    )
    out, named = tmp_path / "nexar", ("--task-set", task_set)
    crashchat(
        "import", "nexar", table, "--videos", drawn / "videos", "--out", out, "--split", "train", *named
    )
    crashchat("cut-warnings", out, *named, "--workers", 1)
    records = json.loads((out / "nexar_crash_warning_train.json").read_text())
    answers = {record["video"][0]: record["conversations"][1]["value"] for record in records}
    crash = {f"videos/{clips[0]}#t={span}": "Yes" for span in ("0,1.5", "0.5,2", "1,2.5")}
    calm = {name: "No" for name in answers if clips[1] in name}
    assert answers == crash | calm and calm
