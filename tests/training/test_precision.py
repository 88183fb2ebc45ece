"""bfloat16 as on a GPU: what is trained moves, plain and under ZeRO, and checkpoints hold its float32
weights.
"""

from pathlib import Path

import pytest
import torch

from tests.helpers.commands import adapter, train

RECIPE = [
    "dtype=bfloat16", "learning_rate=1e-5", "projector_learning_rate=1e-5", "lora_dropout=0.05",
    "gradient_checkpointing=true", "eval_steps=20", "save_steps=20", "early_stopping_patience=null",
    "global_batch_size=4", "val_videos=1",
]  # fmt: skip


def moved(before: Path, after: Path) -> dict[str, float]:
    """Shares of the weights that differ: of LoRA and of the projector."""
    first, second = adapter(before), adapter(after)
    assert first.keys() == second.keys()
    assert {weight.dtype for weight in second.values()} == {torch.float32}
    shares = {}
    for part in ("lora_", "projector"):
        names = [name for name in first if part in name]
        same = sum(int((first[name] == second[name]).sum()) for name in names)
        shares[part] = 1 - same / sum(first[name].numel() for name in names)
    return shares


@pytest.fixture(scope="module")
def begun(tiny_data, tmp_path_factory):
    """The adapter as it begins: a first step's learning rate is 0."""
    out = tmp_path_factory.mktemp("begun") / "out"
    assert "dtype torch.bfloat16" in train(tiny_data, out, 1, *RECIPE, "max_steps=1")
    return out


@pytest.mark.parametrize("way", [[], ["deepspeed=configs/deepspeed/zero1.json"]], ids=["plain", "zero1"])
def test_twenty_recipe_steps_move_all_that_is_trained(way, begun, tiny_data, tmp_path):
    """In a projector of bfloat16 1.7 % moved."""
    train(tiny_data, tmp_path / "trained", 1, *RECIPE, *way, "max_steps=20")
    shares = moved(begun, tmp_path / "trained")
    assert min(shares.values()) >= 0.99, shares
    assert moved(begun, begun) == {"lora_": 0, "projector": 0}
