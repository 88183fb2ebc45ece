"""Starved exits: runs on two processes whose gloo threads get next to no time when they end."""

import os
import queue
import shutil
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from tests.faults.bench import ENVIRONMENT, ROOT, SLOWEST, TINY_BASE, Bench, Row, evaluation, training
from tests.starving import run_starved

SHORT = ("max_steps=1", "eval_steps=1", "save_steps=1")
KINDS = ("ZeRO-1", "ZeRO-2", "ZeRO-3", "DDP", "evaluation")


def exit_once(bench: Bench, number: int) -> tuple[str, str]:
    """One run on two processes, on one core of this thread's: what it was, and what is wrong."""
    kind = KINDS[number % len(KINDS)]
    out = bench.folder / "exits" / str(number)
    if kind == "evaluation":
        words, result = evaluation(bench.data, TINY_BASE, out, 2, "limit=2"), "**/*_predict.json"
    else:
        stage = [f"deepspeed=configs/deepspeed/zero{kind[-1]}.json"] if "ZeRO" in kind else []
        words, result = training(bench.data, out, 2, *SHORT, *stage), "adapter_model.safetensors"
    log = out.with_suffix(".log")
    try:
        done = run_starved([str(word) for word in words], SLOWEST, cwd=ROOT, env=os.environ | ENVIRONMENT)
    except subprocess.TimeoutExpired:
        return "", f"{kind}: has not ended in {SLOWEST:.0f} s"
    log.write_text(done.stdout + done.stderr)
    wrong = f"exit code {done.returncode}" if done.returncode else ""
    if "terminate called" in done.stderr or "Signal 6" in done.stderr:
        wrong += ", SIGABRT"
    there = bool(list(out.glob(result)))
    if wrong or not there:
        return "", f"{kind}: {wrong or 'exit code 0'}, its result is {'there' if there else 'missing'}; see {log}"
    shutil.rmtree(out)
    log.unlink()
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
    with ThreadPoolExecutor(cores.qsize(), initializer=lambda: os.sched_setaffinity(0, {cores.get()})) as pool:
        for number, (kind, loss) in zip(numbers, pool.map(lambda number: exit_once(bench, number), numbers), strict=True):
            row.add(number, kind, loss)
    return row
