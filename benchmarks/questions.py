"""Loading the questions of a training set: 77,000 of them, as many as the real one has, from made names.

    plain   json.loads of each file as a whole and the check of each record, joined by video as tuples; keys
            and questions that are there twice go unseen
    first   load_annotations, with nothing kept from before
    again   load_annotations, with the tables that the first one kept

All three must give the same questions. Each is a process of its own, on one thread: its seconds are those of
the processor, its memory what it grew by, pyarrow's own included.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from crashchat.data.records import parse_record
from crashchat.files import write_json_atomic
from crashchat.tasks import TASKS, VIDEO_TAG, task_of_prompt

WAYS = ("plain", "first", "again")
VIDEOS, CRASHES = 14_500, 9_500  # four questions on each, and two more on a crash: 77,000
WORDS = "the car does not see a cyclist who crosses the road in a hurry slow down and keep away".split()


def make_files(folder: Path) -> None:
    """The six annotation files of a training split."""
    rng = random.Random(0)
    files: dict[str, list[dict]] = {name: [] for name in TASKS}
    for number in range(VIDEOS):
        start, crash = round(rng.uniform(1, 20), 1), number < CRASHES
        answers = {
            "yes_no": "Yes" if crash else "No",
            "interval": f"{start} - {start + 1.5:.1f} seconds",
            "moment": f"{start - 0.7:.1f} seconds",
        }
        for name, task in TASKS.items():
            if task.asked_if and not crash:
                continue
            text = " ".join(rng.choices(WORDS, k=max(3, task.typical_length // 4)))
            answer = answers.get(task.answer.kind, text if crash else task.negative_answer)
            turns = [
                {"from": "human", "value": f"{VIDEO_TAG}\n{task.prompt}"},
                {"from": "gpt", "value": answer},
            ]
            video = f"videos/made_{number % 60}_{number:06d}.mp4"
            files[name].append({"video": [video], "conversations": turns, "source": "made"})
    for name, records in files.items():
        (folder / TASKS[name].annotation_file("train")).write_text(json.dumps(records, indent=2))


def plain(paths: list[Path]) -> list[tuple]:
    """The questions by json.loads and a check of each record."""
    videos: dict[str, list[tuple]] = {}
    for path in paths:
        for number, record in enumerate(json.loads(path.read_bytes())):
            name, text, answer, _ = parse_record(record)
            task = task_of_prompt(text)
            assert task is not None
            task.ground_truth(answer)
            videos.setdefault(name, []).append((task.name, answer, number))
    return list(videos.items())


def loaded(paths: list[Path], folder: Path) -> list[tuple]:
    """The questions as a run loads them."""
    from crashchat.data.annotations import load_annotations

    videos = load_annotations(paths, folder, TASKS)
    return [(one.name, [(q.task, q.answer, q.data_id) for q in one.questions]) for one in videos]


def peak() -> float:
    """Megabytes that the process has had at most; what getrusage says is its parent's where that had more."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def measure(way: str, folder: Path) -> dict:
    """One way, in this process."""
    paths = [folder / task.annotation_file("train") for task in TASKS.values()]
    before, start = peak(), time.process_time()
    found = plain(paths) if way == "plain" else loaded(paths, folder)
    seconds = time.process_time() - start
    count, memory = sum(len(asked) for _, asked in found), peak() - before
    digest = hashlib.sha256(repr(found).encode()).hexdigest()
    return {"seconds": seconds, "megabytes": memory, "questions": count, "sha256": digest}


def main() -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "questions_cpu.json")
    arguments = parser.parse_args()
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.folder)))
        return 0
    with tempfile.TemporaryDirectory() as made:
        make_files(Path(made))
        environment = os.environ | {"CRASHCHAT_CACHE": f"{made}/cache", "OMP_NUM_THREADS": "1"}
        ways = {}
        for way in WAYS:
            command = [sys.executable, __file__, "--way", way, "--folder", made]
            said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
            ways[way] = json.loads(said)
            print(f"{way:6} {ways[way]['seconds']:6.2f} s  {ways[way]['megabytes']:6.0f} MB")
    if len({one.pop("sha256") for one in ways.values()}) > 1:
        print("error: the three do not give the same questions", file=sys.stderr)
        return 1
    ratio = ways["first"]["seconds"] / ways["again"]["seconds"]
    device = platform.processor() or platform.machine()
    result = {"benchmark": "questions", "machine": {"device": device}, "ways": ways, "ratio": ratio}
    write_json_atomic(arguments.out, result)
    print(f"the first time takes {ratio:.1f} times as long as the next; written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
