"""The scripts themselves, in real processes, on a tiny synthetic set: train, resume, merge,
evaluate, score.
"""

import json
import shutil
import sys
from pathlib import Path

import pytest

from crashchat.checkpoints.model_card import DRAWN
from crashchat.tasks import TASKS
from tests.helpers.commands import ROOT, TRAIN, adapter, distance, run, train


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory) -> Path:
    """The output folder of a training on one process."""
    out = tmp_path_factory.mktemp("trained") / "one"
    output = train(tiny_data, out, 1)
    assert "trained parameters" in output and "best validation loss" in output
    return out


def test_training_leaves_adapter_config_logs_and_plot(trained, tiny_data):
    names = {path.name for path in trained.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "train_config.yaml",
        "loss.png",
        "tensorboard",
    } <= names
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert list((trained / "tensorboard").glob("events*"))
    weights = adapter(trained)
    assert any("lora_A" in key for key in weights) and any(
        "projector.readout.0.weight" in key for key in weights
    )
    assert "already trained" in train(tiny_data, trained, 1)


def test_a_killed_run_goes_on_to_the_same_weights(trained, tiny_data, tmp_path):
    out = tmp_path / "killed"
    shutil.copytree(trained, out)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (out / name).unlink()
    (out / "checkpoint-4" / "trainer_state.json").unlink()  # killed while it wrote checkpoint-4
    config = (out / "train_config.yaml").read_text().replace(str(trained), str(out))
    (out / "train_config.yaml").write_text(config)
    assert f"going on from {out}/checkpoint-2" in train(tiny_data, out, 1)
    assert distance(trained, out) < 1e-6


def test_a_run_killed_behind_its_last_step_makes_no_other(trained, tiny_data, tmp_path):
    out = shutil.copytree(trained, tmp_path / "killed")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (out / name).unlink()
    (out / "train_config.yaml").write_text(
        (out / "train_config.yaml").read_text().replace(str(trained), str(out))
    )
    train(tiny_data, out, 1)
    assert distance(trained, out) == 0 and not (out / "checkpoint-5").exists()


def test_other_settings_in_the_same_folder_are_refused(trained, tiny_data):
    output = train(tiny_data, trained, 1, "seed=3", ok=False)
    assert "holds a run with other settings" in output and "seed: 0 then, 3 now" in output


def test_two_and_four_processes_learn_what_one_does(trained, tiny_data, tmp_path):
    train(tiny_data, tmp_path / "two", 2)
    assert distance(trained, tmp_path / "two") < 2e-4
    # Several passes a step, not as many on each process.
    train(tiny_data, tmp_path / "four", 4, "max_tokens_per_batch=1200")
    assert distance(trained, tmp_path / "four") < 2e-4


def test_a_feature_cache_changes_no_weight_and_no_answer(trained, answers, merged, tiny_data, tmp_path):
    cache = f"feature_cache={tmp_path / 'cache'}"
    train(tiny_data, tmp_path / "cold", 1, cache)
    entries = {path: path.stat().st_ino for path in (tmp_path / "cache").glob("??/*.safetensors")}
    assert len(entries) == 6 + 3
    train(tiny_data, tmp_path / "warm", 2, cache, "num_workers=2")
    assert distance(trained, tmp_path / "cold") < 1e-6
    assert distance(trained, tmp_path / "warm") < 2e-4  # as two processes without a cache
    assert {path: path.stat().st_ino for path in (tmp_path / "cache").glob("??/*.safetensors")} == entries
    for name in ("cold", "warm"):
        settings = [f"model={merged}", f"data_dir={tiny_data}", cache]
        assert evaluate("eval_video_all_tasks", 2, tmp_path / f"answers_{name}", *settings) == answers[1]
    output = train(tiny_data, tmp_path / "full", 1, cache, "finetune=full", ok=False)
    assert "does not go with feature_cache" in output


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_zero_saves_a_whole_adapter(trained, tiny_data, tmp_path, stage):
    train(
        tiny_data,
        tmp_path / "zero",
        2,
        f"deepspeed=configs/deepspeed/zero{stage}.json",
        "max_tokens_per_batch=1200",
    )
    assert distance(trained, tmp_path / "zero") < 2e-4


def test_an_impossible_division_names_what_works(tiny_data, tmp_path):
    output = train(tiny_data, tmp_path, 5, ok=False)
    assert output.count("cannot be shared by 5 processes; numbers that work: 1, 2, 3, 4, 6, 8, 12, 24") == 1


def test_missing_data_and_base_are_named(tiny_data, tmp_path):
    assert "no annotation file" in train(tmp_path / "nowhere", tmp_path / "out", 1, ok=False)
    assert "no tokenizer_config.json" in train(tiny_data, tmp_path / "out", 1, "base_model=nowhere", ok=False)
    broken = shutil.copytree(tiny_data, tmp_path / "broken")
    next((broken / "videos").glob("train_*")).unlink()
    assert "annotated train videos are missing" in train(broken, tmp_path / "out", 1, ok=False)


