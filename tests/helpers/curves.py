"""Loss curves of twenty steps of every strategy on the tiny model; what tests/assets/loss_curves.json
recorded.

python -m tests.helpers.curves float32 DATA FOLDER      one type's curves as JSON, in one process
make curves                                             record both anew, after a change of what is learnt
"""

import json
import os
import sys
import tempfile
from pathlib import Path

from crashchat.config import CONFIG_DIR, ROOT, load_config

CURVES = ROOT / "tests" / "assets" / "loss_curves.json"
STEPS = 20
SETTINGS = [
    f"base_model={ROOT / 'ckpt' / 'tiny_base'}", f"max_steps={STEPS}", f"eval_steps={STEPS}",
    f"save_steps={STEPS}", "lora_rank=4", "lora_dropout=0", "learning_rate=3e-3", "global_batch_size=6",
    "max_frames=8", "val_videos=1", "num_workers=0", "cache_videos=20", "early_stopping_patience=null",
]  # fmt: skip


def strategies() -> list[str]:
    """The nine of configs/train."""
    files = sorted(CONFIG_DIR.glob("train/*.yaml"))
    return [
        path.stem for path in files if path.stem.startswith(("heterogeneous", "homogeneous", "independent"))
    ]


def curves(dtype: str, data: Path, folder: Path, names: list[str]) -> dict[str, list[float]]:
    """{strategy: training loss of each step}."""
    from crashchat.settings import TrainConfig
    from crashchat.training.train import train

    found = {}
    for name in names:
        words = [*SETTINGS, f"dtype={dtype}", f"data_dir={data}", f"output_dir={folder / name}"]
        train(load_config(TrainConfig, CONFIG_DIR / "train" / f"{name}.yaml", words))
        state = json.loads((folder / name / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())
        found[name] = [record["loss"] for record in state["log_history"] if "loss" in record]
    return found


def main() -> None:
    dtype, data, folder, *names = sys.argv[1:]
    with open(os.devnull, "w") as nowhere:
        out, sys.stdout = sys.stdout, nowhere
        found = curves(dtype, Path(data), Path(folder), names or strategies())
    print(json.dumps(found), file=out)


def record() -> None:
    """Write tests/assets/loss_curves.json anew, from the data set that the tests use."""
    import subprocess

    from crashchat.synthetic.make import make_demo_set

    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        make_demo_set(data, train=6, val=3, test=4, seed=7, workers=1)
        recorded = {}
        for dtype in ("float32", "bfloat16"):
            command = [sys.executable, "-m", "tests.helpers.curves", dtype, str(data), f"{folder}/{dtype}"]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
            recorded[dtype] = json.loads(done.stdout)
    CURVES.parent.mkdir(exist_ok=True)
    CURVES.write_text(json.dumps(recorded, indent=1) + "\n")


if __name__ == "__main__":
    record() if sys.argv[1:] == ["record"] else main()
