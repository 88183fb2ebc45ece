"""What befalls runs: starved threads, two in one folder, a killed launcher,
damaged and foreign checkpoints.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crashchat.config import ConfigError
from crashchat.files import held
from crashchat.settings import TrainConfig
from crashchat.training.resuming import choose_checkpoint, damage_of
from crashchat.training.universal import LATEST, make_universal
from tests.helpers.commands import (
    ENVIRONMENT,
    ROOT,
    begin_training,
    crashchat,
    distance,
    forked,
    train,
    train_command,
    unfinished,
)
from tests.helpers.starving import descendants

ZERO3 = ("deepspeed=configs/deepspeed/zero3.json", "max_tokens_per_batch=1200")
DEADLINE = 600  # seconds; on an idle machine these take ten


def test_a_run_whose_gloo_threads_are_starved_ends_well(trained_by_zero3):
    out = trained_by_zero3
    assert (out / "adapter_config.json").is_file() and (out / "adapter_model.safetensors").is_file()
    assert not (out / ".lock").exists()


EXITS = """
import atexit, gc, json, os, sys
from crashchat.processes import run_process
gc.freeze()  # none of the processes looks at all of torch once more when it ends
def fail(error):
    def main():
        atexit.register(lambda: print("tidied up"))
        print("at work")
        raise error
    return main
mains = {"done": lambda: 0, "error": lambda: 1, "usage": fail(SystemExit(2)), 
         "word": fail(SystemExit("stopped")), "plain": fail(SystemExit()),
         "interrupt": fail(KeyboardInterrupt()), "bug": fail(ValueError("a bug"))}
codes = {}
for where in ("alone", "torchrun", "orphan"):
    for name, main in mains.items():
        sys.stdout.flush()
        child = os.fork()
        if not child:
            if where != "alone":
                os.environ["WORLD_SIZE"] = "2"
            if where == "orphan":
                os.environ["CRASHCHAT_LAUNCHER"] = "1"
            run_process(main)
        codes[f"{where} {name}"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps(codes))
"""


def test_exit_codes_are_right_and_nothing_printed_is_lost():
    environment = {
        key: value for key, value in ENVIRONMENT.items() if key not in ("WORLD_SIZE", "CRASHCHAT_LAUNCHER")
    }
    done = subprocess.run(
        [sys.executable, "-c", EXITS],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    codes = json.loads(done.stdout.splitlines()[-1])
    expected = {"done": 0, "error": 1, "usage": 2, "word": 1, "plain": 0, "interrupt": 130, "bug": 1}
    for where in ("alone", "torchrun"):
        assert {name: codes[f"{where} {name}"] for name in expected} == expected
    assert {codes[f"orphan {name}"] for name in expected} == {1}  # the launcher ended before: nothing is done
    assert done.stdout.count("at work") == done.stdout.count("tidied up") == 2 * 5
    assert done.stderr.count("ValueError: a bug") == 2 and done.stderr.count("stopped") == 2
    assert done.stderr.count("the launcher, process 1, has ended") == len(expected)


def test_a_folder_or_prediction_file_in_use_is_refused(tiny_data, tmp_path):
    out = tmp_path / "out"
    with held(out / ".lock", "test"):
        output = train(tiny_data, out, 1, ok=False)
        assert (
            f"error: output_dir {out} is in use by process {os.getpid()} on " in output
            and "Traceback" not in output
        )
    results = out / "crash_recognition_evaluation_results" / "tiny_base"
    name = "crashchat_dada_video_total_crash_recognition_test_predict.json"
    words = ["model=ckpt/tiny_base", f"data_dir={tiny_data}", f"output_dir={out}", "max_new_tokens=2"]
    words += ["num_workers=0", "limit=1"]
    with held(results / f".{name}.lock", "test"):
        output = forked("evaluate", "configs/eval/crash_recognition.yaml", *words, ok=False)
        assert (
            f"error: {results / name} is in use by process {os.getpid()} on " in output
            and "Traceback" not in output
        )
        # Another task into the same output_dir.
        crashchat("evaluate", "configs/eval/crash_localization.yaml", *words)
    assert "another" not in crashchat("evaluate", "configs/eval/crash_recognition.yaml", *words)
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in begin_training(tiny_data, tmp_path / "file")


def alive(pid: int) -> bool:
    """Whether a process runs; one that ended and that nobody asked about yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, what: str) -> None:
    """Fail the test if it does not come true in a long time."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.1)


def test_no_process_goes_on_when_the_launcher_is_killed(tiny_data, tmp_path):
    out = tmp_path / "out"
    command = train_command(
        tiny_data, out, 2, "max_steps=1000000", "eval_steps=1000000", "save_steps=1000000"
    )
    with open(tmp_path / "log", "w") as log, subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT
    ) as launcher:  # fmt: skip
        try:
            wait_until(
                lambda: (out / "train_config.yaml").is_file() or launcher.poll() is not None,
                "it does not begin",
            )
            started = descendants(launcher.pid)
            assert len(started) >= 2, (tmp_path / "log").read_text()
        finally:
            launcher.send_signal(signal.SIGKILL)
    try:
        wait_until(lambda: not any(map(alive, started)), "processes go on without their launcher")
    finally:
        for pid in filter(alive, started):
            os.kill(pid, signal.SIGKILL)
    with held(out / ".lock", "the folder"):  # nobody has it any more
        pass


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class Poison:
    """Unpickled, it would make a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def poison(path: Path) -> None:
    import torch

    torch.save({"state": Poison(path.parent / "poisoned")}, path)


