"""Every file in configs/ loads; what is wrong in one is named."""

import json
import re
from pathlib import Path

import pytest

from crashchat.config import CONFIG_DIR, ROOT, ConfigError, check_share, describe, load_config, save_config
from crashchat.evaluation_settings import EvalConfig
from crashchat.reporting.published import read_published
from crashchat.second_stages import PreferenceConfig, ReinforceConfig
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from tool.lock import requirements

RECIPE, TINY = CONFIG_DIR / "train" / "recipe.yaml", CONFIG_DIR / "train" / "tiny_model.yaml"
REINFORCE = CONFIG_DIR / "train" / "reinforce_localization.yaml"
PREFER = CONFIG_DIR / "train" / "preferences.yaml"
OVER = (RECIPE, TINY, REINFORCE, PREFER, TINY_REINFORCE := CONFIG_DIR / "train" / "tiny_reinforce.yaml")
TRAIN = sorted(path for path in (CONFIG_DIR / "train").glob("*.yaml") if path not in OVER)
EVAL = sorted((CONFIG_DIR / "eval").glob("*.yaml"))


def test_no_config_is_left_out():
    found = {path for path in CONFIG_DIR.rglob("*") if path.is_file()}
    assert found == {
        *TRAIN,
        *EVAL,
        *OVER,
        *(CONFIG_DIR / "deepspeed").glob("zero[123].json"),
        *(CONFIG_DIR / "tasks").glob("*.yaml"),  # test_task_sets.py loads them
    }


@pytest.mark.parametrize("path", TRAIN, ids=lambda path: path.stem)
def test_train_configs(path):
    config = load_config(TrainConfig, path)
    if path.stem == "pretrain_tiny_base":
        assert config.finetune == "full" and config.tasks == []
        return
    assert (config.lora_rank, config.lora_alpha, config.lora_dropout) == (64, 16, 0.05)
    assert config.learning_rate == config.projector_learning_rate == 1e-5
    assert config.global_batch_size == 24 and config.max_visual_tokens == 10240
    strategy, _, rest = path.stem.partition("_")
    expected = {
        "independent": [rest],
        "homogeneous": list(TASKS.groups.get(rest, [])),
        "heterogeneous": list(TASKS),
    }[strategy]
    assert config.tasks == expected
    assert config.epochs == (20 if strategy == "independent" else 10)
    assert config.output_dir == Path("outputs/train") / path.stem


def test_a_file_of_settings_lies_over_the_strategys_and_below_the_words(tmp_path):
    strategy = CONFIG_DIR / "train" / "homogeneous_perception.yaml"
    config = load_config(TrainConfig, strategy, ["epochs=2", f"with={TINY}"])
    assert config.base_model == Path("ckpt/tiny_base") and config.learning_rate == 3e-3
    assert config.epochs == 2 and config.tasks == list(TASKS.groups["perception"])
    with pytest.raises(ConfigError, match="nowhere.yaml: cannot be read"):
        load_config(TrainConfig, strategy, ["with=nowhere.yaml"])
    with pytest.raises(ConfigError, match="with=3: expected a YAML file of settings"):
        load_config(TrainConfig, strategy, ["with=3"])
    (tmp_path / "odd.yaml").write_text("learning_rat: 1\n")
    with pytest.raises(ConfigError, match="unknown key 'learning_rat'"):
        load_config(TrainConfig, strategy, [f"with={tmp_path / 'odd.yaml'}"])


def test_the_second_stages():
    config = load_config(ReinforceConfig, REINFORCE)
    assert config.tasks == list(TASKS.groups["perception"]) and config.supervised_tasks == list(
        TASKS.groups["linguistic"]
    )
    assert config.learning_rate == 1e-5 and config.global_batch_size == 24 and config.adapter is None
    config = load_config(PreferenceConfig, PREFER)
    assert config.beta == 0.1 and config.keeps_start and config.learning_rate == 1e-5
    tiny = load_config(ReinforceConfig, REINFORCE, [f"with={TINY_REINFORCE}"])
    assert tiny.base_model == Path("ckpt/tiny_base") and tiny.max_steps == 300 and tiny.rollouts == 8


@pytest.mark.parametrize("path", EVAL, ids=lambda path: path.stem)
def test_eval_configs(path):
    config = load_config(EvalConfig, path)
    assert config.max_visual_tokens == 16384 and config.split == "test"
    assert config.tasks == (list(TASKS) if path.stem in ("all_tasks", "recipe") else [path.stem])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_deepspeed_configs(stage):
    settings = json.loads((CONFIG_DIR / "deepspeed" / f"zero{stage}.json").read_text())
    assert settings["zero_optimization"]["stage"] == stage
    # What our own settings say must not be said twice.
    assert settings["train_micro_batch_size_per_gpu"] == settings["gradient_accumulation_steps"] == "auto"


