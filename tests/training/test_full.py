"""finetune=full: every weight is trained, by one process and sharded over two by ZeRO-3."""

import shutil

from safetensors.torch import load_file

from tests.helpers.commands import copy_of, train

FULL = ("finetune=full", "max_steps=2", "eval_steps=1", "save_steps=1", "val_videos=2", "learning_rate=1e-4")
SHARDED = (*FULL, "deepspeed=configs/deepspeed/zero3.json")


def test_a_sharded_training_learns_what_one_process_does_and_goes_on_after_a_kill(
    tiny_base, tiny_data, tmp_path
):
    alone, sharded, again = (tmp_path / name for name in ("alone", "sharded", "again"))
    train(tiny_data, alone, 1, *FULL)
    train(tiny_data, sharded, 2, *SHARDED)
    copy_of(sharded, again)
    for name in ("model", "checkpoint-2"):
        shutil.rmtree(again / name)
    assert f"going on from {again}/checkpoint-1" in train(tiny_data, again, 2, *SHARDED)
    base, one, two, resumed = (
        load_file(folder / "model.safetensors")
        for folder in (tiny_base, alone / "model", sharded / "model", again / "model")
    )
    assert one.keys() == two.keys() == resumed.keys() == base.keys()
    for name, weight in one.items():
        assert (weight - two[name]).abs().max() < 2e-5, name
        assert (resumed[name] - two[name]).abs().max() < 1e-6, name
    moved = [name for name in base if not one[name].equal(base[name].float())]
    assert len(moved) == len(base)
