"""What is known of a clip besides its pictures: from columns of the annotations into the prompts, and off."""

import json
import re
import shutil
from pathlib import Path

import pytest

from crashchat.analysis.contexts import contexts_of
from crashchat.analysis.options import AnalyzeError
from crashchat.checkpoints.folders import load_video_settings
from crashchat.config import load_config
from crashchat.data.sources import load_questions
from crashchat.evaluation_settings import EvalConfig
from crashchat.tasks import CRASHCHAT, TASK_SET_FILE, TaskSet, TaskSetError, using
from crashchat.training.batches import QuestionDataset, as_model_input
from tests.conftest import TINY_BASE
from tests.data.test_annotations import write
from tests.helpers.commands import TRAIN_CONFIG, crashchat, settings_of
from tests.helpers.context import INTERVAL, RECOGNITION, SET, as_csv, task_set


def test_sentences_stand_in_front_of_the_tasks_that_take_them(tmp_path):
    tasks = TaskSet(task_set(tmp_path))
    values = {"speed": "52", "note": " it\n rains ", "other": "x"}
    assert list(tasks) == list(CRASHCHAT)
    assert tasks.told(RECOGNITION.name, values) == "Speed: 52 km/h."
    assert tasks.told(INTERVAL.name, values) == "Speed: 52 km/h.\nNote: it rains"
    assert tasks.told(INTERVAL.name, {"speed": None, "note": "wet"}) == "Note: wet"
    assert tasks.told(RECOGNITION.name, {}) == tasks.told(None, values) == ""
    assert CRASHCHAT.told(RECOGNITION.name, values) == ""


def test_a_models_folder_keeps_it_and_the_hash_of_a_set_counts_it(tmp_path):
    tasks = TaskSet(task_set(tmp_path))
    tasks.write(tmp_path)
    kept = TaskSet(tmp_path / TASK_SET_FILE)
    assert kept.context == tasks.context and kept.sha256 == tasks.sha256
    assert tasks.without_context().sha256 == CRASHCHAT.sha256 != tasks.sha256
    assert CRASHCHAT.without_context() is CRASHCHAT


def test_the_hash_of_the_six_tasks_is_what_cards_already_say():
    assert CRASHCHAT.sha256 == "bd5cfb22804ac3b467d2a05dda80204bb5d8c116fd838200c524e9847e52e935"


@pytest.mark.parametrize(
    ("context", "message"),
    {
        ' {speed: "fast"}\n': "context.speed.words: found 'fast', expected {value} once",
        ' {speed: "{value}{value}"}\n': "expected {value} once",
        "\n  speed: {words: '{value}', tasks: [flying]}\n": r"line 5: context: speed: found \['flying'\]",
        " {speed: {words: '{value}', colour: red}}\n": "colour",
        " [speed]\n": "context: found",
    }.items(),
)
def test_what_cannot_be_is_refused_with_file_and_line(tmp_path, context, message):
    with pytest.raises(TaskSetError, match=message):
        TaskSet(task_set(tmp_path, context))


@pytest.fixture(scope="module")
def ablation(tmp_path_factory, tiny_base) -> Path:
    """A drawn set with telematics; a training and its answers with them (true/) and without (false/)."""
    folder = tmp_path_factory.mktemp("telematics")
    crashchat("synthesize", "--out", folder / "data", "--train", 4, "--val", 2, "--test", 4, "--workers", 1,
              "--task-set", SET)  # fmt: skip
    only = f"tasks={RECOGNITION.name},{INTERVAL.name}"
    for context in ("true", "false"):
        out = folder / context
        settings = settings_of(folder / "data", out / "train", f"task_set={SET}", f"context={context}", only,
                               "max_steps=2")  # fmt: skip
        crashchat("train", TRAIN_CONFIG, *settings)
        crashchat("evaluate", "configs/eval/all_tasks.yaml", f"model={tiny_base}", f"adapter={out / 'train'}",
                  f"data_dir={folder / 'data'}", f"output_dir={out / 'answers'}", only, "num_workers=0",
                  "max_new_tokens=8", "model_name=m", "decode=constrained")  # fmt: skip
    return folder


