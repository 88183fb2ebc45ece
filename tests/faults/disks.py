"""Full disks: every command that writes, on a disk that has no room for all of it,
and then on the same disk with room.

The disk is a tmpfs in a mount namespace of its own (`unshare`): it is gone with the command, whatever
happens.
"""

import json
import shutil
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from safetensors import SafetensorError, safe_open

from tests.faults.bench import Bench, Row, drawing, unclear
from tests.faults.kills import ENTRIES, files_of, prepare, undisturbed
from tests.faults.running import Running

# Arguments: disk, size in bytes, folder for logs and copies, command.
SCRIPT = """
disk=$1 size=$2 folder=$3; shift 3
mount -t tmpfs -o size="$size" tmpfs "$disk" || exit 90
"$@" > "$folder/full.log" 2>&1; echo $? > "$folder/full.code"
cp -a "$disk/." "$folder/full"
mount -o remount,size=1g "$disk" || exit 90
"$@" > "$folder/room.log" 2>&1; echo $? > "$folder/room.code"
cp -a "$disk/." "$folder/room"
"""
PAGE = 4096
CACHE = "feature cache"
NAMES = ("train", "evaluate", "merge", "convert", "analyze --resume", "synthetic", CACHE)


def _entry(name: str) -> str:
    """The entry point that fills this disk."""
    return "evaluate" if name == CACHE else name


def corrupt(folder: Path) -> str:
    """The first file under its final name that is not whole; a checkpoint that was not finished is none."""
    unfinished = [
        path
        for path in folder.rglob("checkpoint-*")
        if path.is_dir() and not (path / "trainer_state.json").is_file()
    ]
    for name, path in files_of(folder).items():
        hidden = any(part.startswith((".", "tmp")) for part in Path(name).parts)
        if hidden or any(path.is_relative_to(one) for one in unfinished):
            continue
        try:
            if path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
        except (ValueError, SafetensorError) as error:
            return f"{name}: {error}"[:200]
    return ""


def fill_once(bench: Bench, seed: int, number: int) -> tuple[str, str]:
    """One command on one full disk: how it ended, and what is wrong."""
    draw = drawing("disks", seed, number)
    name = NAMES[number % len(NAMES)]
    entry, (whole, _) = ENTRIES[_entry(name)], undisturbed(bench, _entry(name))
    folder = bench.folder / "disks" / str(number)
    for part in ("full", "room", "disk"):
        (folder / part).mkdir(parents=True)
    disk = folder / "disk"
    if name == CACHE:  # a cache of some entries at most; the answers go elsewhere
        out, size = folder / "out", PAGE * draw.randrange(8, 200)
        words = [*entry.words(bench, out, 1), f"feature_cache={disk / 'cache'}"]
    else:
        out = disk / "out"
        needed = sum(-(-path.stat().st_size // PAGE) + 1 for path in files_of(whole).values())
        size, words = PAGE * max(2, int(needed * draw.uniform(0.05, 0.9))), entry.words(bench, out, 1)
    running = Running(
        ["unshare", "-rm", "bash", "-c", SCRIPT, "disk", disk, size, folder, *words], folder / "log"
    )
    wrong = running.wait()
    if not wrong and running.code == 90:
        wrong = f"the disk could not be mounted: {running.output().strip()}"
    where = f"{name} on a disk of {size:,} bytes"
    if not wrong:
        codes = [int((folder / f"{part}.code").read_text()) for part in ("full", "room")]
        said = (folder / "full.log").read_text(errors="replace")
        wrong = unclear(codes[0], said) or corrupt(folder / "full")
        if not wrong and name == CACHE and codes[0]:
            wrong = f"exit code {codes[0]}: a cache that is full is no reason to end"
        room = "" if codes[0] == 0 and not entry.again else "room"
        if not wrong and room and codes[1]:
            last = (folder / "room.log").read_text().strip().splitlines()[-1:]
            wrong = f"with room again it ends with {codes[1]}: {last}"
        if not wrong:
            result = out if name == CACHE else folder / (room or "full") / "out"
            wrong = entry.compare(result, whole)
        left = (
            []
            if name == CACHE
            else sorted(path.name for path in (folder / "room").iterdir() if path.name != "out")
        )
        wrong = wrong or (f"left behind for ever: {left}" if left else "")
    if wrong:
        return "", f"{where}: {wrong}; see {folder}"
    shutil.rmtree(folder)
    ending = (
        "went on without"
        if name == CACHE
        else "said so and went on with room"
        if codes[0]
        else "had room enough"
    )
    return f"{name}: {ending}", ""


def run(bench: Bench, seed: int, numbers: Iterable[int]) -> Row:
    """Two at a time, each the command that its number picks."""
    row, numbers = Row("full disk, then room again"), list(numbers)
    prepare(bench, {_entry(NAMES[number % len(NAMES)]) for number in numbers})
    with ThreadPoolExecutor(2) as pool:
        for number, (kind, loss) in zip(
            numbers, pool.map(lambda number: fill_once(bench, seed, number), numbers), strict=True
        ):
            row.add(number, kind, loss)
    return row
