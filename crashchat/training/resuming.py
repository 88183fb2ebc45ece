"""What a training run goes on from: its folder's settings,
and the newest checkpoint that is whole and this user's own.
"""

import grp
import json
import os
import pickle
import pwd
import shutil
import stat
import zipfile
import zlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers.trainer_pt_utils import safe_globals

from crashchat.config import ConfigError, load_config
from crashchat.errors import opening
from crashchat.files import write_json_atomic
from crashchat.provenance import file_hash
from crashchat.settings import TrainConfig

RESOLVED_CONFIG = "train_config.yaml"
CHECKSUMS = (
    "checksums.json"  # {weight file of a checkpoint: its SHA-256}, which safetensors does not hold itself
)
# Settings that may differ when a run goes on: they change how fast it is, not what it learns. Those that lay
# out the computation otherwise (attention, tokens at a time, and the number of processes) change which
# numbers dropout draws, where there is dropout.
MAY_DIFFER = {
    "num_workers", "cache_videos", "feature_cache", "feature_cache_gb", "logging_steps", "save_total_limit",
    "max_tokens_per_batch", "attention", "trust_checkpoint", "offload_activations", "report_to", "profile",
    "checkpoint_every_n_layers",
}  # fmt: skip
LENGTH = ("epochs", "max_steps")  # these may grow


def earlier_run(config: TrainConfig) -> TrainConfig | None:
    """The settings of the run that the output folder holds; None where it holds none."""
    path = config.output_dir / RESOLVED_CONFIG
    return load_config(type(config), path) if path.is_file() else None


def check_resumable(config: TrainConfig) -> None:
    """Raises ConfigError if the output folder holds a run with other settings, naming each that differs."""
    run = earlier_run(config)
    if run is None:
        return
    earlier, now = run.model_dump(mode="json"), config.model_dump(mode="json")
    allowed = MAY_DIFFER | ({*LENGTH} if is_extended(config) else set())
    differing = [
        f"{key}: {earlier[key]!r} then, {now[key]!r} now"
        for key in now
        if earlier[key] != now[key] and key not in allowed
    ]
    if differing:
        raise ConfigError(
            f"{config.output_dir} holds a run with other settings:\n  " + "\n  ".join(differing) + "\n"
            "give the same settings to go on with it, another output_dir=…, or remove the folder"
        )


def is_extended(config: TrainConfig) -> bool:
    """Whether the output folder holds a run of these settings that was to be shorter: more epochs now,
    or more steps.
    """
    earlier = earlier_run(config)
    if earlier is None or config.finetune == "full":
        return False
    if (earlier.max_steps is None) != (config.max_steps is None):
        return False
    return (config.max_steps or config.epochs) > (earlier.max_steps or earlier.epochs)


def complete_checkpoints(output_dir: Path) -> list[Path]:
    """The checkpoints that were written to their end (Trainer writes trainer_state.json last),
    newest first.
    """
    found = [path for path in output_dir.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]), reverse=True)


def write_checksums(checkpoint: Path) -> None:
    """Write CHECKSUMS for the weights that a checkpoint holds."""
    sums = {path.name: file_hash(path) for path in sorted(checkpoint.glob("*.safetensors"))}
    write_json_atomic(checkpoint / CHECKSUMS, sums)


def choose_checkpoint(config: TrainConfig) -> Path | None:
    """The newest checkpoint that is whole, or None. Those damaged are named,
    and renamed so that none counts again.

    Raises ConfigError where it holds pickled code (DeepSpeed's do) and others than this user could have
    written it.
    """
    for path in complete_checkpoints(config.output_dir):
        if config.deepspeed and not config.trust_checkpoint:
            check_own(path)
        damage = damage_of(path, deepspeed=config.deepspeed is not None)
        if damage is None:
            return path
        aside = path.with_name(f"damaged-{path.name}")
        if aside.exists():
            shutil.rmtree(aside)
        path.rename(aside)
        print(f"warning: {path} is damaged and now named {aside.name}: {damage}; trying the one before it")
    return None


