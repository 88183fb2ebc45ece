"""Starved exits: runs on two processes whose gloo threads get next to no time when they end."""

import os
import queue
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.faults.bench import ROOT, TINY_BASE, Bench, Row, evaluation, training
from tests.faults.running import ENVIRONMENT, SLOWEST
from tests.helpers.starving import run_starved

SHORT = ("max_steps=1", "eval_steps=1", "save_steps=1")
KINDS = ("ZeRO-1", "ZeRO-2", "ZeRO-3", "DDP", "evaluation")


def exit_once(bench: Bench, number: int) -> tuple[str, str]:
    """One run on two processes, on one core of this thread's: what it was, and what is wrong."""
    kind = KINDS[number % len(KINDS)]
    out = bench.folder / "exits" / str(number)
    if kind == "evaluation":
        words, begun, result = (
            evaluation(bench.data, TINY_BASE, out, 2, "limit=2"),
            "**/*.jsonl",
            "**/*_predict.json",
        )
    else:
        stage = [f"deepspeed=configs/deepspeed/zero{kind[-1]}.json"] if "ZeRO" in kind else []
        words, begun, result = (
            training(bench.data, out, 2, *SHORT, *stage),
            "checkpoint-*",
            "adapter_model.safetensors",
        )

    def there(pattern: str) -> bool:
        return any(out.glob(pattern))

    try:
        words = [str(word) for word in words]
        done = run_starved(words, lambda: there(begun), SLOWEST, cwd=ROOT, env=os.environ | ENVIRONMENT)
    except subprocess.TimeoutExpired:
        return "", f"{kind}: has not ended in {SLOWEST:.0f} s"
    if done.returncode or not there(result):
        log = out.with_suffix(".log")
        log.write_text(done.stdout)
        abort = ", SIGABRT" if "Signal 6" in done.stdout or "terminate called" in done.stdout else ""
        return (
            "",
            f"{kind}: exit code {done.returncode}{abort}, its result is "
            f"{'' if there(result) else 'not '}there; see {log}",
        )
    shutil.rmtree(out)
    return kind, ""


def run(bench: Bench, seed: int, numbers: Iterable[int]) -> Row:
    """One at a time on each core. What differs from run to run is the machine, not a seed."""
    row, numbers = Row("2 processes, starved at their end"), list(numbers)
    (bench.folder / "exits").mkdir()
    bench.prepare()
    cores: queue.SimpleQueue[int] = queue.SimpleQueue()
    for core in sorted(os.sched_getaffinity(0))[:2]:
        cores.put(core)
    # A thread's affinity is its own, and what it starts inherits it.
    with ThreadPoolExecutor(
        cores.qsize(), initializer=lambda: os.sched_setaffinity(0, {cores.get()})
    ) as pool:
        for number, (kind, loss) in zip(
            numbers, pool.map(lambda number: exit_once(bench, number), numbers), strict=True
        ):
            row.add(number, kind, loss)
    return row