def answers_file(ablation: Path, context: str) -> Path:
    (path,) = (ablation / context / "answers").glob(f"{RECOGNITION.name}_*/m/*_test_predict.json")
    return path


def test_a_model_learns_and_is_asked_with_it_and_prediction_files_say_what_was_asked(ablation):
    annotated = json.loads((ablation / "data" / f"telematics_{RECOGNITION.name}_test.json").read_text())
    records = json.loads(answers_file(ablation, "true").read_text())
    for known, answered in zip(annotated, records, strict=True):
        speed, braking = known["speed"], known["braking"]
        told = f"The ego-car's mean speed is {speed} km/h.\nIts hardest braking is {braking} g."
        assert answered["context"] == told and answered["prompt"] == f"{told}\n{RECOGNITION.prompt}"
    assert len({answered["context"] for answered in records}) > 1
    plain = json.loads(answers_file(ablation, "false").read_text())
    assert all("context" not in one and one["prompt"] == RECOGNITION.prompt for one in plain)
    # The one without keeps a set without, so that nobody asks it otherwise.
    assert TaskSet(ablation / "true" / "train" / TASK_SET_FILE).context == TaskSet(SET).context
    assert not TaskSet(ablation / "false" / "train" / TASK_SET_FILE).context


def test_what_is_learnt_is_what_is_asked(ablation, tiny_base, tiny_tokenizer):
    with using(CRASHCHAT):
        words = [f"task_set={SET}", f"data_dir={ablation / 'data'}", f"tasks={RECOGNITION.name}"]
        config = load_config(EvalConfig, None, words)
        videos = load_questions(config, "test", config.tasks)
        dataset = QuestionDataset(videos, tiny_tokenizer, load_video_settings(tiny_base), max_length=4096)
        (batch,) = as_model_input(dataset[0])["batches"]
    text = tiny_tokenizer.decode(batch["input_ids"][0])
    (answered,) = [
        one
        for one in json.loads(answers_file(ablation, "true").read_text())
        if Path(one["video_path"]).name == Path(videos[0].name).name
    ]
    assert f"{answered['prompt']}<|im_end|>\n<|im_start|>assistant\n{videos[0].questions[0].answer}" in text


def test_both_are_scored_and_compared_and_a_changed_sentence_is_caught(ablation, tmp_path):
    data = ["--data-dir", ablation / "data", "--task-set", SET]
    for context in ("true", "false"):
        file = answers_file(ablation, context)
        told = crashchat("score", RECOGNITION.name, "--predictions", file, *data)
        assert "truth not checked" not in told
    rows = [f"{name}={ablation / name / 'answers'}" for name in ("true", "false")]
    crashchat("compare", *rows, *data, "--no-meteor", "--out", tmp_path / "report")
    assert {"true", "false"} <= json.loads((tmp_path / "report" / "metrics.json").read_text()).keys()
    records = json.loads(answers_file(ablation, "true").read_text())
    for key, message in (("both", "records differ"), ("prompt", "does not begin with its context")):
        changed = [dict(one) for one in records]
        changed[0]["prompt"] = changed[0]["prompt"].replace("mean speed is ", "mean speed is 1")
        if key == "both":
            changed[0]["context"] = changed[0]["context"].replace("mean speed is ", "mean speed is 1")
        path = write(tmp_path / f"{key}_test_predict.json", *changed)
        refused = crashchat("score", RECOGNITION.name, "--predictions", path, *data, ok=False)
        assert message in refused


def analyze(ablation: Path, clip: Path, out: Path, *more, ok: bool = True, adapter: bool = True) -> str:
    """`crashchat analyze` with the model that learnt with telematics, or with the base alone."""
    trained = ablation / "true" / "train"
    model = ["--model", TINY_BASE, *(["--linguistic", trained, "--perception", trained] if adapter else [])]
    return crashchat("analyze", clip, *model, "--max-new-tokens", 8, "--jobs", 1, "--out", out, *more, ok=ok)


