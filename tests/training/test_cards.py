"""The card that a run leaves: what it learnt on and how."""

import json
import shutil

from crashchat.checkpoints.model_card import as_readme, read_card
from crashchat.data.datasets import names_hash
from crashchat.provenance import CARD_FILE, content_hash, file_hash
from crashchat.settings import TrainConfig
from crashchat.tasks import TASKS
from crashchat.training.card import card_of, task_set
from crashchat.video.tokens import VideoSettings
from tests.helpers.commands import begin_training, distance, train, unfinished

QUICK = ["max_steps=2", "eval_steps=1", "save_steps=1", "global_batch_size=4"]


def test_a_run_leaves_a_card_of_what_it_learnt_on_and_how(trained_by_two, tiny_data, tiny_base):
    card = read_card(trained_by_two)
    assert card.kind == "adapter" and card.name == "trained_by_two" and card.unknown == []
    assert (card.base.name, card.base.sha256) == ("tiny_base", content_hash(tiny_base))
    for use, split, videos in zip(card.data, ("train", "val"), (6, 3), strict=True):
        assert (use.name, use.drawn, use.split, use.videos) == ("CrashChat synthetic", True, split, videos)
        assert use.annotations == {
            path.name: file_hash(path) for path in tiny_data.glob(f"crashchat*_{split}.json")
        }
        assert use.names_sha256 == names_hash(path.name for path in tiny_data.glob(f"videos/{split}_*"))
    assert card.data[0].questions == 6 * 4 + 3 * 2  # half of the clips are crashes, with two more questions
    assert card.tasks == task_set(list(TASKS))
    wanted = {"lora_rank": 4, "learning_rate": 1e-3, "fps": 4.0, "max_frames": 40, "processes": 2, "steps": 4}
    assert card.settings.items() >= wanted.items()
    log = json.loads((trained_by_two / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    losses = {line["eval_loss"]: line["step"] for line in log if "eval_loss" in line}
    assert card.best_validation_loss == min(losses)
    assert card.settings["steps_of_the_best"] == losses[min(losses)]
    assert card.clips.videos == 6 and (card.clips.width.low, card.clips.height.high) == (224, 112)
    assert card.clips.fps.middle == 10 and 0.2 < card.clips.brightness.middle < 0.7
    assert card.scores == [] and card.versions.keys() >= {"crashchat", "torch"} and card.made
    assert "train" in card.command and f"output_dir={trained_by_two}" in card.command
    assert (trained_by_two / "README.md").read_text() == as_readme(card)


def test_a_readme_in_the_output_folder_is_not_overwritten(trained_by_two, tiny_data, tmp_path):
    out = unfinished(trained_by_two, tmp_path / "out")
    (out / "README.md").write_text("# My notes\n")
    (out / CARD_FILE).unlink()
    output = train(tiny_data, out, 2)
    assert output.count("left as it is") == 1 and (out / "README.md").read_text() == "# My notes\n"
    assert read_card(out).data == read_card(trained_by_two).data and distance(trained_by_two, out) == 0


def test_a_whole_models_card_holds_what_its_base_learnt_on(tiny_data, tiny_base, tmp_path):
    real = shutil.copytree(tiny_data, tmp_path / "roads")
    (real / "dataset.json").write_text('{"name": "Roads"}')
    train(real, tmp_path / "out", 1, *QUICK, "finetune=full", "tasks=crash_recognition")
    card = read_card(tmp_path / "out" / "model")
    assert card.kind == "model" and card.name == "out" and card.tasks.names == ["crash_recognition"]
    assert [(known.name, known.drawn) for known in card.trained_on] == [
        ("CrashChat synthetic", True),
        ("Roads", False),
    ]
    assert card.data[0] == read_card(tiny_base).data[0] and "lora_rank" not in card.settings
    plain = shutil.copytree(tiny_base, tmp_path / "plain")
    (plain / CARD_FILE).unlink()
    config = TrainConfig(output_dir=tmp_path / "next", base_model=plain, finetune="full")
    assert card_of(config, VideoSettings(), videos=[], uses=[]).unknown == ["plain"]
    lora = TrainConfig(output_dir=tmp_path / "next", base_model=plain)
    assert card_of(lora, VideoSettings(), videos=[], uses=[]).unknown == []


def test_a_damaged_card_or_data_set_ends_a_run_before_the_model_is_loaded(tiny_data, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / CARD_FILE).write_text("{")
    words = [f"base_model={base}"]
    output = begin_training(tiny_data, tmp_path / "out", *words)
    assert f"{base / CARD_FILE}: not JSON" in output and "layout" not in output
    data = shutil.copytree(tiny_data, tmp_path / "data")
    (data / "dataset.json").write_text('{"drawn": 1}')
    output = begin_training(data, tmp_path / "out", *QUICK)
    assert f"{data / 'dataset.json'}: name is missing" in output and "layout" not in output
