"""Evaluation on a tiny synthetic set: merge, ask, score, resume; by the scripts, and in this process."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from crashchat.checkpoints.model_card import DRAWN
from crashchat.data.prediction_files import read_prediction_file
from crashchat.data.truth import Annotations
from crashchat.provenance import content_hash
from crashchat.tasks import TASKS
from tests.helpers.commands import crashchat, forked, run


@pytest.fixture(scope="module")
def merged(trained, tmp_path_factory) -> Path:
    """The trained adapter folded into its base."""
    out = tmp_path_factory.mktemp("merged") / "model"
    tool = "tool/merge_and_convert_videollama3_lora.py"
    words = ["--base", "ckpt/tiny_base", "--adapter", trained, "--out", out]
    run(sys.executable, tool, *words)
    assert "is not empty" in crashchat("merge", *words, ok=False)
    return out


def test_an_evaluation_says_what_the_model_learnt_on(merged, tiny_data, tmp_path):
    words = [f"model={merged}", f"data_dir={tiny_data}", f"output_dir={tmp_path}", "limit=1", "num_workers=0"]
    output = forked("evaluate", "configs/eval/crash_recognition.yaml", *words, processes=2)
    assert output.count(f"warning: {DRAWN}") == 1
    assert output.count(f"{merged}: learnt on CrashChat synthetic (drawings)") == 1


def evaluate(tasks: str, processes: int, out: Path, *settings: str) -> dict[str, list[dict]]:
    """Ask what an evaluation script asks; returns {task: its records}.

    processes: 0 asks in this process.
    """
    config = f"configs/eval/{tasks}.yaml"
    words = [config, f"output_dir={out}", "max_new_tokens=24", "num_workers=0", *settings]
    if processes:
        forked("evaluate", *words, processes=processes)
    else:
        crashchat("evaluate", *words)
    return records_in(out)


def records_in(out: Path) -> dict[str, list[dict]]:
    """{task: the records of its prediction file}."""
    files = out.glob("*_evaluation_results/*/*_predict.json")
    found = {
        path.parts[-3].removesuffix("_evaluation_results"): json.loads(path.read_text()) for path in files
    }
    for record in found.get("crash_recognition", []):
        if "error" not in record:  # which videos are answered together may change its last digits
            record["crash_probability"] = pytest.approx(record["crash_probability"], abs=1e-4)
    return found


@pytest.fixture(scope="module")
def answers(merged, tiny_data, tmp_path_factory) -> tuple[Path, dict[str, list[dict]]]:
    """The merged model's predictions for all six tasks: the folder, and {task: records}."""
    out = tmp_path_factory.mktemp("answers")
    words = [f"model={merged}", f"data_dir={tiny_data}", f"output_dir={out}", "max_new_tokens=24"]
    run("bash", "scripts/eval/eval_video_all_tasks.sh", "2", *words, "num_workers=0")
    return out, records_in(out)


def test_all_six_tasks_are_asked_and_recorded(answers, merged, tiny_data):
    folder, records = answers
    assert records.keys() == TASKS.keys()
    for name, task in TASKS.items():
        annotated = json.loads((tiny_data / task.annotation_file("test")).read_text())
        assert [record["data_id"] for record in records[name]] == list(range(len(annotated)))
        path = (
            folder
            / f"{name}_evaluation_results"
            / "model"
            / f"crashchat_dada_video_total_{name}_test_predict.json"
        )
        assert path.is_file()
        assert {record["model"] for record in records[name]} == {"model"}
        file = read_prediction_file(path, Annotations(tiny_data, "test"), name)
        assert file.manifest and not file.missing and file.remarks() == []
        assert file.manifest.checkpoint.sha256 == content_hash(merged) and file.manifest.adapter is None
        assert file.manifest.command.startswith("crashchat evaluate configs/eval/all_tasks.yaml")
    assert all("crash_start" in record for record in records["pre_crash_localization"])


@pytest.mark.parametrize("task", TASKS)
def test_each_tasks_config_finds_its_file_and_gives_the_same_answers(
    answers, merged, trained, tiny_data, tmp_path, task
):
    alone = evaluate(task, 0, tmp_path, f"model={merged}", f"data_dir={tiny_data}")
    assert alone == {task: answers[1][task]}
    if task == "crash_description":
        model = ["model=ckpt/tiny_base", f"adapter={trained}", "model_name=model"]
        unmerged = evaluate(task, 0, tmp_path / "adapter", *model, f"data_dir={tiny_data}")
        assert unmerged == alone


@pytest.mark.parametrize("task", TASKS)
def test_the_metrics_score_them(answers, tiny_data, task):
    path = next(answers[0].glob(f"{task}_evaluation_results/*/*_predict.json"))
    words = ["--predictions", path, "--data-dir", tiny_data, "--no-meteor"]
    output = crashchat("score", task, *words)
    assert "num_records" in output and "not checked" not in output and "no manifest" not in output
    scores = json.loads(path.with_name(f"{path.stem}_metrics.json").read_text())
    assert scores["num_records"] == len(answers[1][task])
    assert path.with_name(f"{path.stem}_metrics.csv").is_file()


