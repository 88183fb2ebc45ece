"""A full disk is one line from every command that writes, and nothing half written."""

import json
import subprocess
import time

import pytest

from crashchat.tasks import TASKS
from tests.data.test_predictions import record as predicted
from tests.helpers.forks import completed


def run(*words) -> str:
    """Run a command that must fail without a traceback; returns its last line, which begins with `error:`."""
    done = completed(*words)
    assert done.returncode != 0 and "Traceback" not in done.stderr, done.stderr[-3000:]
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: "), done.stderr[-1000:]
    return line


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB, which is full soon."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    for _ in range(50):  # a process that just ended may hold it for a moment
        if subprocess.run(["umount", folder], capture_output=True).returncode == 0:
            return
        time.sleep(0.2)
    subprocess.run(["umount", "-l", folder], check=True)


COMMANDS = {
    "convert": "convert {base} {disk}/out",
    "merge": "merge --base {base} --adapter {adapter} --out {disk}/out",
    "synthetic": "synthesize --out {disk}/out --train 4 --val 1 --test 1 --workers 1",
    "train": "train configs/train/independent_crash_recognition.yaml base_model={base} "
    "data_dir={data} output_dir={disk}/out max_steps=2 eval_steps=1 save_steps=1 num_workers=0 "
    "max_frames=4 lora_rank=4",
    "eval": "evaluate configs/eval/crash_description.yaml model={base} data_dir={data} "
    "output_dir={disk}/out num_workers=0 max_frames=4 max_new_tokens=2",
    "score": "score crash_recognition --predictions {predictions} --out {disk}/out",
    "report": "compare a={predictions} --data-dir {data} --out {disk}/out --no-meteor",
    "analyze": "analyze {data}/videos --model {base} --linguistic {adapter} "
    "--perception {adapter} --out {disk}/out",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_full_disk_is_one_line(command, small_disk, tiny_base, adapter, tiny_data, tmp_path):
    asked = json.loads((tiny_data / TASKS["crash_recognition"].annotation_file("test")).read_text())
    predictions = tmp_path / "predict.json"
    predictions.write_text(
        json.dumps(
            [
                predicted(n, answer=one["conversations"][1]["value"]) | {"video_path": one["video"][0]}
                for n, one in enumerate(asked)
            ]
        )
    )
    if command in ("eval", "score"):  # what they write is small: nothing is left for it
        with open(small_disk / "filler", "wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
    words = COMMANDS[command].format(
        base=tiny_base, adapter=adapter, disk=small_disk, data=tiny_data, predictions=predictions
    )
    line = run(*words.split())
    assert str(small_disk) in line and "no space left on device" in line
