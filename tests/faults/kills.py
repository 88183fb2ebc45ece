"""Kills: every entry point is ended by SIGKILL at a moment of its writing and started again;
the result is the undisturbed one's.

The moment is a change in the command's folder, drawn from those that an undisturbed run makes.
"""

import contextlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from crashchat.checkpoints.model_card import README
from crashchat.provenance import CARD_FILE
from tests.faults.bench import TINY_BASE, Bench, Row, drawing, evaluation, training, unclear
from tests.faults.running import SLOWEST, Running

LIVES_ON = 60.0  # seconds after which what is left of a killed run must have ended
POLL = 0.004  # seconds between looks at the folder


@dataclass(frozen=True)
class Entry:
    """A command that writes a result.

    words: of the command, given the bench, the result's path and the number of processes. compare: (result,
    undisturbed result) -> the difference, empty where there is none. processes: numbers that it runs on,
    before a kill and after. again: whether the command is also given where the result is complete.
    """

    words: Callable[[Bench, Path, int], list]
    compare: Callable[[Path, Path], str]
    processes: tuple[int, ...] = (1,)
    again: bool = True


def files_of(folder: Path) -> dict[str, Path]:
    """{path below folder: file}, hidden ones too."""
    return {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _content(path: Path) -> bytes:
    """A file's bytes, of a model's card without when and by which words it was made."""
    card = path.with_name(CARD_FILE)
    data = path.read_bytes()
    if path.name not in (CARD_FILE, README) or not card.is_file():
        return data
    told = json.loads(card.read_text())
    for key in ("made", "command"):
        if told[key]:
            data = data.replace(told[key].encode(), b"")
    return data


def same_files(out: Path, whole: Path) -> str:
    """All files byte for byte, as _content has them."""
    found, expected = files_of(out), files_of(whole)
    if found.keys() != expected.keys():
        return f"files differ: {sorted(found.keys() ^ expected.keys())[:5]}"
    differing = [name for name, path in found.items() if _content(path) != _content(expected[name])]
    return f"bytes differ: {differing[:5]}" if differing else ""


def same_training(out: Path, whole: Path) -> str:
    """The adapter byte for byte, and each step logged once."""
    if (out / "adapter_model.safetensors").read_bytes() != (whole / "adapter_model.safetensors").read_bytes():
        return "adapter_model.safetensors differs"
    state = max(
        out.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1])
    )
    steps = [log["step"] for log in json.loads(state.read_text())["log_history"] if "loss" in log]
    return "" if steps == list(range(1, 7)) else f"steps {steps}"


def same_predictions(out: Path, whole: Path) -> str:
    """All records; a probability may differ in its last digits."""
    names = {
        str(path.relative_to(folder)) for folder in (out, whole) for path in folder.rglob("*_predict.json")
    }
    if not names:
        return "no prediction file"
    for name in sorted(names):
        pair = [
            json.loads((folder / name).read_text()) if (folder / name).is_file() else []
            for folder in (out, whole)
        ]
        if len(pair[0]) != len(pair[1]):
            return f"{name}: {len(pair[0])} records, expected {len(pair[1])}"
        for found, expected in zip(*pair, strict=True):
            chances = [record.pop("crash_probability", 0.0) for record in (found, expected)]
            if found != expected or abs(chances[0] - chances[1]) > 1e-4:
                return f"{name}: a record differs: {found.get('error') or found['raw_response']!r}"[:300]
    left = sorted(name for name in files_of(out) if Path(name).name.startswith("."))
    return f"left behind: {left[:5]}" if left else ""


def same_analysis(out: Path, whole: Path) -> str:
    """Results but for the time they took, and film strips; a report."""
    found, expected = files_of(out), files_of(whole)
    if found.keys() != expected.keys():
        return f"files differ: {sorted(found.keys() ^ expected.keys())[:5]}"
    for name, path in found.items():
        if name.endswith(".json"):
            pair = [json.loads(one.read_text()) | {"took_seconds": 0} for one in (path, expected[name])]
            if pair[0] != pair[1]:
                return f"{name} differs"
        elif name.endswith(".jpg") and path.read_bytes() != expected[name].read_bytes():
            return f"{name} differs"
    return ""


def _train(bench: Bench, out: Path, processes: int) -> list:
    return training(bench.data, out, processes)


def _evaluate(bench: Bench, out: Path, processes: int) -> list:
    return evaluation(bench.data, TINY_BASE, out, processes, f"adapter={bench.adapter}")


def _analyze(bench: Bench, out: Path, processes: int) -> list:
    clips = sorted((bench.data / "videos").glob("test_*"))[:4]
    windows = ["--fps", "2", "--max-frames", "4", "--whole-up-to", "3", "--max-new-tokens", "8", "--resume"]
    return [
        sys.executable,
        "-m",
        "crashchat",
        "analyze",
        *clips,
        "--out",
        out,
        "--model",
        TINY_BASE,
        *windows,
    ]


def _merge(bench: Bench, out: Path, processes: int, *more: str) -> list:
    return [
        sys.executable,
        "-m",
        "crashchat",
        "merge",
        "--base",
        TINY_BASE,
        "--adapter",
        bench.adapter,
        "--out",
        out,
        *more,
    ]


def _merge_local(bench: Bench, out: Path, processes: int) -> list:
    return _merge(bench, out, processes, "--to", "local")


def _convert(bench: Bench, out: Path, processes: int) -> list:
    return [sys.executable, "-m", "crashchat", "convert", TINY_BASE, out, "--to", "hub"]


