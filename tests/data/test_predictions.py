import json
import subprocess
import sys
from pathlib import Path

import pytest

from crashchat.config import ROOT
from crashchat.data.journals import PredictionJournal, done_ids, find_journals, journal_path, merge_journals
from crashchat.data.predictions import (
    PredictionError,
    constant_answer,
    make_record,
    prediction_path,
    read_predictions,
)
from crashchat.tasks import TASKS

RECOGNITION, LOCALIZATION = TASKS["crash_recognition"], TASKS["crash_localization"]


def record(data_id: int, response: str = "Yes", answer: str = "Yes", task=RECOGNITION, **extra) -> dict:
    return make_record(
        task,
        data_id,
        video_path=f"data/videos/{data_id}.mp4",
        prompt=task.prompt,
        raw_response=response,
        answer=answer,
        **extra,
    )


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value))
    return path


def test_path_is_the_released_one():
    name = "crashchat_dada_video_total_causal_reasoning_test_predict.json"
    expected = f"outputs/causal_reasoning_evaluation_results/m/{name}"
    assert prediction_path("outputs", "causal_reasoning", "m") == Path(expected)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_record_has_the_fields_of_the_golden_files(task, shared, tmp_path):
    golden = json.loads((shared / "golden/metrics" / f"{task.name}_predict.json").read_text())[0]
    answer = {"crash_localization": "3.9 - 5.0 seconds", "pre_crash_localization": "2.4 seconds"}.get(
        task.name, task.negative_answer
    )
    made = make_record(
        task,
        0,
        video_path=golden["video_path"],
        prompt="",
        raw_response=golden["raw_response"],
        answer=answer,
        source=golden["source"],
    )
    assert list(made) == list(golden)
    assert made == golden
    assert read_predictions(write(tmp_path / "p.json", [made]), task.name) == [made]


def test_what_does_not_parse_or_failed_is_none():
    assert record(0, "I cannot tell.", "1.0 - 2.0 seconds", LOCALIZATION)["pred_start"] is None
    # A number too long for a float is read as infinity, which is no time.
    assert record(0, f"{'9' * 400} - 1.0", "1.0 - 2.0 seconds", LOCALIZATION)["pred_end"] is None
    failed = record(0, "Yes", error="data/videos/0.mp4: no video stream", crash_start=1.5)
    assert (failed["raw_response"], failed["pred_label"]) == ("", None)
    assert failed["error"] == "data/videos/0.mp4: no video stream" and failed["crash_start"] == 1.5


def test_constant_answer():
    records = [record(0), record(1, error="gone")]
    assert [r["pred_label"] for r in constant_answer(RECOGNITION, records)] == ["No", "No"]
    assert "error" not in constant_answer(RECOGNITION, records)[1] and "error" in records[1]
    where = [record(0, "1.0 - 2.0 seconds", "1.0 - 2.0 seconds", LOCALIZATION)]
    assert constant_answer(LOCALIZATION, where)[0]["pred_start"] is None
    assert constant_answer(LOCALIZATION, where, "0.0 - 5.0 seconds")[0]["pred_end"] == 5.0


