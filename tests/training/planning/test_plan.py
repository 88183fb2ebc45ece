"""crashchat plan, and the line before a training that would not fit."""

import json
import re
import shlex

import pytest
import torch

from crashchat.config import CONFIG_DIR, ROOT, load_config
from crashchat.second_stages import ReinforceConfig
from crashchat.training.planning.ledger import TRAINED
from crashchat.training.planning.making import shortfall
from crashchat.training.planning.plan import warn_of_memory
from tests.helpers.commands import TRAIN_CONFIG, crashchat
from tests.helpers.pairs import write_pairs
from tests.helpers.planning import config_of

PREFERRED = CONFIG_DIR / "train" / "preferences.yaml"
REINFORCED = CONFIG_DIR / "train" / "reinforce_localization.yaml"


def test_a_plan_is_printed_and_written(tiny_base, tiny_data, tmp_path):
    words = [
        "plan", TRAIN_CONFIG, "--gpu", "l40s-48", "--gpus", "2", "with=configs/train/tiny_model.yaml",
        f"base_model={tiny_base}", f"data_dir={tiny_data}", "--price", "2", "--tflops", "100",
        "--json", tmp_path / "plan.json",
    ]  # fmt: skip
    told = crashchat(*words)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert f"{tiny_base}, its config.json" in told and "questions and answers of the annotations" in told
    assert "100 TFLOP/s a GPU, 28% of its peak" in told and "2.00 $ a GPU-hour" in told
    assert plan["videos"] == 6 and plan["peak"] == sum(plan["memory"]["at_peak"].values())
    assert plan["dollars"]["run"] == pytest.approx(plan["seconds"]["run"] / 3600 * 2 * 2)
    assert plan["step"]["computing"] == pytest.approx(plan["step"]["slowest"] / 100e12)
    assert [one["settings"] for one in plan["fits"]] == [[]] * 4
    assert "does not fit" not in told
    assert "expected one of rtx4090-24, " in crashchat("plan", TRAIN_CONFIG, "--gpu", "h1000", ok=False)
    refused = crashchat("plan", TRAIN_CONFIG, "--gpus", "25", ok=False)
    assert "25 processes cannot share so few questions" in refused


@pytest.mark.slow  # the 7B model's plan takes twenty seconds; the test before it has a small one's
def test_the_page_has_the_recipes_plan(tmp_path):
    """As the command prints it where neither the released model nor the released data are at hand."""
    lines = (ROOT / "docs" / "gpus.md").read_text().splitlines()
    (first,) = (index for index, line in enumerate(lines) if line.startswith("    crashchat plan "))
    words = shlex.split(lines[first])[1:]
    told = crashchat(
        *words, f"base_model={tmp_path}", f"data_dir={tmp_path}", "--json", tmp_path / "plan.json"
    )
    shown = [line.removeprefix("    ") for line in lines[first + 2 :]]
    printed = [line.rstrip() for line in told.splitlines()]
    printed = printed[printed.index(shown[0]) :]
    assert shown[: len(printed)] == printed
    plan = json.loads((tmp_path / "plan.json").read_text())
    # LoRA's 161.5 million weights and the projector's 17.0 million, in float32.
    assert plan["memory"]["largest"][TRAINED] == 4 * 178_461_696
    assert plan["questions"] == 77_060 and plan["steps_an_epoch"] == 3_211


def test_before_training_a_line_says_that_it_would_not_fit(tiny_base, tiny_data, tmp_path, capsys):
    config = config_of(tiny_base, tiny_data, tmp_path)
    line = shortfall(config, 10 * 2**20, 1)
    assert line and re.search(r"a pass of [\d,]+ tokens is planned to take .* of a card that has 0.0", line)
    assert shortfall(config, 2**40, 1) is None
    words = [f"data_dir={tiny_data}", f"base_model={tiny_base}", "output_dir=out", "global_batch_size=0"]
    assert shortfall(load_config(ReinforceConfig, None, words), 10 * 2**20, 1)
    if not torch.cuda.is_available():  # no card to be told of
        warn_of_memory(config)
        assert capsys.readouterr().err == ""


def test_what_drawing_takes_is_told(tiny_base, tiny_data, tmp_path):
    out, words = tmp_path / "plan.json", [f"base_model={tiny_base}", f"data_dir={tiny_data}"]
    given = ("--gpus", 2, "--tflops", 1, "--json", out)
    alone = ["supervised_tasks=[]", "global_batch_size=0"]
    told = crashchat("plan", REINFORCED, *words, *alone, "adapter=nowhere", "lora_rank=8", *given)
    assert "an adapter of rank 8 (lora_rank, as nowhere is not there)" in told
    assert re.search(r"drawing answers +[\d,]+ +\d+%", told) and "drawing waits" in told
    plan = json.loads(out.read_text())
    assert plan["steps"] == 600 and plan["step"]["operations"]["drawing"] > 0
    assert plan["step"]["computing"] > plan["step"]["waiting"] > 0
    drawn = [[len(one["answers"]) for one in video["questions"]] for video in plan["longest"]]
    assert drawn and all(own == [8, 8] for own in drawn), "eight answers to two questions"
    assert "unknown key 'nonsense'" in crashchat("plan", REINFORCED, *words, "nonsense=1", ok=False)


def test_what_pairs_take_is_told(tiny_base, tiny_data, tmp_path):
    files = [write_pairs(tiny_data, tmp_path / f"{split}.json", split) for split in ("train", "val")]
    words = [f"base_model={tiny_base}", f"data_dir={tiny_data}"]
    words += ["global_batch_size=4", f"annotation_files={{train: [{files[0]}], val: [{files[1]}]}}"]
    told = crashchat("plan", PREFERRED, *words, "adapter=nowhere", "--json", tmp_path / "plan.json")
    assert re.search(r"the model as it was at the start +[\d,]+ +\d+%", told)
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["questions"] == 6 and plan["steps_an_epoch"] == 2
    refused = crashchat("plan", PREFERRED, "--command", "train", *words, ok=False)
    assert "unknown key 'beta'" in refused
    parts = plan["step"]["operations"]
    assert parts["start"] == pytest.approx(parts["forward"] + parts["trained"] / 3)
    assert "data/pairs_train.json: cannot be read" in crashchat("plan", PREFERRED, *words[:2], ok=False)
