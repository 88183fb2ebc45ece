"""crashchat analyze on long recordings, killed and resumed."""

import json
import re
import time
from pathlib import Path

import pytest

from crashchat.__main__ import main
from tests.helpers.analyses import read, start
from tests.helpers.clips import ffmpeg
from tests.helpers.forks import begin


@pytest.fixture(scope="module", params=[8, pytest.param(60, marks=pytest.mark.slow)])
def recording(request, tmp_path_factory) -> tuple[Path, list[float], int]:
    """Minutes of grey with three flashes, when they are, and how many seconds all lasts."""
    minutes = request.param
    folder = tmp_path_factory.mktemp("recording")
    for name, grey in (("calm", "0x606060"), ("crash", "0xe61414")):
        source = f"color=c={grey}:size=640x360:rate=1:duration={60 if name == 'calm' else 4}"
        ffmpeg(
            "-f",
            "lavfi",
            "-i",
            source,
            "-c:v",
            "libx264",
            "-g",
            "10",
            "-pix_fmt",
            "yuv420p",
            folder / f"{name}.mp4",
        )
    parts, flashes = [], []
    for minute in range(minutes):
        if minute in (minutes // 8, minutes // 2, minutes * 7 // 8):
            flashes.append(60.0 * minute + 4 * len(flashes))
            parts.append("crash")
        parts.append("calm")
    (folder / "parts.txt").write_text("".join(f"file '{part}.mp4'\n" for part in parts))
    ffmpeg("-f", "concat", "-i", folder / "parts.txt", "-c", "copy", folder / "long.mp4")
    return folder / "long.mp4", flashes, 60 * minutes + 12


def test_it_is_searched_in_little_memory_and_goes_on_after_a_kill(recording, model, tmp_path):
    path, flashes, seconds = recording
    windows = 1 + -(-(seconds - 20) // 20)  # of 20 s, one each 20 s
    options = [path, "--out", tmp_path, "--resume", "--stride", "20", "--merge-gap", "20", *model]
    journal = tmp_path / "long.windows.part.jsonl"
    with open(tmp_path / "log", "w+") as log:
        process = begin(["analyze", *map(str, options)], log)
        deadline = time.monotonic() + 200
        while not journal.exists() or journal.read_bytes().count(b"\n") < max(12, windows // 5):
            assert process.poll() is None and time.monotonic() < deadline, log.read()
            time.sleep(0.05)
    process.kill()
    process.wait()
    assert not (tmp_path / "long.json").exists()
    # What was found before the kill is taken over, not made again: a mark on it is still there in the end.
    lines = journal.read_text().splitlines(keepends=True)
    record = json.loads(lines[10])
    record["window"]["notes"].append("from before the kill")
    journal.write_text("".join([*lines[:10], json.dumps(record) + "\n", *lines[11:]]))

    process = start(*options)
    peak = 0  # kilobytes, from the process itself: what wait4 tells counts its parent's memory at the fork
    status = Path(f"/proc/{process.pid}/status")
    for _ in iter(process.stderr.readline, ""):
        if known := re.search(r"VmHWM:\s+(\d+)", status.read_text()):
            peak = max(peak, int(known[1]))
    assert process.wait() == 0
    assert 1e5 < peak < 1.5e6, "an hour's frames are 2.5 GB"
    result = read(tmp_path / "long.json")
    assert result["status"] == "crash" and abs(result["seconds"] - seconds) < 1.5
    assert len(result["windows"]) == windows and "from before the kill" in result["windows"][9]["notes"]
    for window in result["windows"]:
        red = sum(window["start"] <= at + second < window["end"] for at in flashes for second in range(4))
        assert red == 1 or (window["status"] == "crash") == (red > 1)  # one red frame may be seen or not
    assert len(result["events"]) == 3
    for event, at in zip(result["events"], flashes, strict=True):
        window = result["windows"][event["window"]]
        assert event["start"] == window["start"] + 8 and abs(event["start"] - at) <= 20
    assert not journal.exists() and len(list(tmp_path.glob("long.event?.jpg"))) == 3
    assert "3 events in" in (tmp_path / "report.html").read_text()


def test_a_first_pass_passes_over_what_is_calm_and_loses_no_event(recording, model, tmp_path, capsys):
    path, flashes, _ = recording
    options = [str(path), "--stride", "10", "--merge-gap", "20", *model]
    skip = ["--skip-below", "0.2", "--skip-fps", "0.5", "--resume"]
    assert main(["analyze", *options, "--out", str(tmp_path / "whole")]) == 0
    assert main(["analyze", *options, "--out", str(tmp_path / "skipped"), *skip]) == 0
    whole, skipped = (read(tmp_path / name / "long.json") for name in ("whole", "skipped"))
    assert len(skipped["events"]) == len(flashes) and skipped["events"] == whole["events"]
    assert "first_pass" not in whole["sampling"] and not any("passed_over" in one for one in whole["windows"])
    assert skipped["sampling"]["first_pass"] == {"below": 0.2, "fps": 0.5}
    passed = [one for one in skipped["windows"] if one.get("passed_over")]
    assert len(passed) > len(skipped["windows"]) * 3 / 4
    for alone, beside in zip(skipped["windows"], whole["windows"], strict=True):
        assert (alone["start"], alone["end"]) == (beside["start"], beside["end"])
        if alone.get("passed_over"):
            assert alone["status"] == "no crash" and alone["crash_probability"] < 0.2 and not alone["answers"]
        else:
            assert alone == beside
    page = (tmp_path / "skipped" / "report.html").read_text()
    assert f"{len(passed)} of them passed over" in page
    capsys.readouterr()
    assert main(["analyze", *options, "--out", str(tmp_path / "none"), "--skip-below", "1"]) == 2
    assert "found a first pass below 1.0" in capsys.readouterr().err


def test_a_journal_of_other_settings_is_refused(recording, model, tmp_path, capsys):
    journal = tmp_path / "long.windows.part.jsonl"
    journal.write_text('{"run": {"model": "another"}}\n')
    assert main(["analyze", str(recording[0]), "--out", str(tmp_path), "--resume", *model]) == 1
    assert "was begun by another run" in capsys.readouterr().err
    assert journal.exists()
