"""What the campaigns share: rows of the table, processes with an end, workers that may die,
and a small set to work on.
"""

import contextlib
import io
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from crashchat.config import ROOT
from crashchat.synthetic.make import make_demo_set
from tests.faults.running import Running, Workers

TINY_BASE = ROOT / "ckpt" / "tiny_base"


@dataclass
class Row:
    """One line of the table.

    kinds: how the cases that went as they should ended; losses: what went wrong, with its number.
    """

    what: str
    kinds: Counter[str] = field(default_factory=Counter)
    losses: list[tuple[int | None, str]] = field(default_factory=list)

    def add(self, number: int, kind: str, loss: str = "") -> None:
        """Count a case; `loss` says what is wrong, empty where nothing is."""
        if loss:
            self.losses.append((number, loss))
        else:
            self.kinds[kind] += 1

    @property
    def tried(self) -> int:
        """Cases in all."""
        return self.kinds.total() + len(self.losses)

    def cells(self) -> tuple[str, str, str, str]:
        """what, tried, survived, lost or wrong"""
        survived = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.most_common())
        return self.what, f"{self.tried:,}", survived or "0", f"{len(self.losses):,}"


def drawing(campaign: str, seed: int, number: int) -> random.Random:
    """The random numbers of one case."""
    return random.Random(f"{campaign}/{seed}/{number}")


def unclear(code: int, output: str) -> str:
    """What is wrong with the end of a command that failed: no line says `error: …`, or a traceback does.

    Empty: nothing.
    """
    lines = output.strip().splitlines()
    if "Traceback (most recent call last)" in output:
        errors = re.findall(r"^[\w.]*(?:Error|Exception|Exit)\b.*", output, re.MULTILINE)
        return f"a traceback: {(errors or lines)[-1][:200]}"
    if code < 0:
        return f"ended by signal {-code}"
    if code and not any(line.startswith("error: ") for line in lines[-40:]):
        return f"exit code {code} without an error line: {lines[-1:]}"[:300]
    return ""


TRAINING = (
    "base_model=ckpt/tiny_base global_batch_size=6 max_steps=6 eval_steps=2 save_steps=2 lora_rank=4 "
    "num_workers=0 "
    "learning_rate=1e-3 projector_learning_rate=1e-3 gradient_checkpointing=false"
).split()
ASKING = (
    "max_new_tokens=16 num_workers=0 max_tokens_per_batch=1".split()
)  # each video alone: the same digits in any order


def training(data: Path, out: Path | str, processes: int = 1, *more: str) -> list[str]:
    """The words of a training."""
    words = [
        "bash",
        "scripts/launch.sh",
        "train",
        "configs/train/heterogeneous.yaml",
        str(processes),
    ]
    return [*words, *TRAINING, f"data_dir={data}", f"output_dir={out}", *more]


def evaluation(data: Path, model: Path, out: Path | str, processes: int = 1, *more: str) -> list[str]:
    """The words of an evaluation."""
    words = [
        "bash",
        "scripts/launch.sh",
        "evaluate",
        "configs/eval/all_tasks.yaml",
        str(processes),
    ]
    return [*words, *ASKING, f"model={model}", f"data_dir={data}", f"output_dir={out}", *more]


class Bench:
    """A folder to work in, workers, and what is made in it once: a small synthetic set, an adapter."""

    def __init__(self, folder: Path, workers: int = 2):
        self.folder = folder
        self.workers = Workers(folder, workers)

    @property
    def data(self) -> Path:
        """6 training, 3 validation and 6 test clips with their annotations."""
        return self.folder / "data"

    @property
    def adapter(self) -> Path:
        """An adapter on ckpt/tiny_base, trained for two steps."""
        return self.folder / "adapter"

    def prepare(self, adapter: bool = False) -> None:
        """Make the data and, where it is asked for, the adapter, unless they are there."""
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            make_demo_set(self.data, train=6, val=3, test=6, seed=7, workers=1)
        if adapter and not self.adapter.is_dir():
            self.done(training(self.data, self.adapter, 1, "max_steps=2"), "adapter")

    def done(
        self, words: Iterable[object], name: str, look: Callable[[Running], int] = lambda running: 0
    ) -> int:
        """Run what must succeed; returns what `look` says of it meanwhile.

        Raises RuntimeError where it fails.
        """
        running = Running(words, self.folder / "logs" / f"{name}.log")
        seen = look(running)
        if wrong := running.wait() or (f"exit code {running.code}" if running.code else ""):
            raise RuntimeError(f"{name}, undisturbed: {wrong}\n{running.output()[-3000:]}")
        return seen
