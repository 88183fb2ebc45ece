"""What a first pass saves on a long recording, and whether it finds the same.

    bash scripts/demo.sh && python benchmarks/first_pass.py
    python benchmarks/first_pass.py --minutes 10     a first look

The recording is the demo's test clips without a crash, one behind the other and again from the first, and
three crashes among them: after an eighth of it, half and seven eighths. `crashchat analyze` looks through
it as a whole and with --skip-below, each in a process of its own; what they take of the processor is
compared, and the events that they find.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from itertools import cycle
from pathlib import Path

import imageio_ffmpeg
from experiments import BASE, at_root, processor_seconds, write_result

from crashchat.data.annotations import annotation_paths, load_annotations
from crashchat.tasks import TASKS
from crashchat.tasks.task import CRASH
from crashchat.video.source import probe

PLACES = (1 / 8, 1 / 2, 7 / 8)


def seconds_of(clip: Path) -> float:
    """How long a clip is."""
    timeline = probe(clip).timeline
    assert timeline is not None, "drawn clips have times"
    return timeline.end


def make_recording(data: Path, minutes: float, out: Path) -> list[float]:
    """Write the recording; returns where its crashes' clips begin, in seconds."""
    task = TASKS.of_fact(CRASH)
    assert task is not None, "CrashChat's tasks ask for it"
    videos = load_annotations(annotation_paths(data, [task.name], "test"), data)
    clips: dict[str, list[Path]] = {"Yes": [], "No": []}
    for video in videos:
        clips[video.answer_of(task.name) or ""].append(video.path)
    crashes, begins, parts, at = iter(clips["Yes"]), [], [], 0.0
    for calm in cycle(clips["No"]):
        if at >= 60 * minutes:
            break
        if len(begins) < len(PLACES) and at >= 60 * minutes * PLACES[len(begins)]:
            begins.append(at)
            parts.append(next(crashes))
            at += seconds_of(parts[-1])
        parts.append(calm)
        at += seconds_of(calm)
    names = out.with_suffix(".txt")
    names.write_text("".join(f"file '{part.resolve()}'\n" for part in parts))
    words = ["-v", "error", "-y", "-f", "concat", "-safe", "0", "-i", names, "-c", "copy", out]
    subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *words], check=True)
    return begins


def analyzed(recording: Path, out: Path, adapter: Path, *more: str) -> tuple[float, dict]:
    """(seconds of the processor, the result) of one analysis."""
    words = ["analyze", recording, "--out", out, "--model", BASE, "--linguistic", adapter]
    before = processor_seconds(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "crashchat", *words, "--perception", adapter, *more]
    subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)
    used = processor_seconds(resource.RUSAGE_CHILDREN) - before
    return used, json.loads((out / f"{recording.stem}.json").read_text(encoding="utf-8"))


def main() -> int:
    """Command line; returns the exit code."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--data", type=Path, default=Path("data/demo"), help="(default %(default)s)")
    adapter = Path("outputs/demo/train/heterogeneous")
    made.add_argument("--adapter", type=Path, default=adapter, help="(default %(default)s)")
    made.add_argument("--minutes", type=float, default=60, help="(default %(default)s)")
    made.add_argument("--below", default="0.02", help="(default %(default)s)")
    results = Path(__file__).parent / "results" / "first_pass_cpu.json"
    made.add_argument("--out", type=Path, default=results, help="JSON")
    arguments = made.parse_args()
    at_root()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        recording = Path(folder) / "recording.mp4"
        begins = make_recording(arguments.data, arguments.minutes, recording)
        ways = {"whole": (), "first pass": ("--skip-below", arguments.below)}
        found = {
            name: analyzed(recording, Path(folder) / name, arguments.adapter, *more)
            for name, more in ways.items()
        }
    whole, passed = (found[name][0] for name in ways)
    figures = {
        name: {
            "processor_seconds": round(seconds, 1),
            "windows": len(result["windows"]),
            "passed_over": sum(window.get("passed_over", False) for window in result["windows"]),
            "events": [[event["start"], event["end"]] for event in result["events"]],
        }
        for name, (seconds, result) in found.items()
    }
    settings = {"minutes": arguments.minutes, "below": float(arguments.below), "crash clips begin at": begins}
    print(json.dumps(figures, indent=1))
    print(f"crash clips begin at {[round(at, 1) for at in begins]} s; ratio {whole / passed:.2f}")
    parts = {"settings": settings, "ways": figures, "ratio": whole / passed}
    write_result(arguments.out, "first_pass", parts)
    return 0


if __name__ == "__main__":
    sys.exit(main())
