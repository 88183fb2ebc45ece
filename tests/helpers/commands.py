"""Commands as a user gives them, in real processes, and the adapters that they leave."""

import io
import os
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from safetensors.torch import load_file

from crashchat import __main__ as program
from crashchat.config import ROOT
from tests.helpers.forks import ranks

TRAIN = "scripts/train/Heterogeneous_multitask_models_all_tasks.sh"
TRAIN_CONFIG = "configs/train/heterogeneous.yaml"  # what it gives the launcher
SETTINGS = [
    "base_model=ckpt/tiny_base", "max_steps=4", "eval_steps=2", "save_steps=2", "lora_rank=4",
    "lora_dropout=0", "learning_rate=1e-3", "projector_learning_rate=1e-3",
    "gradient_checkpointing=false", "num_workers=0",
]  # fmt: skip


ENVIRONMENT = os.environ | {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}


def run(*command: str | Path, ok: bool = True) -> str:
    """Run a command at the project's root; returns what it printed,
    and fails the test if its exit code is not as hoped.
    """
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, output[-4000:]
    return output


def crashchat(*words: str | Path, ok: bool = True) -> str:
    """`crashchat …` in this process: as `run`, without the seconds that another one needs to import torch.

    For what a command does; how a process of its own starts and ends, `run` shows.
    """
    with chdir(ROOT), redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
        code = program.main([str(word) for word in words])
    assert (code == 0) == ok, out.getvalue()[-4000:]
    return out.getvalue()


def settings_of(tiny_data: Path, out: Path, *more: str) -> list[str]:
    """The settings of a short training."""
    return [*SETTINGS, f"data_dir={tiny_data}", f"output_dir={out}", *more]


def train_command(tiny_data: Path, out: Path, processes: int, *more: str) -> list[str]:
    """The heterogeneous training script."""
    return ["bash", TRAIN, str(processes), *settings_of(tiny_data, out, *more)]


def forked(*words: str | Path, processes: int = 1, ok: bool = True) -> str:
    """`crashchat …` in processes forked from this one: as `run`, without the seconds that each needs to
    import what it takes.
    """
    done = ranks([str(word) for word in words], processes)
    assert (done.returncode == 0) == ok, done.stdout[-4000:]
    return done.stdout


def train(tiny_data: Path, out: Path, processes: int, *more: str, ok: bool = True) -> str:
    """What that script runs; returns what it printed."""
    words = ["train", TRAIN_CONFIG, *settings_of(tiny_data, out, *more)]
    return forked(*words, processes=processes, ok=ok)


def begin_training(tiny_data: Path, out: Path, *more: str, ok: bool = False) -> str:
    """What the script runs, in this process: it must end before it trains. Returns what it printed."""
    return crashchat("train", TRAIN_CONFIG, *settings_of(tiny_data, out, *more), ok=ok)


def copy_of(run_folder: Path, out: Path) -> Path:
    """A copy of a training's output folder, with which the training itself could go on."""
    shutil.copytree(run_folder, out)
    config = out / "train_config.yaml"
    config.write_text(config.read_text().replace(str(run_folder), str(out)))
    return out


def unfinished(run_folder: Path, out: Path) -> Path:
    """A copy of one, as if it had been killed after its last checkpoint."""
    copy_of(run_folder, out)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (out / name).unlink()
    return out


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def distance(one: Path, other: Path) -> float:
    """Largest difference between the weights of two adapters of the same names and shapes."""
    first, second = adapter(one), adapter(other)
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)
