"""Commands as a user gives them, in real processes, and the adapters that they leave."""

import io
import os
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from safetensors.torch import load_file

from crashchat import __main__ as program
from crashchat.config import ROOT

TRAIN = "scripts/train/Heterogeneous_multitask_models_all_tasks.sh"
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


def train_command(tiny_data: Path, out: Path, *words: str | int) -> list[str]:
    """The heterogeneous training script: number of processes, then settings."""
    processes, *settings = words
    return [
        "bash",
        TRAIN,
        str(processes),
        *SETTINGS,
        f"data_dir={tiny_data}",
        f"output_dir={out}",
        *map(str, settings),
    ]


def train(tiny_data: Path, out: Path, *words: str | int, ok: bool = True) -> str:
    """Run it; returns what it printed."""
    return run(*train_command(tiny_data, out, *words), ok=ok)


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


def distance(one: Path, other: Path) -> float:
    """Largest difference between the weights of two adapters of the same names and shapes."""
    first, second = adapter(one), adapter(other)
    assert first.keys() == second.keys()
    return max(float((first[key] - second[key]).abs().max()) for key in first)