def test_a_table_tells_analyze_what_evaluation_read_from_the_annotations(ablation, tmp_path):
    (answered, *_) = json.loads(answers_file(ablation, "true").read_text())
    clip = Path(answered["video_path"])
    annotated = json.loads((ablation / "data" / f"telematics_{RECOGNITION.name}_test.json").read_text())
    table = as_csv(tmp_path, [{"video": one["video"][0], **{key: one[key] for key in ("speed", "braking")}}
                              for one in annotated])  # fmt: skip
    found = []
    for name, more in (("told", ["--context", table]), ("untold", [])):
        analyze(ablation, clip, tmp_path / name, *more)
        found.append(json.loads((tmp_path / name / f"{clip.stem}.json").read_text()))
    told, untold = found
    assert told["context"] == {"speed": annotated[0]["speed"], "braking": annotated[0]["braking"]}
    assert "context" not in untold
    assert told["crash_probability"] == pytest.approx(answered["crash_probability"], abs=1e-4)
    assert abs(untold["crash_probability"] - answered["crash_probability"]) > 1e-3
    # What was told decides on whether a result is still good.
    before = (tmp_path / "told" / f"{clip.stem}.json").read_bytes()
    analyze(ablation, clip, tmp_path / "told", "--context", table, "--resume")
    assert (tmp_path / "told" / f"{clip.stem}.json").read_bytes() == before
    analyze(ablation, clip, tmp_path / "told", "--resume")
    assert "context" not in json.loads((tmp_path / "told" / f"{clip.stem}.json").read_text())


@pytest.mark.parametrize(
    ("table", "message"),
    {
        "video,speed,braking\na.mp4,1,2\nb/a.mp4,1,2\n": "row 3: names a.mp4 again; expected each clip once",
        "video,speed\na.mp4,1\n": "has no column 'braking'",
        "video,speed,braking\na.mp4,<image>,2\n": "row 2: context 'speed' holds '<image>'",
    }.items(),
)
def test_a_table_that_cannot_be_told_is_refused_before_any_clip_is_looked_at(tmp_path, table, message):
    (tmp_path / "table.csv").write_text(table)
    with using(TaskSet(SET)), pytest.raises(AnalyzeError, match=re.escape(message)):
        contexts_of(tmp_path / "table.csv", [])


def test_a_set_that_tells_nothing_takes_no_table_and_one_that_requires_it_needs_one(ablation, tmp_path):
    table = as_csv(tmp_path, [{"video": "a.mp4", "speed": 1}])
    clip = next((ablation / "data" / "videos").glob("test_*.mp4"))
    refused = analyze(ablation, clip, tmp_path / "out", "--context", table, ok=False, adapter=False)
    assert "tells nothing of the clips" in refused and not (tmp_path / "out").exists()
    required = TaskSet(task_set(tmp_path, "\n  speed: {words: '{value}', required: true}\n"))
    with using(required):
        assert contexts_of(table, [Path("x/a.mp4")]) == {"a.mp4": {"speed": "1"}}
        for given in (table, None):
            with pytest.raises(AnalyzeError, match="b.mp4: has no 'speed', which .* requires"):
                contexts_of(given, [Path("b.mp4")])


def test_check_data_names_records_without_a_value(ablation, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(ablation / "data", data, symlinks=True)
    path = data / f"telematics_{RECOGNITION.name}_val.json"
    records = json.loads(path.read_text())
    del records[0]["speed"]
    records[1]["braking"] = {"g": 1}
    path.write_text(json.dumps(records))
    words = ["check-data", data, "--task-set", SET, "--no-videos", "--json", tmp_path / "found.json"]
    crashchat(*words, ok=False)
    findings = {one["kind"]: one for one in json.loads((tmp_path / "found.json").read_text())["findings"]}
    assert findings["missing context"]["message"].endswith("no speed")
    assert "found a dict" in findings["unusable record"]["message"]