def test_the_resolved_config_reads_back_equal(tmp_path):
    config = load_config(
        TrainConfig, TRAIN[0], ["epochs=2", "max_steps=7", "tasks=crash_recognition,crash_description"]
    )
    save_config(config, tmp_path / "resolved.yaml")
    assert load_config(TrainConfig, tmp_path / "resolved.yaml") == config
    assert config.tasks == ["crash_recognition", "crash_description"] and config.epochs == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("epoch=2", "unknown key 'epoch'; known are"),
        ("epochs=many", "epochs: .*'many'"),
        ("epochs=-1", "epochs: .*greater than 0"),
        ("tasks=crash_recogniton", "unknown tasks .*crash_recogniton"),
        ("save_steps=70", "save_steps=70 is not a multiple of eval_steps=50"),
        ("optimizer=adamw_8bit deepspeed=x.json", "does not go with deepspeed"),
        ("epochs", "'epochs' is not key=value"),
        ("epochs=[", "not YAML"),
        ("fps=1e29", "fps: found 1e29|fps: found '1e29', .*less than or equal to 1000"),
        ("weight_decay=.inf", "weight_decay: found inf, expected a finite number"),
        ("weight_decay=.nan", "weight_decay: found nan, expected a finite number"),
        ("epochs=true", "epochs: found True, expected no true or false"),
        ("lora_rank=1000000000", "lora_rank: found 1000000000, expected less than or equal to 4096"),
        ("seed=-1", "seed: found -1"),
        ("output_dir=2001-99-99", "not YAML: month must be in 1..12"),
        ("epochs=" + "[" * 3000, "nested too deeply"),
        ("epochs=0x" + "f" * 6000, "epochs: found a int too large to be shown"),
    ],
)
def test_wrong_settings_are_named(override, message):
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_config(TrainConfig, CONFIG_DIR / "train" / "heterogeneous.yaml", override.split())


def test_wrong_files_are_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere.yaml: cannot be read"):
        load_config(TrainConfig, tmp_path / "nowhere.yaml")
    (tmp_path / "list.yaml").write_text("- a")
    with pytest.raises(ConfigError, match="list.yaml: found a list"):
        load_config(TrainConfig, tmp_path / "list.yaml")
    for base in ("5", "[]", "list.yaml/x"):
        (tmp_path / "based.yaml").write_text(f"base: {base}")
        with pytest.raises(ConfigError, match="based.yaml: base: found|list.yaml/x: cannot be read"):
            load_config(TrainConfig, tmp_path / "based.yaml")
    (tmp_path / "one.yaml").write_text("base: two.yaml")
    (tmp_path / "two.yaml").write_text("base: one.yaml")
    with pytest.raises(ConfigError, match="two.yaml: base: 'one.yaml' is based on this file itself"):
        load_config(TrainConfig, tmp_path / "one.yaml")
    (tmp_path / "twice.yaml").write_text("epochs: 1\nepochs: 2")
    with pytest.raises(ConfigError, match="twice.yaml: not YAML: the key 'epochs' is there twice"):
        load_config(TrainConfig, tmp_path / "twice.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"epochs: \xff\xfe")
    with pytest.raises(ConfigError, match="bytes.yaml: not YAML"):
        load_config(TrainConfig, tmp_path / "bytes.yaml")
    (tmp_path / "no_output.yaml").write_text("epochs: 1")
    with pytest.raises(ConfigError, match="output_dir is missing"):
        load_config(TrainConfig, tmp_path / "no_output.yaml")


def test_every_setting_has_a_doc():
    for kind in (TrainConfig, ReinforceConfig, PreferenceConfig, EvalConfig):
        assert all(field.description for field in kind.model_fields.values())
        assert "None" not in [line.strip() for line in describe(kind).splitlines()]


def test_the_global_batch_is_shared_or_refused():
    config = TrainConfig(output_dir="out")
    for processes in (1, 5, 8, 24):
        check_share(config, processes)
    with pytest.raises(ConfigError, match="global_batch_size=24: 25 processes cannot share so few"):
        check_share(config, 25)


def test_the_locked_versions_are_such_as_are_asked_for():
    lines = (ROOT / "requirements.lock").read_text().splitlines()[1:]
    locked = dict(line.split("==") for line in lines)
    asked = requirements(ROOT / "requirements.txt")
    assert len(asked) > 25 and len(locked) > 80
    for one in asked:
        assert one.specifier.contains(locked[one.name.lower().replace("_", "-")]), one


@pytest.mark.parametrize(
    "path", [path for path in TRAIN if path.stem != "pretrain_tiny_base"], ids=lambda path: path.stem
)
def test_a_strategys_head_gives_its_command_and_the_published_figures(path):
    head = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    script = re.search(r"bash (scripts/train/\S+\.sh) 8", head)[1]
    assert f"configs/train/{path.name}" in (ROOT / script).read_text()
    published = read_published()["results"][f"CrashChat-7B {path.stem.split('_')[0]}"]
    figures = re.findall(r"(\w+) (macro_f1|bleu|miou) (\d\.\d{3})", head)
    assert [task for task, *_ in figures] == load_config(TrainConfig, path).tasks
    for task, metric, value in figures:
        assert float(value) == round(float(published[task][metric]), 3)
