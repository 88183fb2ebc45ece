"""What the benchmarks that train on drawn clips share: commands in their own process, and tables of what one
way of training gained over another.
"""

import json
import os
import resource
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from common import ROOT, machine

from crashchat import __main__ as program
from crashchat.files import write_json_atomic
from crashchat.metrics.bootstrap import Difference, paired, paired_mean
from crashchat.metrics.by_kind import shown
from crashchat.metrics.sums import Sums
from crashchat.tasks import TASKS

BASE = "ckpt/tiny_base"
TINY = "with=configs/train/tiny_model.yaml"


def at_root() -> None:
    """Go where commands run, so that a folder means the same to all, and leave progress bars out of logs."""
    os.chdir(ROOT)
    os.environ |= {"TQDM_DISABLE": "1", "TOKENIZERS_PARALLELISM": "false"}


def processor_seconds(whose: int = resource.RUSAGE_SELF) -> float:
    """What this process, or those that it waited for (RUSAGE_CHILDREN), have taken so far."""
    used = resource.getrusage(whose)
    return used.ru_utime + used.ru_stime


def made_with(file: Path, chosen: dict) -> bool:
    """Whether a folder's file says that all in it is made with these settings; exits where with others."""
    if not file.is_file():
        return False
    if (found := json.loads(file.read_text(encoding="utf-8"))) != chosen:
        raise SystemExit(f"error: {file.parent} was made with {found}, not {chosen}; name another folder")
    return True


def write_result(out: Path, benchmark: str, parts: dict) -> None:
    """Write what a benchmark found, with the machine that it ran on."""
    write_json_atomic(out, {"benchmark": benchmark, "machine": machine(), **parts})
    print(f"written: {out}")


def finish(pool: ProcessPoolExecutor, works: list[Callable[[], object]]) -> None:
    """Do works in a pool's processes. When one fails, that is told at once, and no more are begun: those that
    are at work may have hours left.
    """
    for done in as_completed([pool.submit(work) for work in works]):
        if error := done.exception():
            traceback.print_exception(error)
            pool.shutdown(wait=False, cancel_futures=True)
            raise error


def crashchat(log: Path, *words: str | Path | int) -> None:
    """`crashchat …` in this process, on one core; what it says goes to the log.

    Raises RuntimeError where it failed.
    """
    torch.set_num_threads(1)
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "a", encoding="utf-8") as said, redirect_stdout(said), redirect_stderr(said):
        code = program.main([str(word) for word in words])
    if code:
        raise RuntimeError(f"{words[0]} failed:\n{log.read_text(encoding='utf-8')[-2000:]}")


def find_heads(adapter: Path, data_dir: Path, out: Path, *settings: str) -> None:
    """The heads of an adapter's model that look at times, found on training clips."""
    words = [f"model={BASE}", f"adapter={adapter}", f"data_dir={data_dir}", f"output_dir={out}", *settings]
    crashchat(out / "log", "find-heads", "configs/eval/all_tasks.yaml", "split=train", *words)


def answer(adapter: Path, data_dir: Path, out: Path, *settings: str) -> None:
    """An adapter's answers to the questions on the test clips."""
    words = [f"model={BASE}", f"adapter={adapter}", f"data_dir={data_dir}", f"output_dir={out}", *settings]
    crashchat(out.with_suffix(".log"), "evaluate", "configs/eval/all_tasks.yaml", *words)


def main_figures(sums: dict[str, Sums]) -> dict[str, float | None]:
    """{task: its main figure}, the mean of the runs."""
    return {task: one.metrics()[shown(TASKS[task]).main[0]] for task, one in sums.items()}


def differences(old: dict[str, Sums], new: dict[str, Sums]) -> Iterator[tuple[str, Difference]]:
    """(what, new minus old) of the mean over the tasks that both answered and of each one's main figure."""
    main = {task: shown(TASKS[task]).main for task in old if task in new}
    yield "mean", paired_mean([(old[task], new[task], main[task][0]) for task in main])
    for task, (figure, title) in main.items():
        yield f"{TASKS[task].title} {title}", paired(old[task], new[task])[figure]


def table(
    sums: dict[str, dict[str, Sums]], pairs: list[tuple[str, str]]
) -> dict[str, dict[str, list[float]]]:
    """{new - old: {figure: [difference, low, high]}}, printed as a table; a figure that a pair lacks is left
    open.
    """
    found = {
        f"{new} − {old}": {
            what: [round(value, 4) for value in (one.value, one.low, one.high)]
            for what, one in differences(sums[old], sums[new])
        }
        for old, new in pairs
    }
    figures = list(dict.fromkeys(what for row in found.values() for what in row))
    print(f"\n| {' | '.join(['', *figures])} |\n|{'---|' * (len(figures) + 1)}")
    for name, row in found.items():
        cells = ["{:+.3f} ({:+.3f} to {:+.3f})".format(*row[what]) if what in row else "" for what in figures]
        print(f"| {name} | {' | '.join(cells)} |")
    return found
