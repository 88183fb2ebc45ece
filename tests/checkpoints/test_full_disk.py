"""A full disk is one line from every command that writes, and nothing half written."""

import json

import pytest

from crashchat.tasks import TASKS
from tests.data.test_predictions import record as predicted
from tests.helpers.disks import fill, small_disk_at
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
    """A disk that is full soon."""
    with small_disk_at(tmp_path / "disk", kib=64) as folder:
        yield folder


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
        fill(small_disk)
    words = COMMANDS[command].format(
        base=tiny_base, adapter=adapter, disk=small_disk, data=tiny_data, predictions=predictions
    )
    line = run(*words.split())
    assert str(small_disk) in line and "no space left on device" in line
