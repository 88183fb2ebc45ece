"""Every way to better a prediction file that we know of, played against `crashchat score` and `compare`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from crashchat.data.annotations import load_annotations
from crashchat.data.datasets import describe_use
from crashchat.data.manifests import manifest_path
from crashchat.data.predictions import make_record, prediction_path
from crashchat.data.truth import read_crash_starts
from crashchat.errors import CrashChatError
from crashchat.evaluation.evaluate import evaluate
from crashchat.evaluation.manifest import Evaluation, weights_hashes
from crashchat.evaluation.score import main as score
from crashchat.evaluation_settings import EvalConfig
from crashchat.files import write_json_atomic
from crashchat.provenance import file_hash
from crashchat.reporting.compare import main as compare
from crashchat.tasks import TASKS

RECOGNITION, INTERVAL, SIGN = "crash_recognition", "crash_localization", "pre_crash_localization"
# What an honest, poor model answers.
ANSWERS = {RECOGNITION: "Yes", INTERVAL: "0.0 - 2.0 seconds", SIGN: "I see none"}


def write_run(folder: Path, data: Path, base: Path) -> Path:
    """The prediction files that an evaluation of `base` would have left, with its manifests."""
    config = EvalConfig(model=base, model_name="m", data_dir=data, output_dir=folder, tasks=list(ANSWERS))
    files = [data / TASKS[name].annotation_file("test") for name in ANSWERS]
    videos = load_annotations(files, data, list(ANSWERS))
    starts = read_crash_starts(data / TASKS[INTERVAL].annotation_file("test"), TASKS[SIGN])
    dataset = describe_use(data, files, videos, "test")
    run = Evaluation(config, dataset, weights_hashes(config))
    for name, answer in ANSWERS.items():
        records = [
            make_record(
                TASKS[name],
                question.data_id,
                video_path=str(video.path),
                prompt=question.text,
                raw_response=answer,
                answer=question.answer,
                source=video.source,
                crash_start=starts.get(video.path.name) if name == SIGN else None,
                model="m",
            )
            for video in videos
            for question in video.questions
            if question.task == name
        ]
        path = prediction_path(folder, name, "m")
        write_json_atomic(path, sorted(records, key=lambda record: record["data_id"]))
        run.state(path, name, len(records))
    return folder


@pytest.fixture
def honest(tiny_data, tiny_base, tmp_path) -> Path:
    return write_run(tmp_path / "run", tiny_data, tiny_base)


def change(folder: Path, task: str, cheat: Callable[[list[dict]], object], manifest: bool = False) -> Path:
    """Play a cheat on the records of a task's file; without `manifest`, its manifest is made away with."""
    path = prediction_path(folder, task, "m")
    records = json.loads(path.read_text())
    made = cheat(records)
    write_json_atomic(path, made if isinstance(made, list) else records)
    if not manifest:
        manifest_path(path).unlink()
    return path