GOOD = {
    "data_id": 0,
    "video_path": "v.mp4",
    "prompt": "",
    "raw_response": "1.0 - 2.5",
    "gt_start": 1,
    "gt_end": 2,
}
GOOD |= {"pred_start": 1.0, "pred_end": 2.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[{", "not JSON"),
        (b"\xff\xfe\x00", "not JSON"),
        (b"{}", "JSON dict, expected a list"),
        (b"[]", "no records"),
        (b"[3]", "entry 0 is a int"),
        ([{**GOOD, "gt_start": "1.0"}], "gt_start = '1.0', expected a number or null"),
        ([{**GOOD, "pred_end": True}], "pred_end = True"),
        ([{**GOOD, "video_path": None}], "video_path = None, expected a text"),
        ([{**GOOD, "data_id": [1]}], "data_id"),
        ([GOOD, {k: v for k, v in GOOD.items() if k != "pred_end"}], "record 1 .* lacks pred_end"),
        ([GOOD, GOOD], "data_ids occur more than once"),
        ([GOOD, {**GOOD, "data_id": 1}], "1 videos occur more than once"),
        (
            [GOOD, {**GOOD, "data_id": 1, "video_path": "w.mp4", "prompt": "?"}],
            "mixes answers of several runs: 2 prompts",
        ),
        (
            [{**GOOD, "model": "a"}, {**GOOD, "data_id": 1, "video_path": "w.mp4", "model": "b"}],
            "mixes answers of several runs: 2 models .*'a', 'b'",
        ),
        (b"", r"is empty \(0 bytes\)"),
        (b"[" * 100_000, "nested too deeply"),
        ([{**GOOD, "raw_response": float("-inf")}], "raw_response = -inf, expected a text"),
        ([{**GOOD, "raw_response": {"a": 1}}], "raw_response = {'a': 1}, expected a text"),
        ([{**GOOD, "crash_probability": 3.5}], "crash_probability = 3.5, expected 0 to 1"),
        ([{**GOOD, "crash_probability": {}}], "crash_probability = {}, expected a number"),
        ([{**GOOD, "crash_probability": float("nan")}], "crash_probability = nan, expected 0 to 1"),
        ([{**GOOD, "gt_end": 10**400}], "gt_end = 1000.*, expected a number"),
        ([{**GOOD, "data_id": True}], "data_id"),
        ([{**GOOD, "prompt": 5}], "prompt = 5, expected a text"),
        (
            [{**GOOD, "pred_end": "x" * 100_000}],
            r"pred_end = 'x{119}… \(100,002 characters\), expected a number",
        ),
        ([record(0)], "holds crash_recognition predictions, expected crash_localization"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "bad.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(PredictionError, match=message) as caught:
        read_predictions(path, "crash_localization")
    assert str(path) in str(caught.value)


def test_missing_file_and_unknown_fields(tmp_path):
    with pytest.raises(PredictionError, match="none.json: cannot be read"):
        read_predictions(tmp_path / "none.json")
    with pytest.raises(PredictionError, match="none of the tasks"):
        read_predictions(write(tmp_path / "p.json", [{"data_id": 1}]))
    assert read_predictions(write(tmp_path / "p.json", [GOOD])) == [GOOD]


def test_journal_resumes_after_a_kill_and_merges(tmp_path):
    final, run = tmp_path / "model [1]" / "x_predict.json", {"model": "m"}
    final.parent.mkdir()
    # The process dies without closing anything, as a killed one does.
    script = """
import os, sys
from crashchat.data.journals import PredictionJournal, journal_path
journal = PredictionJournal(journal_path(sys.argv[1], 0), {"model": "m"})
for data_id in (4, 0, 2):
    journal.append({"data_id": data_id, "raw_response": "n\\u00e3o\\n\\r\\u2028"})
os._exit(9)
"""
    killed = subprocess.run([sys.executable, "-c", script, str(final)], cwd=ROOT)
    assert killed.returncode == 9
    first = journal_path(final, 0)
    whole = first.read_bytes()
    for cut in (1, 7):  # without its line end, and in the middle of the last record
        first.write_bytes(whole[:-cut])
        assert done_ids(final, run) == {4, 0}
        with PredictionJournal(first, run) as journal:
            assert journal.done == {4, 0} and len(journal.records) == 2
            journal.append({"data_id": 2, "raw_response": "n\u00e3o\n\r\u2028"})
            with pytest.raises(PredictionError, match="already in the journal"):
                journal.append({"data_id": 2})
        assert first.read_bytes() == whole
    with PredictionJournal(journal_path(final, 1), run) as journal:
        journal.append({"data_id": 1, "raw_response": "Yes"})
    assert done_ids(final, run) == {0, 1, 2, 4}
    with pytest.raises(PredictionError, match=r"of 5 records 1 are missing \(3\)"):
        merge_journals(find_journals(final), final, expected_ids=range(5))
    assert not final.exists()
    # The same record twice is one record.
    with PredictionJournal(journal_path(final, 2), run) as journal:
        journal.append({"data_id": 1, "raw_response": "Yes"})
        journal.append({"data_id": 3, "raw_response": "No"})
    merged = merge_journals(find_journals(final), final, expected_ids=range(5))
    assert [r["data_id"] for r in merged] == [0, 1, 2, 3, 4]
    assert json.loads(final.read_text()) == merged


def test_journal_whose_first_line_was_cut(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"run": nu')
    with PredictionJournal(path) as journal:
        assert journal.done == set()
        journal.append({"data_id": 0})
    with PredictionJournal(path) as journal:
        assert journal.done == {0}


def test_journals_that_contradict_are_refused(tmp_path):
    final = tmp_path / "x.json"
    for rank, answer in enumerate(("Yes", "No")):
        with PredictionJournal(journal_path(final, rank)) as journal:
            journal.append({"data_id": 7, "raw_response": answer})
    with pytest.raises(PredictionError, match="data_id 7 has another answer"):
        merge_journals(find_journals(final), final)
    with pytest.raises(PredictionError, match="no such journal"):
        merge_journals([tmp_path / "none.jsonl"], final)
    with pytest.raises(PredictionError, match="another run"):
        PredictionJournal(journal_path(final, 0), {"model": "other"})
    with pytest.raises(PredictionError, match="another run"):
        done_ids(final, {"model": "other"})
    with PredictionJournal(journal_path(final, 2), {"model": "other"}):
        pass
    with pytest.raises(PredictionError, match="different runs"):
        merge_journals([journal_path(final, 0), journal_path(final, 2)], final)
    assert not final.exists()


def test_journal_damaged_in_the_middle_is_an_error_and_stays(tmp_path):
    path = tmp_path / "a.jsonl"
    content = b'{"run": null}\n{"data_id": 0}\n{"data_\n{"data_id": 2}\n'
    path.write_bytes(content)
    with pytest.raises(PredictionError, match="line 3 is damaged"):
        PredictionJournal(path)
    assert path.read_bytes() == content
