"""Clips, broken and whole, and what was found in them."""

import json
import os
from pathlib import Path

import pytest

from tests.helpers.clips import H264, SCENE, TONE, ffmpeg
from tests.helpers.flashes import frames, write_video
from tests.helpers.forks import completed
from tests.helpers.models import MODEL


@pytest.fixture(scope="session")
def model(tiny_base, flash_adapters) -> list[str]:
    """The options that name the flash world's model."""
    linguistic, perception = map(str, flash_adapters)
    return [*MODEL, "--model", str(tiny_base), "--linguistic", linguistic, "--perception", perception]


def break_clips(folder: Path, good: Path) -> dict[str, str]:
    """Ten files that are no videos, each in its own way: {name: part of what must be said of it}."""
    data = good.read_bytes()
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no video.\n" * 50)
    (folder / "cut.mp4").write_bytes(data[: len(data) // 2])
    (folder / "noise.mkv").write_bytes(bytes(range(256)) * 20)
    (folder / "gone.mp4").symlink_to(folder / "never there.mp4")
    os.mkfifo(folder / "pipe.mp4")
    ffmpeg(*TONE, folder / "sound.mp4")
    (folder / "list.ts").write_text(f"ffconcat version 1.0\nfile '{good.name}'\n")
    ffmpeg(*SCENE, *H264, folder / "short.mkv")
    (folder / "short.mkv").write_bytes((folder / "short.mkv").read_bytes()[:30000])
    # Every byte of the pictures themselves is lost; what tells of them is whole.
    start = data.index(b"mdat") + 4
    (folder / "holes.mp4").write_bytes(
        data[:start] + bytes(len(data) - start) if data.index(b"moov") < start else data[:40]
    )
    return {
        "empty": "0 bytes",
        "text": "not readable",
        "cut": "",
        "noise": "not readable",
        "gone": "no such file",
        "pipe": "not a regular file",
        "sound": "no video stream",
        "list": "not readable",
        "short": "cut off",
        "holes": "",
    }


@pytest.fixture(scope="session")
def folder(once) -> tuple[Path, dict[str, bool], dict[str, str]]:
    """Twenty clips and ten broken ones: (folder, {good clip: whether there is a flash},
    {broken clip: its cause}).
    """

    def make(made: Path) -> None:
        clips, truth = made / "clips", {}
        clips.mkdir(parents=True)
        for number in range(20):
            crash = number % 3 == 0
            # The first two have names that a link must quote.
            name = f"clip {number:02d} #&%" if number < 2 else f"clip{number:02d}"
            flash = (5, 9) if crash else None
            write_video(clips / f"{name}.mp4", frames(60 + 4 * number, 12 + number % 5, flash))
            truth[name] = crash
        broken = break_clips(clips, clips / "clip03.mp4")
        (made / "told.json").write_text(json.dumps([truth, broken]))

    made = once("thirty_clips", make)
    truth, broken = json.loads((made / "told.json").read_text())
    return made / "clips", truth, broken


@pytest.fixture(scope="session")
def analyzed(folder, model, once) -> tuple[Path, str]:
    """Where the results of that folder lie, and what the command said."""

    def make(made: Path) -> None:
        done = completed("analyze", folder[0], "--out", made / "out", *model)
        assert done.returncode == 1, done.stderr[-3000:]
        assert done.stdout == ""
        (made / "errors.txt").write_text(done.stderr)

    made = once("thirty_clips_analyzed", make)
    return made / "out", (made / "errors.txt").read_text()