def damage_of(checkpoint: Path, deepspeed: bool) -> str | None:
    """What keeps a run from going on from a checkpoint: the file and the fault, or None.

    No pickled code is run.
    """
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_bytes())
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            return "trainer_state.json holds no global_step"
    except (ValueError, RecursionError) as error:
        return f"trainer_state.json is not JSON ({error})"
    weights = sorted(checkpoint.glob("*model*.safetensors"))
    if not weights:
        return "no adapter_model.safetensors or model.safetensors"
    try:  # a checkpoint of an earlier version has none
        sums = json.loads((checkpoint / CHECKSUMS).read_bytes()) if (checkpoint / CHECKSUMS).is_file() else {}
        if not isinstance(sums, dict):
            return f"{CHECKSUMS} holds no checksums"
    except (ValueError, RecursionError) as error:
        return f"{CHECKSUMS} is not JSON ({error})"
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
            if path.name in sums and sums[path.name] != file_hash(path):
                return f"{path.name} is not what was written: another SHA-256 than in {CHECKSUMS}"
        except (OSError, SafetensorError) as error:
            return f"{path.name} cannot be read ({opening(error)})"
    config = checkpoint / ("adapter_config.json" if weights[0].name.startswith("adapter") else "config.json")
    try:
        json.loads(config.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        return f"{config.name} cannot be read ({opening(error)})"
    random_states = sorted(checkpoint.glob("rng_state*.pth"))
    if not random_states:
        return "no rng_state.pth"
    plain = random_states
    if deepspeed:
        shares = sorted(checkpoint.glob("global_step*/*_optim_states.pt"))
        if len(shares) != len(random_states) or not any(checkpoint.glob("global_step*/*_model_states.pt")):
            return f"{len(shares)} optimizer states for {len(random_states)} processes, or no model states"
        damage = next(filter(None, map(_zip_damage, sorted(checkpoint.glob("global_step*/*.pt")))), None)
        if damage:
            return damage
    else:
        plain = [checkpoint / "optimizer.pt", checkpoint / "scheduler.pt", *random_states]
    return next(filter(None, map(_tensor_damage, plain)), None)


def _zip_damage(path: Path) -> str | None:
    """What is wrong with the bytes of a file of torch.save's: a zip, each of whose parts has a checksum."""
    try:
        with zipfile.ZipFile(path) as file:
            bad = file.testzip()
    except (OSError, ValueError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        return f"{path.name} cannot be read ({opening(error)})"
    return f"{path.name} is damaged in its part {bad}" if bad else None


def _tensor_damage(path: Path) -> str | None:
    """What keeps a file from being loaded as tensors and plain values, which is how Trainer loads it."""
    if damage := _zip_damage(path):
        return damage
    try:
        with safe_globals():
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        return f"{path.name} holds something other than tensors and plain values"
    except Exception as error:  # whatever a damaged pickle comes to
        return f"{path.name} cannot be read ({opening(error)})"
    return None


def check_own(checkpoint: Path) -> None:
    """Raises ConfigError where another user than this one could have written some of a checkpoint
    that holds pickled code.
    """
    for path in [checkpoint, *sorted(checkpoint.rglob("*"))]:
        found = path.stat()
        if found.st_uid != os.getuid():
            why = f"belongs to user id {found.st_uid}, and this is {os.getuid()}"
        elif found.st_mode & stat.S_IWOTH or (
            found.st_mode & stat.S_IWGRP and not _is_private_group(found.st_gid)
        ):
            why = f"can be written by others (mode {stat.filemode(found.st_mode)})"
        else:
            continue
        raise ConfigError(
            f"{path} {why}; DeepSpeed checkpoints hold pickled code, which going on from one runs: give "
            "trust_checkpoint=true "
            f"if you know who wrote this one, or another output_dir=…"
        )


def _is_private_group(gid: int) -> bool:
    """Whether a group has no member but this user, as where each user has a group of their own."""
    try:
        own = pwd.getpwuid(os.getuid())
        members = grp.getgrgid(gid).gr_mem
    except KeyError:
        return False
    return set(members) <= {own.pw_name} and {
        user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid
    } <= {own.pw_uid}