def refusal_of(work: Callable[[list[str]], int], words: list, capsys) -> str:
    """What a command that must refuse says in its one line."""
    assert work([str(word) for word in words]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


def truth_edited(records):
    for record in records:
        record["gt_start"], record["gt_end"] = record["pred_start"], record["pred_end"]


def answers_edited(records):
    for record in records:
        record["pred_start"], record["pred_end"] = record["gt_start"], record["gt_end"]


def answered_in_spite_of_an_error(records):
    records[0] |= {"error": "no such file", "pred_start": records[0]["gt_start"]}


def hard_ones_dropped(records):
    return records[:-1]


def easy_one_again(records):
    path = Path(records[0]["video_path"])
    again = {"data_id": 99, "video_path": str(path.parent / "again" / path.name)}
    return [*records, records[0] | again]


def easy_one_under_another_name(records):
    return [*records, records[0] | {"data_id": 99, "video_path": "videos/another.mp4"}]


def ids_swapped(records):
    records[0]["data_id"], records[1]["data_id"] = records[1]["data_id"], records[0]["data_id"]


def asked_something_else(records):
    for record in records:
        record["prompt"] = "When does the crash happen? It begins after 1.0 seconds."


def source_edited(records):
    records[0]["source"] = "Nexar"


def crash_start_moved(records):
    records[0]["crash_start"] += 1.0


def one_without_model(records):
    del records[0]["model"]


def label_from_no_answer(records):
    calm = next(record for record in records if record["gt_label"] == "No")
    calm |= {"raw_response": "I do not know.", "pred_label": "No"}  # as the released scripts read it


CHEATS = {
    truth_edited: (
        INTERVAL,
        r"2 of 2 records differ from .*_test.json: record 0 .* has gt_start = 0.0, anno",
    ),
    answers_edited: (INTERVAL, r"record 0 \(data_id 0\) has pred_start = .*'0.0 - 2.0 seconds' is read as"),
    answered_in_spite_of_an_error: (INTERVAL, "has an error and yet an answer"),
    hard_ones_dropped: (INTERVAL, r"a partial run: 1 of the 2 questions in .* have no record .*--partial"),
    easy_one_again: (INTERVAL, "1 videos occur more than once"),
    easy_one_under_another_name: (INTERVAL, r"1 records are about videos not in .* \(another.mp4\)"),
    ids_swapped: (INTERVAL, r"2 of 2 records differ .* has data_id = 1, annotated 0"),
    asked_something_else: (INTERVAL, "has prompt = 'When does"),
    source_edited: (RECOGNITION, "has source = 'Nexar', annotated"),
    crash_start_moved: (SIGN, "1 of 2 records differ .* has crash_start = "),
    one_without_model: (INTERVAL, r"1 of 2 records do not say which model answered \(data_id 0\)"),
    label_from_no_answer: (RECOGNITION, r"has pred_label = .*'I do not know.' is read as pred_label = None"),
}


@pytest.mark.parametrize("cheat", CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_refused_by_name_in_score_and_in_both_rows_of_a_comparison(
    cheat, honest, tiny_data, tiny_base, tmp_path, capsys
):
    task, message = CHEATS[cheat]
    path = change(honest, task, cheat)
    data, out = ["--data-dir", tiny_data], ["--out", tmp_path / "out", "--no-meteor"]
    refused = refusal_of(score, [task, "--predictions", path, *data, *out], capsys)
    assert refused.startswith(f"error: {path}: ")
    with pytest.raises(CrashChatError, match=message):
        raise CrashChatError(refused)
    other = write_run(tmp_path / "other", tiny_data, tiny_base)
    change(other, task, cheat)
    assert refusal_of(compare, [honest, f"other={other}", *data, *out], capsys) == refused
    assert not (tmp_path / "out").exists()


def test_an_annotation_file_that_is_named_is_held_against_it_too(honest, tiny_data, tmp_path, capsys):
    path = change(honest, SIGN, crash_start_moved)
    named = ["--annotations", tiny_data / TASKS[SIGN].annotation_file("test"), "--data-dir", tmp_path]
    assert "has crash_start" in refusal_of(score, [SIGN, "--predictions", path, *named], capsys)


@pytest.mark.parametrize("task", ANSWERS)
def test_what_was_changed_after_it_was_written_is_refused(task, honest, tiny_data, tmp_path, capsys):
    """Even what agrees with the annotations: another answer in the model's name."""
    better = {RECOGNITION: "No", INTERVAL: "1.0 - 2.0 seconds", SIGN: "1.0 seconds"}[task]

    def answered_better(records):
        records[0]["raw_response"] = better
        records[0] |= TASKS[task].parse(better)

    path = change(honest, task, answered_better, manifest=True)
    words, out = [task, "--predictions", path, "--data-dir", tiny_data], ["--out", tmp_path / "out"]
    refused = refusal_of(score, [*words, *out], capsys)
    assert refused.startswith(f"error: {path}: was changed after it was written")
    assert refusal_of(compare, [path, *words[3:], *out], capsys) == refused
    # Without the manifest it cannot be seen, and that is said.
    manifest_path(path).unlink()
    assert score([str(word) for word in [*words, *out, "--no-meteor"]]) == 0
    assert f"no manifest: {manifest_path(path).name} is not beside it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("forged", "message"),
    [
        (lambda record: record.pop("model"), "the model is None, .* says 'm'"),
        (lambda record: record.update(model="other"), "the model is 'other', .* says 'm'"),
    ],
)
def test_a_manifest_of_another_model_is_refused(forged, message, honest, tiny_data, capsys):
    def cheat(records):
        for record in records:
            forged(record)

    path = change(honest, INTERVAL, cheat, manifest=True)
    manifest = json.loads(manifest_path(path).read_text())
    write_json_atomic(manifest_path(path), manifest | {"predictions_sha256": file_hash(path)})
    refused = refusal_of(score, [INTERVAL, "--predictions", path, "--data-dir", tiny_data], capsys)
    with pytest.raises(CrashChatError, match=message):
        raise CrashChatError(refused)
    write_json_atomic(manifest_path(path), {"model": "m"})
    refused = refusal_of(score, [INTERVAL, "--predictions", path], capsys)
    assert "_manifest.json: predictions_sha256 is missing" in refused


def test_an_honest_file_says_what_it_was_held_against(honest, tiny_data, tiny_base, tmp_path, capsys):
    path, out = prediction_path(honest, INTERVAL, "m"), tmp_path / "scores.json"
    words = [INTERVAL, "--predictions", str(path), "--out", str(out), "--data-dir"]
    assert score([*words, str(tiny_data)]) == 0
    scored, annotations = json.loads(out.read_text()), tiny_data / TASKS[INTERVAL].annotation_file("test")
    facts = {
        "predictions": str(path),
        "truth_checked": True,
        "annotations": {str(annotations): file_hash(annotations)},
        "num_asked": 2,
        "partial": False,
        "num_read_as_released": 0,
        "manifest": str(manifest_path(path)),
    }
    assert {key: scored[key] for key in facts} == facts
    told = capsys.readouterr().out
    assert "not checked" not in told and "manifest" not in told and "PARTIAL" not in told
    manifest = json.loads(manifest_path(path).read_text())
    assert manifest["dataset"]["annotations"][annotations.name] == file_hash(annotations)
    assert manifest["checkpoint"]["path"] == str(tiny_base) and len(manifest["checkpoint"]["sha256"]) == 64

    # Without the annotations it is scored all the same, to the same figures, and all say that.
    assert score([*words, str(tmp_path)]) == 0
    unchecked = json.loads(out.read_text())
    assert unchecked["truth_checked"] is False and unchecked["annotations"] == {}
    assert unchecked["partial"] is unchecked["num_asked"] is None
    assert unchecked["mIoU"] == scored["mIoU"] and unchecked["intervals"] == scored["intervals"]
    assert f"truth not checked: there is no {tmp_path / annotations.name}" in capsys.readouterr().out
    assert ["truth_checked", "False", "", ""] in csv.reader(out.with_suffix(".csv").open())
    assert compare([str(honest), "--data-dir", str(tmp_path), "--out", str(tmp_path), "--no-meteor"]) == 0
    assert "Truth not checked: " in capsys.readouterr().out
    assert "Truth not checked: " in (tmp_path / "report.html").read_text()


def test_a_partial_run_is_scored_on_demand_and_says_so_everywhere(honest, tiny_data, tmp_path, capsys):
    path = change(honest, INTERVAL, hard_ones_dropped)
    words, out = ["--data-dir", str(tiny_data), "--no-meteor", "--partial"], tmp_path / "out"
    assert score([INTERVAL, "--predictions", str(path), "--out", str(out), *words]) == 0
    assert "PARTIAL: 1 of 2 annotated questions" in capsys.readouterr().out
    written = json.loads((out / f"{path.stem}_metrics.json").read_text())
    assert written["partial"] is True and (written["num_records"], written["num_asked"]) == (1, 2)
    lines = list(csv.reader((out / f"{path.stem}_metrics.csv").open()))
    assert ["partial", "True", "", ""] in lines and ["num_asked", "2", "", ""] in lines

    assert compare([f"one={honest}", "--out", str(out), *words]) == 0
    marked, whole = "perception tasks (partial: crash interval 1 of 2)", "linguistic tasks"
    told = capsys.readouterr().out
    note = "A partial run: only a part of the annotated questions has a record: crash_localization 1 of 2."
    page, markdown = (out / "report.html").read_text(), (out / "comparison.md").read_text()
    for text in (told, page, markdown):
        assert note in text and marked in text and f"{whole} (" not in text
    assert "<summary>crash interval (partial: 1 of 2) " in page and "<summary>recognition <" in page
    tables = {line["table"] for line in csv.DictReader((out / "comparison.csv").open())}
    assert marked in tables and whole in tables
    assert all("partial" in name for name in tables if name.startswith(("perception", "crash interval")))
    figures = json.loads((out / "metrics.json").read_text())
    assert figures.pop("about") and len(figures) > 2
    for row in figures.values():  # the blind ones, too
        assert row[INTERVAL]["partial"] is True and row[INTERVAL]["num_asked"] == 2
        assert RECOGNITION not in row or row[RECOGNITION]["partial"] is False


def test_two_videos_of_one_name_are_refused_before_they_are_asked_about(tiny_data, tiny_base, tmp_path):
    file = TASKS[RECOGNITION].annotation_file("test")
    records = json.loads((tiny_data / file).read_text())
    name = Path(records[0]["video"][0]).name
    again = records[0] | {"video": [f"more/{name}"]}
    write_json_atomic(tmp_path / file, [*records, again])
    config = EvalConfig(model=tiny_base, data_dir=tmp_path, output_dir=tmp_path, tasks=[RECOGNITION])
    with pytest.raises(CrashChatError, match=f"two annotated videos are called {name}"):
        evaluate(config)
