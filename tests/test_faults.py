"""A few cases of each campaign of tests/faults; `make faults` runs all of them.

Starved exits have a test of their own.
"""

import os
import time

import pytest

from tests.faults import clips, disks, files, kills, soak, uploads
from tests.faults.__main__ import DOCUMENT, HEADER, TABLE, USUAL
from tests.faults.bench import Bench, Row, unclear

SEED = 11


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("faults"), workers=1)
    yield bench
    bench.workers.close()


def survived(row: Row, tried: int) -> None:
    assert not row.losses, row.losses
    assert row.tried == tried


def leave(code: int) -> None:
    """End the process at once; not os._exit itself, which a measurement of coverage replaces."""
    os._exit(code)


def test_a_worker_that_dies_hangs_or_raises_is_a_loss_of_its_case_alone(bench):
    def losses(judge, *jobs: object, seconds: float = 300) -> list[str]:
        return [
            loss
            for *_, loss in sorted(
                bench.workers.map(judge, {number: (job,) for number, job in enumerate(jobs)}, seconds)
            )
        ]

    assert losses(leave, 3) == ["the process died with exit code 3"]
    assert losses(tuple, ("well", ""), 5, ("well", "")) == ["", *losses(tuple, 5), ""]
    with pytest.raises(AttributeError):  # a judge that cannot be handed to another process ends the campaign
        losses(lambda code: ("", ""), 3)
    assert losses(time.sleep, 600, seconds=1) == ["has not ended in 1 s"]


def test_an_error_is_a_line_that_says_so():
    assert not unclear(0, "done") and not unclear(1, "error: a.json: not JSON\n")
    assert "KeyError: 3" in unclear(1, "Traceback (most recent call last):\n  File …\nKeyError: 3\n")
    assert "without an error line" in unclear(2, "oh\n") and "signal 9" in unclear(-9, "")


def test_broken_clips_are_read_or_named(bench):
    survived(clips.run(bench, SEED, range(25)), 25)


@pytest.mark.parametrize("kind, count", [("annotations", 10), ("configs", 20), ("predictions", 20)])
def test_a_damaged_file_is_refused_or_harmless(bench, kind, count):
    survived(files.run(kind, bench, SEED, range(count)), count)


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("convert", marks=pytest.mark.slow),  # three starts of torch, for writes as synthetic's
        "synthetic",
    ],
)
def test_a_kill_while_something_is_written_loses_nothing(bench, entry):
    survived(kills.run(bench, SEED, [kills.TURNS.index(entry)]), 1)


@pytest.mark.slow  # tests/checkpoints/test_damage.py fills a disk under every command
def test_a_full_disk_is_told_and_harms_nothing(bench):
    survived(disks.run(bench, SEED, [disks.NAMES.index("convert")]), 1)


def test_a_crowd_of_uploads_is_answered(bench):
    survived(uploads.run(bench, SEED, range(20)), 20)


def test_the_document_has_a_line_for_each_campaign():
    lines = TABLE.search(DOCUMENT.read_text(encoding="utf-8"))[0].splitlines()
    assert lines[1] == f"| {' | '.join(HEADER)} |" and len(lines) == len(USUAL) + 4


def test_a_server_whose_disk_is_full_says_so_and_goes_on(bench):
    row = soak.Soak(bench, SEED, minutes=0.12, kills=()).run()
    assert not row.losses and row.tried > 5, row
