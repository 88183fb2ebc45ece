"""Clips shared by processes: the results are those of one, whoever is killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crashchat.config import ROOT
from tests.helpers.analyses import start
from tests.helpers.commands import crashchat
from tests.helpers.fleets import descendants, kill_at_random


def contents(out: Path) -> dict[str, bytes]:
    """{name: bytes} of all results; how long each took is left out."""
    found = {}
    for path in sorted(out.iterdir()):
        data = path.read_bytes()
        if path.suffix == ".json":
            value = json.loads(data)
            del value["took_seconds"]
            data = json.dumps(value).encode()
        if path.suffix in (".json", ".jpg"):
            found[path.name] = data
    return found


@pytest.fixture(scope="module")
def expected(folder, analyzed) -> dict[str, bytes]:
    return contents(analyzed[0])


@pytest.mark.slow  # tests/test_fleet.py kills processes that import no torch
def test_ray_with_processes_killed_gives_the_results_of_one(folder, expected, model, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
    out = tmp_path / "out"
    process = start(folder[0], "--out", out, "--jsonl", tmp_path / "lines", "--ray", "local", *model)
    names = ("ray::ClipAnswerer", "ray::ClipReader")
    killed = kill_at_random(process, names, seed=5, most=3, done=lambda: len(list(out.glob("*.json"))))
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors[-3000:]
    assert killed >= 1
    assert contents(out) == expected
    names = [json.loads(line)["name"] for line in (tmp_path / "lines").read_text().splitlines()]
    assert names == [path.stem for path in sorted(folder[0].iterdir())]
    assert "7 crash" in errors and "13 no crash" in errors and "10 failed" in errors


# Two minutes, for two clusters and three loads of the model. test_recordings kills one without Ray.
@pytest.mark.slow
def test_a_killed_driver_is_resumed(folder, expected, model, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
    out = tmp_path / "out"
    words = [folder[0], "--out", out, "--ray", "local", *model]
    process = start(*words)
    deadline = time.monotonic() + 200
    while len(list(out.glob("*.json"))) < 4:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    started = descendants(process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    while alive := [pid for pid in started if os.path.exists(f"/proc/{pid}/exe")]:
        assert time.monotonic() < deadline, [started[pid] for pid in alive]
        time.sleep(0.5)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("clip*.json")}
    assert len(before) < 20
    _, errors = start(*words, "--resume").communicate(timeout=300)
    assert contents(out) == expected, errors[-3000:]
    assert all((out / name).stat().st_mtime_ns == written for name, written in before.items())


def test_processes_of_one_machine_give_the_results_of_one(folder, expected, model, tmp_path):
    out = tmp_path / "out"
    process = start(folder[0], "--out", out, "--jsonl", tmp_path / "lines", "--gpus", "2", *model)
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors[-3000:]
    assert said == "" and contents(out) == expected
    lines = (tmp_path / "lines").read_text().splitlines()
    assert [json.loads(line)["name"] for line in lines] == [path.stem for path in sorted(folder[0].iterdir())]
    assert errors.count("report: ") == 1 and (out / "report.html").is_file()
    shutil.rmtree(out)
    assert "--gpus 0: expected 1 or more" in crashchat("analyze", folder[0], "--gpus", "0", *model, ok=False)


def test_evaluation_on_ray_writes_the_files_of_one_process(tiny_base, tiny_data, tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed (requirements-ray.txt)")
    files = {}

    def begun() -> int:  # journals are there when processes are asked
        return 2 * any((tmp_path / "ray").rglob("*.jsonl"))

    for name, more in (("one", []), ("ray", ["ray=local"])):
        words = [
            "evaluate", "configs/eval/all_tasks.yaml", f"model={tiny_base}", f"data_dir={tiny_data}",
            f"output_dir={tmp_path / name}", "num_workers=0", "max_new_tokens=12", "split=train", *more,
        ]  # fmt: skip
        if more:
            command = [sys.executable, "-m", "crashchat", *words]
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            kill_at_random(process, ("ray::RayAnswerer", "ray::RayReader"), seed=3, most=1, done=begun)
            said, _ = process.communicate(timeout=300)
            assert process.returncode == 0, said[-3000:]
        else:
            crashchat(*words)
        found = (tmp_path / name).glob("*/*/*_predict.json")
        files[name] = {path.name: path.read_bytes() for path in found}
    assert files["ray"] == files["one"] and len(files["one"]) == 6