DAMAGES = {
    "optimizer.pt cut": ("optimizer.pt", cut),
    "optimizer.pt flipped": ("optimizer.pt", flip),
    "optimizer.pt missing": ("optimizer.pt", Path.unlink),
    "optimizer.pt poisoned": ("optimizer.pt", poison),
    "scheduler.pt not a zip": ("scheduler.pt", lambda path: path.write_bytes(pickle.dumps({}))),
    "rng state cut": ("rng_state_1.pth", cut),
    "rng state poisoned": ("rng_state_0.pth", poison),
    "adapter cut": ("adapter_model.safetensors", cut),
    "adapter flipped": ("adapter_model.safetensors", flip),
    "checksums cut": ("checksums.json", cut),
    "adapter missing": ("adapter_model.safetensors", Path.unlink),
    "adapter config cut": ("adapter_config.json", cut),
    "state empty": ("trainer_state.json", lambda path: path.write_text("")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_a_checkpoint_is_found_and_named(trained_by_two, tmp_path, damage):
    checkpoint = shutil.copytree(trained_by_two / "checkpoint-4", tmp_path / "checkpoint-4")
    assert damage_of(checkpoint, deepspeed=False) is None
    name, spoil = DAMAGES[damage]
    spoil(checkpoint / name)
    assert name in damage_of(checkpoint, deepspeed=False)
    assert not (checkpoint / "poisoned").exists()


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(trained_by_two, tiny_data, tmp_path):
    out = unfinished(trained_by_two, tmp_path / "out")
    cut(out / "checkpoint-4" / "optimizer.pt")
    output = train(tiny_data, out, 2)
    assert (
        f"{out}/checkpoint-4 is damaged and now named damaged-checkpoint-4: optimizer.pt cannot be read"
        in output
    )
    assert output.count(f"going on from {out}/checkpoint-2") == 1 and "Traceback" not in output
    assert distance(trained_by_two, out) < 1e-6


@pytest.mark.parametrize(("stage", "before", "now"), [(1, 1, 2), (3, 2, 1)])
def test_a_deepspeed_run_goes_on_with_another_number_of_processes(
    trained, trained_by_zero3, tiny_data, tmp_path, stage, before, now
):
    settings = (f"deepspeed=configs/deepspeed/zero{stage}.json", "max_tokens_per_batch=1200")
    out = tmp_path / "out"
    if stage == 3:
        unfinished(trained_by_zero3, out)
    else:
        train(tiny_data, tmp_path / "first", before, *settings)
        unfinished(tmp_path / "first", out)
    shutil.rmtree(out / "checkpoint-4")
    make_universal(out / "checkpoint-2")
    (out / "checkpoint-2" / LATEST).unlink()  # killed just before it was written
    output = train(tiny_data, out, now, *settings)
    assert output.count(f"going on from {out}/checkpoint-2") == 1
    assert f"DeepSpeed wrote it on {before} process(es), and this run has {now}" in output
    assert distance(trained, out) < 2e-4
    assert f"going on from {out}/checkpoint-4" in train(tiny_data, out, now, *settings, "max_steps=5")


def deepspeed_config(out: Path, **more) -> TrainConfig:
    return TrainConfig(output_dir=out, deepspeed="configs/deepspeed/zero3.json", **more)


def test_damage_to_a_deepspeed_checkpoint_is_found(trained_by_zero3, tmp_path, capsys):
    out = unfinished(trained_by_zero3, tmp_path / "out")
    assert choose_checkpoint(deepspeed_config(out)) == out / "checkpoint-4"
    flip(next(out.glob("checkpoint-4/global_step*/*rank_1*_optim_states.pt")))
    assert choose_checkpoint(deepspeed_config(out)) == out / "checkpoint-2"
    assert "optim_states.pt is damaged" in capsys.readouterr().out
    next(out.glob("checkpoint-2/global_step*/*rank_1*_optim_states.pt")).unlink()
    assert choose_checkpoint(deepspeed_config(out)) is None
    assert "1 optimizer states for 2 processes" in capsys.readouterr().out


def test_a_deepspeed_checkpoint_that_others_could_have_written_is_not_loaded(
    trained_by_zero3, tiny_data, tmp_path
):
    out = unfinished(trained_by_zero3, tmp_path / "out")
    states = next(out.glob("checkpoint-4/global_step*/*_optim_states.pt"))
    poison(states)
    states.chmod(0o666)
    output = train(tiny_data, out, 2, *ZERO3, ok=False)
    assert f"error: {states} can be written by others" in output and "give trust_checkpoint=true" in output
    assert "layout" not in output and not list(out.rglob("poisoned"))
    assert choose_checkpoint(deepspeed_config(out, trust_checkpoint=True)) == out / "checkpoint-4"
    states.chmod(0o644)
    assert choose_checkpoint(deepspeed_config(out)) == out / "checkpoint-4"
    if os.getuid() == 0:
        os.chown(states, 12345, 12345)
        with pytest.raises(ConfigError, match="belongs to user id 12345"):
            choose_checkpoint(deepspeed_config(out))