def test_a_killed_evaluation_goes_on_and_an_unreadable_video_is_recorded(
    answers, merged, tiny_data, tmp_path
):
    data = shutil.copytree(tiny_data, tmp_path / "data")
    expected = answers[1]["crash_recognition"]
    broken = Path(expected[1]["video_path"]).name
    (data / "videos" / broken).write_bytes(b"no video")
    settings = [f"model={merged}", f"data_dir={data}"]
    first = evaluate("crash_recognition", 0, tmp_path / "out", *settings)["crash_recognition"]
    assert broken in first[1]["error"] and first[1]["pred_label"] is None and len(first) == len(expected)
    others = [index for index in range(len(expected)) if index != 1]
    assert [first[index]["raw_response"] for index in others] == [
        expected[index]["raw_response"] for index in others
    ]

    final = next((tmp_path / "out").glob("*/*/*_predict.json"))
    journal = next(final.parent.glob("*.part.jsonl"))
    final.unlink()
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:2]) + lines[2][:20])  # killed while it wrote the second answer
    assert evaluate("crash_recognition", 2, tmp_path / "out", *settings)["crash_recognition"] == first


def test_a_feature_cache_changes_no_answer(answers, merged, tiny_data, tmp_path):
    settings = [f"model={merged}", f"data_dir={tiny_data}", f"feature_cache={tmp_path / 'cache'}"]
    assert evaluate("all_tasks", 2, tmp_path / "cold", *settings) == answers[1]
    entries = {path: path.stat().st_ino for path in (tmp_path / "cache").glob("??/*.safetensors")}
    assert len(entries) == 4
    assert evaluate("all_tasks", 0, tmp_path / "warm", *settings) == answers[1]
    assert {path: path.stat().st_ino for path in (tmp_path / "cache").glob("??/*.safetensors")} == entries


def test_constrained_answers_always_parse(merged, tiny_data, tmp_path):
    settings = [
        f"model={merged}",
        f"data_dir={tiny_data}",
        "decode=constrained",
        "training_answers=crash_description",
    ]
    found = evaluate("all_tasks", 0, tmp_path, *settings)
    train = json.loads((tiny_data / TASKS["crash_description"].annotation_file("train")).read_text())
    known = {record["conversations"][1]["value"] for record in train}
    for task in ("crash_recognition", "crash_localization", "pre_crash_localization"):
        assert all(record[field] is not None for record in found[task] for field in TASKS[task].pred_fields)
    assert {record["raw_response"] for record in found["crash_description"]} <= known
    for record in found["crash_recognition"]:
        assert (record["crash_probability"].expected > 0.5) == (record["raw_response"] == "Yes")
    words = ("configs/eval/all_tasks.yaml", f"model={merged}", "training_answers=crash_description")
    assert "needs decode=constrained" in crashchat("evaluate", *words, ok=False)


def test_drawn_answers_are_the_same_with_the_same_seed_alone(merged, tiny_data, tmp_path):
    settings = [f"model={merged}", f"data_dir={tiny_data}", "temperature=1.5", "top_p=0.9"]
    drawn = [
        evaluate("crash_description", 0, tmp_path / name, *settings, f"seed={seed}", *more)
        for name, seed, more in (("a", 1, ["max_tokens_per_batch=1"]), ("b", 1, []), ("c", 2, []))
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    manifest = json.loads(next((tmp_path / "c").glob("*/*/*_manifest.json")).read_text())
    assert manifest["decoding"].startswith("drawn from the top 0.9 at temperature 1.5, seed 2, free")
    words = ["configs/eval/crash_description.yaml", f"output_dir={tmp_path / 'a'}", *settings, "seed=2"]
    assert "seed" in crashchat(
        "evaluate", *words, "max_new_tokens=24", ok=False
    )  # no run goes on with another
    assert "top_p=0.5 needs temperature" in crashchat("evaluate", words[0], "top_p=0.5", ok=False)
    runs = f"drawn={','.join(str(tmp_path / name) for name in 'abc')}"
    words = [runs, "--data-dir", tiny_data, "--out", tmp_path / "out", "--no-meteor"]
    assert "drawn: 3 runs of the same weights" in " ".join(crashchat("compare", *words).split())


def test_a_comparison_names_the_weights_that_answered(answers, merged, tiny_data, tmp_path):
    words = [f"one={answers[0]}", "--data-dir", tiny_data, "--out", tmp_path, "--no-meteor"]
    output = crashchat("compare", *words)
    (row,) = json.loads((tmp_path / "metrics.json").read_text())["about"]["rows"]
    assert row["weights"] == {merged.name: content_hash(merged)}
    assert f"weights of {merged.name} {content_hash(merged)[:16]}" in " ".join(output.split())
