"""The task sets in configs/tasks, from clips to answers on new ones: a YAML file each, and no code."""

import csv
import json

import pytest

from crashchat.checkpoints.model_card import read_card
from crashchat.config import CONFIG_DIR
from crashchat.tasks import CRASHCHAT, TASK_SET_FILE, TASKS, TaskSet
from tests.helpers.commands import TRAIN_CONFIG, crashchat, settings_of
from tests.helpers.serving import Server
from tests.helpers.web import web

EXAMPLES = {
    "nine_tasks": ["crash_kind", "road_users", "vehicles"],
    "multiple_choice": ["what_happens"],
    "early_warning": ["crash_warning"],
}


@pytest.fixture(scope="module", params=EXAMPLES)
def example(request, tmp_path_factory, tiny_base):
    """(the set's file, folder) with a data set, an adapter, a merged model and answers of either form."""
    file, folder = CONFIG_DIR / "tasks" / f"{request.param}.yaml", tmp_path_factory.mktemp(request.param)
    crashchat("synthesize", "--out", folder / "data", "--train", 4, "--val", 2, "--test", 4, "--workers", 1,
              "--task-set", file)  # fmt: skip
    settings = settings_of(
        folder / "data", folder / "train", f"task_set={file}", "max_steps=2", "save_steps=2"
    )
    crashchat("train", TRAIN_CONFIG, *settings)
    crashchat("merge", "--base", tiny_base, "--adapter", folder / "train", "--out", folder / "merged")
    for decode in ("free", "constrained"):
        crashchat("evaluate", "configs/eval/all_tasks.yaml", f"model={folder / 'merged'}", "num_workers=0",
                  f"data_dir={folder / 'data'}", f"output_dir={folder / decode}", f"decode={decode}",
                  "max_new_tokens=40", f"option_probabilities={decode == 'constrained'}")  # fmt: skip
    assert TASKS.task_set is CRASHCHAT, "a command leaves the set in use that was before it"
    return file, folder


def test_a_set_is_learnt_merged_and_asked_by_its_own_folder(example):
    file, folder = example
    tasks = TaskSet(file)
    for made in ("train", "merged"):
        assert TaskSet(folder / made / TASK_SET_FILE).sha256 == tasks.sha256
        assert read_card(folder / made).tasks.names == list(tasks)
    for name, task in tasks.items():
        (answered,) = folder.glob(f"constrained/{name}_evaluation_results/merged/*_test_predict.json")
        assert answered.name == f"{tasks.file_prefix}_{name}_test_predict.json"
        records = json.loads(answered.read_text())
        texts = task.answer.kind == "text"
        assert all(texts or record[key] is not None for record in records for key in task.pred_fields)


def test_its_answers_are_scored_compared_and_held_against_the_annotations(example):
    file, folder = example
    tasks, data = TaskSet(file), ["--data-dir", folder / "data", "--task-set", file]
    for name in EXAMPLES[file.stem]:
        (answered,) = folder.glob(f"constrained/{name}_evaluation_results/merged/*_predict.json")
        told = crashchat("score", name, "--predictions", answered, *data)
        assert "num_scored" in told and "truth not checked" not in told
        if tasks[name].answer.candidates:
            shares = [record["option_probabilities"] for record in json.loads(answered.read_text())]
            assert all(set(one) == set(tasks[name].answer.candidates) for one in shares)
        refused = crashchat("score", name, "--predictions", answered, "--data-dir", folder / "data", ok=False)
        assert "expected a task" in refused
    crashchat("check-data", folder / "data", "--no-videos", "--task-set", file)
    rows = [f"{name}={folder / name}" for name in ("free", "constrained")]
    told = crashchat("compare", *rows, *data, "--no-meteor", "--out", folder / "report")
    written = json.loads((folder / "report" / "metrics.json").read_text())
    assert written["constrained"].keys() == tasks.keys() and "most frequent answer" in written
    assert all(tasks[name].title in told for name in EXAMPLES[file.stem])
    cells = list(csv.reader((folder / "report" / "comparison.csv").open()))
    assert any("macro F1" in cell for row in cells for cell in row)
    assert all(task.title in (folder / "report" / "report.html").read_text() for task in tasks.values())


def test_it_looks_at_new_clips_and_serves_answers(example, tmp_path):
    file, folder = example
    clip = sorted((folder / "data" / "videos").glob("test_*.mp4"))[0]
    crashchat(
        "analyze", clip, "--model", folder / "merged", "--decode", "constrained", "--out", tmp_path / "out"
    )
    (result,) = [json.loads(path.read_text()) for path in (tmp_path / "out").glob("test_*.json")]
    asked = [answer["task"] for answer in result["windows"][0]["answers"]]
    assert set(EXAMPLES[file.stem]) <= set(asked)
    assert (result["status"] == "answered") == (file.stem == "multiple_choice")
    page = (tmp_path / "out" / "report.html").read_text()
    assert all(TaskSet(file)[name].title in page for name in EXAMPLES[file.stem])
    server = Server(tmp_path, "--model", str(folder / "merged"), "--max-new-tokens", "20")
    try:
        answer = server.analyze(clip)
        assert answer.status_code == 200, answer.text
        assert web.get(f"{server.url}/").status_code == 200
        assert [one["task"] for one in answer.json()["windows"][0]["answers"]][: len(asked)]
    finally:
        server.stop()