def _synthetic(bench: Bench, out: Path, processes: int) -> list:
    sizes = ["--train", "4", "--val", "2", "--test", "2", "--workers", "2"]
    return [sys.executable, "-m", "crashchat", "synthesize", "--out", out, *sizes]


ENTRIES = {
    "train": Entry(_train, same_training),
    "train on 2 processes": Entry(_train, same_training, (2,)),
    "evaluate": Entry(_evaluate, same_predictions, (1, 2, 3)),
    "analyze --resume": Entry(_analyze, same_analysis),
    "merge": Entry(_merge, same_files, again=False),
    "merge --to local": Entry(_merge_local, same_files, again=False),
    "convert": Entry(_convert, same_files, again=False),
    "synthetic": Entry(_synthetic, same_files),
}
# Entry points by number; those of several processes twice, as there is more that can be killed.
TURNS = (*ENTRIES, "train on 2 processes", "evaluate")


def _look(folder: Path) -> frozenset:
    """What can be seen of a folder: paths, sizes and times."""
    seen = []
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                status = os.stat(os.path.join(place, name))
                seen.append((place, name, status.st_size, status.st_mtime_ns))
    return frozenset(seen)


def watch(running: Running, folder: Path, most: int | None = None) -> int:
    """Count a folder's changes until the process ends, or there were `most`."""
    changes, before = 0, _look(folder)
    end = time.monotonic() + SLOWEST
    while running.process.poll() is None and time.monotonic() < end and (most is None or changes < most):
        time.sleep(POLL)
        now = _look(folder)
        changes, before = changes + (now != before), now
    return changes


def undisturbed(bench: Bench, name: str) -> tuple[Path, int]:
    """An entry point's result without a kill, made once, and how often its folder changed meanwhile."""
    entry, folder = ENTRIES[name], bench.folder / "undisturbed" / name.replace(" ", "_")
    count = folder / "changes"
    if not count.is_file():
        shutil.rmtree(folder, ignore_errors=True)
        place = folder / "place"
        place.mkdir(parents=True)
        changes = bench.done(
            entry.words(bench, place / "out", entry.processes[0]), name, lambda running: watch(running, place)
        )
        count.write_text(str(changes))
    return folder / "place" / "out", int(count.read_text())


def prepare(bench: Bench, names: set[str]) -> None:
    """Make the undisturbed results of some entry points, two at a time, and before them what they need."""
    bench.prepare(
        adapter=bool(names - {"train", "train on 2 processes", "analyze --resume", "convert", "synthetic"})
    )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda name: undisturbed(bench, name), sorted(names)))


def _strike(running: Running, draw: random.Random, processes: int) -> tuple[str, str]:
    """Kill the run, or of several processes one: who was killed,
    and what is wrong with how the others ended.
    """
    whom = draw.choice(("all", "all", "one process", "the launcher")) if processes > 1 else "all"
    if whom == "all":
        running.kill()
        return whom, ""
    others = [pid for pid in running.alive() if pid != running.process.pid]
    if whom == "one process" and others:
        running.strike(draw.choice(others))
    else:
        running.process.kill()
        running.process.wait()
    end = time.monotonic() + LIVES_ON
    while (alive := running.alive()) and time.monotonic() < end:
        time.sleep(0.2)
    running.kill()
    return whom, f"{len(alive)} processes live on {LIVES_ON:.0f} s after the kill of {whom}" if alive else ""


def kill_once(bench: Bench, seed: int, number: int) -> tuple[str, str]:
    """One kill and the run after it: what kind it was, and what is wrong."""
    draw = drawing("kills", seed, number)
    name = TURNS[number % len(TURNS)]
    entry = ENTRIES[name]
    whole, changes = undisturbed(bench, name)
    folder = bench.folder / "kills" / str(number)
    place = folder / "place"
    place.mkdir(parents=True)
    out, processes = place / "out", draw.choice(entry.processes)
    running = Running(entry.words(bench, out, processes), folder / "killed.log")
    moment, later = draw.randrange(max(1, changes)), draw.random() * 0.05
    watch(running, place, moment + 1)
    time.sleep(later)
    in_time = running.process.poll() is None
    whom, wrong = (
        _strike(running, draw, processes) if in_time else ("", unclear(running.code, running.output()))
    )
    where = f"{name}, {processes} process(es), {whom} killed at change {moment + 1} of {changes}"
    if not wrong and (entry.again or not out.exists()):
        processes = draw.choice(entry.processes)
        following = Running(entry.words(bench, out, processes), folder / "following.log")
        wrong = following.wait()
        if not wrong and following.code:
            end = following.output().strip().splitlines()[-1:]
            wrong = f"the run after it ends with {following.code}: {end}"
        left = sorted(path.name for path in place.iterdir() if path != out)
        if not wrong and left:
            wrong = f"left behind for ever: {left}"
    wrong = wrong or entry.compare(out, whole)
    if wrong:
        return "", f"{where}: {wrong}; see {folder}"
    shutil.rmtree(folder)
    return f"{name}{'' if in_time else ' (ended before the kill)'}", ""


def run(bench: Bench, seed: int, numbers: Iterable[int]) -> Row:
    """Two at a time, each at the entry point that its number picks."""
    row, numbers = Row("kill -9 at a moment of writing, then the same command"), list(numbers)
    prepare(bench, {TURNS[number % len(TURNS)] for number in numbers})
    with ThreadPoolExecutor(2) as pool:
        for number, (kind, loss) in zip(
            numbers, pool.map(lambda number: kill_once(bench, seed, number), numbers), strict=True
        ):
            row.add(number, kind, loss)
    return row
