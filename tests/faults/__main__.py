"""The command line of the campaign: which parts, how much of each, and where the table goes."""

import argparse
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tests.faults
from tests.faults import clips, disks, exits, files, kills, soak, uploads
from tests.faults.bench import ROOT, Bench, Row

DOCUMENT = ROOT / "docs" / "reliability.md"
TABLE = re.compile(r"(<!-- the campaign's table -->\n).*(<!-- its end -->)", re.DOTALL)
HEADER = ("what", "tried", "survived", "lost or wrong")


@dataclass(frozen=True)
class Campaign:
    """One part: what runs it, and how many cases all of it are."""

    run: Callable[[Bench, int, Iterable[int]], Row]
    count: int


CAMPAIGNS = {
    "clips": Campaign(clips.run, 1000),
    "folders": Campaign(clips.run_folders, 3),
    **{kind: Campaign(partial(files.run, kind), 200) for kind in files.JUDGES},
    "kills": Campaign(kills.run, 40),
    "disks": Campaign(disks.run, 14),
    "uploads": Campaign(uploads.run, 400),
    "exits": Campaign(exits.run, 50),
    "soak": Campaign(soak.run, 60),  # minutes
}

USUAL = [name for name in CAMPAIGNS if name != "soak"]  # which takes an hour


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    lines = [HEADER, ("---",) * len(HEADER), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main(argv: list[str] | None = None) -> int:
    """Run the campaigns, print the table; returns 1 where anything was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=tests.faults.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=CAMPAIGNS,
        default=USUAL,
        help="(default: all but soak, which takes an hour)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed, other faults (default %(default)s)"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of each campaign's cases (default: all)")
    parser.add_argument("--number", type=int, help="this case alone")
    parser.add_argument(
        "--write", action="store_true", help=f"put the table into {DOCUMENT.relative_to(ROOT)}"
    )
    arguments = parser.parse_args(argv)
    rows, start = [], time.monotonic()
    bench = Bench(Path(tempfile.mkdtemp(prefix="faults-")))
    try:
        for name in arguments.only:
            began, campaign = time.monotonic(), CAMPAIGNS[name]
            count = max(1, round(campaign.count * arguments.share))
            row = campaign.run(
                bench, arguments.seed, range(count) if arguments.number is None else [arguments.number]
            )
            rows.append(row)
            print(
                f"{name}: {row.tried:,} tried, {len(row.losses):,} lost or wrong, "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
            for number, loss in row.losses:
                again = f"python -m tests.faults --only {name} --seed {arguments.seed} --number {number}"
                print(f"    {loss}\n        {again}" if number is not None else f"    {loss}", flush=True)
    finally:
        bench.workers.close()
        if rows and arguments.number is None and not any(row.losses for row in rows):
            shutil.rmtree(bench.folder)
        else:
            print(f"what was worked on: {bench.folder}")
    print(f"\n{table(rows)}\n{(time.monotonic() - start) / 60:.0f} minutes, seed {arguments.seed}")
    if arguments.write:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(
            TABLE.sub(lambda found: found[1] + table(rows) + found[2], text), encoding="utf-8"
        )
    return 1 if any(row.losses for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