@pytest.fixture(scope="module")
def merged(trained, tmp_path_factory) -> Path:
    """The trained adapter folded into its base."""
    out = tmp_path_factory.mktemp("merged") / "model"
    tool = "tool/merge_and_convert_videollama3_lora.py"
    run(sys.executable, tool, "--base", "ckpt/tiny_base", "--adapter", trained, "--out", out)
    output = run(
        sys.executable, tool, "--base", "ckpt/tiny_base", "--adapter", trained, "--out", out, ok=False
    )
    assert "is not empty" in output
    return out


def test_an_evaluation_says_what_the_model_learnt_on(merged, tiny_data, tmp_path):
    words = [f"model={merged}", f"data_dir={tiny_data}", f"output_dir={tmp_path}", "limit=1", "num_workers=0"]
    output = run("bash", "scripts/eval/eval_video_crash_recognition.sh", 2, *words)
    assert output.count(f"warning: {DRAWN}") == 1
    assert output.count(f"{merged}: learnt on CrashChat drawings (drawings)") == 1


def evaluate(script: str, processes: int, out: Path, *settings: str) -> dict[str, list[dict]]:
    """Run an evaluation script; returns {task: its records}."""
    run(
        "bash",
        f"scripts/eval/{script}.sh",
        processes,
        f"output_dir={out}",
        "max_new_tokens=24",
        "num_workers=0",
        *settings,
    )
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
    return out, evaluate("eval_video_all_tasks", 2, out, f"model={merged}", f"data_dir={tiny_data}")


def test_all_six_tasks_are_asked_and_recorded(answers, tiny_data):
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
    assert all("crash_start" in record for record in records["pre_crash_localization"])


@pytest.mark.parametrize("task", TASKS)
def test_each_tasks_script_finds_its_file_and_gives_the_same_answers(
    answers, merged, trained, tiny_data, tmp_path, task
):
    alone = evaluate(f"eval_video_{task}", 1, tmp_path, f"model={merged}", f"data_dir={tiny_data}")
    assert alone == {task: answers[1][task]}
    if task == "crash_description":
        model = ["model=ckpt/tiny_base", f"adapter={trained}", "model_name=model"]
        unmerged = evaluate(f"eval_video_{task}", 1, tmp_path / "adapter", *model, f"data_dir={tiny_data}")
        assert unmerged == alone


@pytest.mark.parametrize("task", TASKS)
def test_the_metric_scripts_score_them(answers, task):
    path = next(answers[0].glob(f"{task}_evaluation_results/*/*_predict.json"))
    output = run(
        sys.executable, f"scripts/eval/compute_{task}_metrics.py", "--predictions", path, "--no-meteor"
    )
    assert "num_records" in output
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
    first = evaluate("eval_video_crash_recognition", 1, tmp_path / "out", *settings)["crash_recognition"]
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
    assert (
        evaluate("eval_video_crash_recognition", 2, tmp_path / "out", *settings)["crash_recognition"] == first
    )


def test_constrained_answers_always_parse(merged, tiny_data, tmp_path):
    settings = [
        f"model={merged}",
        f"data_dir={tiny_data}",
        "decode=constrained",
        "training_answers=crash_description",
    ]
    found = evaluate("eval_video_all_tasks", 1, tmp_path, *settings)
    train = json.loads((tiny_data / TASKS["crash_description"].annotation_file("train")).read_text())
    known = {record["conversations"][1]["value"] for record in train}
    for task in ("crash_recognition", "crash_localization", "pre_crash_localization"):
        assert all(record[field] is not None for record in found[task] for field in TASKS[task].pred_fields)
    assert {record["raw_response"] for record in found["crash_description"]} <= known
    for record in found["crash_recognition"]:
        assert (record["crash_probability"].expected > 0.5) == (record["raw_response"] == "Yes")
    words = ("configs/eval/all_tasks.yaml", f"model={merged}", "training_answers=crash_description")
    assert "needs decode=constrained" in run(sys.executable, "-m", "crashchat", "evaluate", *words, ok=False)


def test_scripts_explain_themselves():
    assert "key=value" in run("bash", TRAIN, "--help")
    assert "max_new_tokens" in run("bash", "scripts/eval/eval_video_all_tasks.sh", "--help")
    scripts = sorted((ROOT / "scripts" / "train").glob("*.sh"))
    assert len(scripts) == 9 and len(list((ROOT / "scripts" / "eval").glob("eval_video_*.sh"))) == 7
    assert len(list((ROOT / "scripts" / "eval").glob("compute_*_metrics.py"))) == 6
    for script in scripts:
        config = next(word for word in script.read_text().split() if word.endswith(".yaml"))
        assert (ROOT / config).is_file(), script
