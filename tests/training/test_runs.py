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

from crashchat.checkpoints.model_card import as_readme, read_card
from crashchat.config import ConfigError, TrainConfig
from crashchat.data.datasets import names_hash
from crashchat.files import held
from crashchat.provenance import CARD_FILE, content_hash, file_hash
from crashchat.tasks import TASKS
from crashchat.training.card import card_of, task_set
from crashchat.training.resuming import choose_checkpoint, damage_of
from crashchat.video.tokens import VideoSettings
from tests.helpers.commands import ENVIRONMENT, ROOT, distance, run, train, train_command
from tests.helpers.starving import descendants, run_starved

QUICK = ["max_steps=2", "eval_steps=1", "save_steps=1", "global_batch_size=4"]
ZERO3 = "deepspeed=configs/deepspeed/zero3.json"
DEADLINE = 600  # seconds; on an idle machine these take ten


@pytest.fixture(scope="module")
def zero3(tiny_data, tmp_path_factory) -> Path:
    """The output folder of a ZeRO-3 run of two processes,
    whose gloo threads were starved from its last checkpoint on.
    """
    out = tmp_path_factory.mktemp("zero3") / "out"
    command = train_command(tiny_data, out, 2, *QUICK, ZERO3)
    done = run_starved(command, (out / "checkpoint-2").is_dir, DEADLINE, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout[-4000:]
    return out


@pytest.fixture(scope="module")
def plain(tiny_data, tmp_path_factory) -> Path:
    """The output folder of a run of two processes, with two checkpoints."""
    out = tmp_path_factory.mktemp("plain") / "out"
    train(tiny_data, out, 2, *QUICK)
    return out


def unfinished(run_folder: Path, out: Path) -> Path:
    """A copy of a run's folder, as if the run had been killed after its last checkpoint."""
    shutil.copytree(run_folder, out)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (out / name).unlink()
    config = out / "train_config.yaml"
    config.write_text(config.read_text().replace(str(run_folder), str(out)))
    return out


def test_a_run_whose_gloo_threads_are_starved_ends_well(zero3):
    assert (zero3 / "adapter_config.json").is_file() and (zero3 / "adapter_model.safetensors").is_file()
    assert not (zero3 / ".lock").exists()


EXITS = """
import atexit, json, os, sys
from crashchat.processes import run_process
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
    words = [
        "model=ckpt/tiny_base",
        f"data_dir={tiny_data}",
        f"output_dir={out}",
        "max_new_tokens=2",
        "num_workers=0",
        "limit=1",
    ]
    with held(results / f".{name}.lock", "test"):
        output = run("bash", "scripts/eval/eval_video_crash_recognition.sh", *words, ok=False)
        assert (
            f"error: {results / name} is in use by process {os.getpid()} on " in output
            and "Traceback" not in output
        )
        # Another task into the same output_dir.
        run("bash", "scripts/eval/eval_video_crash_localization.sh", *words)
    assert "another" not in run("bash", "scripts/eval/eval_video_crash_recognition.sh", *words)
    (tmp_path / "file").write_text("")
    assert "cannot be written to" in train(tiny_data, tmp_path / "file", 1, ok=False)


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
        tiny_data, out, 2, *QUICK, "max_steps=1000000", "eval_steps=1000000", "save_steps=1000000"
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
def test_damage_to_a_checkpoint_is_found_and_named(plain, tmp_path, damage):
    checkpoint = shutil.copytree(plain / "checkpoint-2", tmp_path / "checkpoint-2")
    assert damage_of(checkpoint, deepspeed=False) is None
    name, spoil = DAMAGES[damage]
    spoil(checkpoint / name)
    assert name in damage_of(checkpoint, deepspeed=False)
    assert not (checkpoint / "poisoned").exists()


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(plain, tiny_data, tmp_path):
    out = unfinished(plain, tmp_path / "out")
    cut(out / "checkpoint-2" / "optimizer.pt")
    output = train(tiny_data, out, 2, *QUICK)
    assert (
        f"{out}/checkpoint-2 is damaged and now named damaged-checkpoint-2: optimizer.pt cannot be read"
        in output
    )
    assert output.count(f"going on from {out}/checkpoint-1") == 1 and "Traceback" not in output
    assert distance(plain, out) < 1e-6


def deepspeed_config(out: Path, **more) -> TrainConfig:
    return TrainConfig(output_dir=out, deepspeed="configs/deepspeed/zero3.json", **more)


def test_damage_to_a_deepspeed_checkpoint_is_found(zero3, tmp_path, capsys):
    out = unfinished(zero3, tmp_path / "out")
    assert choose_checkpoint(deepspeed_config(out)) == out / "checkpoint-2"
    flip(next(out.glob("checkpoint-2/global_step*/*rank_1*_optim_states.pt")))
    assert choose_checkpoint(deepspeed_config(out)) == out / "checkpoint-1"
    assert "optim_states.pt is damaged" in capsys.readouterr().out
    next(out.glob("checkpoint-1/global_step*/*rank_1*_optim_states.pt")).unlink()
    assert choose_checkpoint(deepspeed_config(out)) is None
    assert "1 optimizer states for 2 processes" in capsys.readouterr().out


def test_a_deepspeed_checkpoint_that_others_could_have_written_is_not_loaded(zero3, tiny_data, tmp_path):
    out = unfinished(zero3, tmp_path / "out")
    states = next(out.glob("checkpoint-2/global_step*/*_optim_states.pt"))
    poison(states)
    states.chmod(0o666)
    output = train(tiny_data, out, 2, *QUICK, ZERO3, ok=False)
    assert f"error: {states} can be written by others" in output and "give trust_checkpoint=true" in output
    assert "layout" not in output and not list(out.rglob("poisoned"))
    assert choose_checkpoint(deepspeed_config(out, trust_checkpoint=True)) == out / "checkpoint-2"
    states.chmod(0o644)
    assert choose_checkpoint(deepspeed_config(out)) == out / "checkpoint-2"
    if os.getuid() == 0:
        os.chown(states, 12345, 12345)
        with pytest.raises(ConfigError, match="belongs to user id 12345"):
            choose_checkpoint(deepspeed_config(out))


# --- the card that a run leaves


def test_a_run_leaves_a_card_of_what_it_learnt_on_and_how(plain, tiny_data, tiny_base):
    card = read_card(plain)
    assert card.kind == "adapter" and card.name == "out" and card.unknown == []
    assert (card.base.name, card.base.sha256) == ("tiny_base", content_hash(tiny_base))
    for use, split, videos in zip(card.data, ("train", "val"), (6, 3), strict=True):
        assert (use.name, use.drawn, use.split, use.videos) == ("CrashChat drawings", True, split, videos)
        assert use.annotations == {
            path.name: file_hash(path) for path in tiny_data.glob(f"crashchat*_{split}.json")
        }
        assert use.names_sha256 == names_hash(path.name for path in tiny_data.glob(f"videos/{split}_*"))
    assert card.data[0].questions == 6 * 4 + 3 * 2  # half of the clips are crashes, with two more questions
    assert card.tasks == task_set(list(TASKS))
    wanted = {"lora_rank": 4, "learning_rate": 1e-3, "fps": 4.0, "max_frames": 40, "processes": 2, "steps": 2}
    assert card.settings.items() >= wanted.items()
    log = json.loads((plain / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    losses = {line["eval_loss"]: line["step"] for line in log if "eval_loss" in line}
    assert card.best_validation_loss == min(losses)
    assert card.settings["steps_of_the_best"] == losses[min(losses)]
    assert card.clips.videos == 6 and (card.clips.width.low, card.clips.height.high) == (224, 112)
    assert card.clips.fps.middle == 10 and 0.2 < card.clips.brightness.middle < 0.7
    assert card.scores == [] and card.versions.keys() >= {"crashchat", "torch"} and card.made
    assert "train" in card.command and f"output_dir={plain}" in card.command
    assert (plain / "README.md").read_text() == as_readme(card)


def test_a_readme_in_the_output_folder_is_not_overwritten(plain, tiny_data, tmp_path):
    out = unfinished(plain, tmp_path / "out")
    (out / "README.md").write_text("# My notes\n")
    (out / CARD_FILE).unlink()
    output = train(tiny_data, out, 2, *QUICK)
    assert output.count("left as it is") == 1 and (out / "README.md").read_text() == "# My notes\n"
    assert read_card(out).data == read_card(plain).data and distance(plain, out) == 0


def test_a_whole_models_card_holds_what_its_base_learnt_on(tiny_data, tiny_base, tmp_path):
    real = shutil.copytree(tiny_data, tmp_path / "roads")
    (real / "dataset.json").write_text('{"name": "Roads"}')
    train(real, tmp_path / "out", 1, *QUICK, "finetune=full", "tasks=crash_recognition")
    card = read_card(tmp_path / "out" / "model")
    assert card.kind == "model" and card.name == "out" and card.tasks.names == ["crash_recognition"]
    assert [(known.name, known.drawn) for known in card.trained_on] == [
        ("CrashChat drawings", True),
        ("Roads", False),
    ]
    assert card.data[0] == read_card(tiny_base).data[0] and "lora_rank" not in card.settings
    plain = shutil.copytree(tiny_base, tmp_path / "plain")
    (plain / CARD_FILE).unlink()
    config = TrainConfig(output_dir=tmp_path / "next", base_model=plain, finetune="full")
    assert card_of(config, VideoSettings(), videos=[], uses=[]).unknown == ["plain"]
    lora = TrainConfig(output_dir=tmp_path / "next", base_model=plain)
    assert card_of(lora, VideoSettings(), videos=[], uses=[]).unknown == []


def test_a_damaged_card_or_data_set_ends_a_run_before_the_model_is_loaded(tiny_data, tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / CARD_FILE).write_text("{")
    words = [*QUICK, f"base_model={base}"]
    output = train(tiny_data, tmp_path / "out", 1, *words, ok=False)
    assert f"{base / CARD_FILE}: not JSON" in output and "layout" not in output
    data = shutil.copytree(tiny_data, tmp_path / "data")
    (data / "dataset.json").write_text('{"drawn": 1}')
    output = train(data, tmp_path / "out", 1, *QUICK, ok=False)
    assert f"{data / 'dataset.json'}: name is missing" in output and "layout" not in output


@pytest.mark.parametrize("words", [["-1"], ["epochs=2", "4"], ["2", "3"], ["epochs"], ["--epochs=2"]])
def test_words_that_the_launcher_does_not_know_are_named(words):
    output = run(
        "bash",
        "scripts/launch.sh",
        "train",
        "configs/train/heterogeneous.yaml",
        *words,
        ok=False,
    )
    assert f"error: found '{words[-1]}', expected key=value" in output


def test_the_launcher_explains_itself():
    assert "train|evaluate CONFIG [processes] [key=value ...]" in run("bash", "scripts/launch.sh", "--help")
    assert "CONFIG [processes]" in run("bash", "scripts/launch.sh", "train", ok=False)
