"""Adapter folders, two forms of one thing: LoRA weights and a projector.

    ours        adapter_config.json, adapter_model.safetensors with LoRA and projector
    released    adapter_config.json, adapter_model.safetensors with LoRA, non_lora_trainables.bin with the projector

The released form names the base's modules as the local layout does. Its target modules are bare names (`q_proj`), which the
vision encoder's attention has too, so that a released adapter can hold LoRA on the vision encoder: what is in the file is loaded.
"""

import json
import re
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from crashchat.files import new_folder, write_json_atomic
from crashchat.layouts import CheckpointError, iterate_weights, rename_key
from crashchat.model import PROJECTOR, CrashChatModel, base_of
from crashchat.processes import print_once

CONFIG_FILE, LORA_FILE, PROJECTOR_FILE = "adapter_config.json", "adapter_model.safetensors", "non_lora_trainables.bin"
PEFT_PREFIX = "base_model.model."
# Of a LoRA config, what is taken over; the rest is about how it was trained, or is refused below.
KEPT = ("r", "lora_alpha", "lora_dropout", "rank_pattern", "alpha_pattern", "use_rslora")
REFUSED = {"use_dora": False, "fan_in_fan_out": False, "bias": "none", "layer_replication": None}


def _rename(key: str, source: str, target: str) -> str:
    if not key.startswith(PEFT_PREFIX):
        raise CheckpointError(f"the adapter's key {key!r} does not begin with {PEFT_PREFIX!r}")
    return PEFT_PREFIX + rename_key(key.removeprefix(PEFT_PREFIX), source, target)


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise CheckpointError(
            f"no adapter at {path.parent}: {path.name} is missing; expected the output folder of a training run, "
            f"or a released adapter folder"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error


def read_adapter(folder: str | Path) -> tuple[LoraConfig, dict[str, Tensor], str]:
    """(LoRA config, weights under native names, form) of an adapter folder of either form.

    The config's target modules are exactly those that the weights name. Raises CheckpointError for a folder that is no adapter,
    an adapter without LoRA or projector, or one that does more than LoRA.
    """
    folder = Path(folder)
    values = _read_json(folder / CONFIG_FILE)
    for key, only in REFUSED.items():
        if values.get(key, only) not in (only, False):
            raise CheckpointError(f"{folder / CONFIG_FILE}: {key} is {values[key]!r}, expected {only!r}")
    if values.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder / CONFIG_FILE}: peft_type is {values.get('peft_type')!r}, expected 'LORA'")
    if not (folder / LORA_FILE).is_file():
        raise CheckpointError(f"no adapter at {folder}: {LORA_FILE} is missing")
    weights = dict(iterate_weights(folder / LORA_FILE))
    form = "released" if (folder / PROJECTOR_FILE).is_file() else "ours"
    if form == "released":
        weights |= dict(iterate_weights(folder / PROJECTOR_FILE))
        weights = {_rename(key, "local", "native"): value for key, value in weights.items()}
    lora = {match[1] for key in weights if (match := re.fullmatch(rf"{PEFT_PREFIX}(.+)\.lora_[AB]\.weight", key))}
    if not lora:
        raise CheckpointError(f"{folder / LORA_FILE}: holds no LoRA weights, found {sorted(weights)[:3]}")
    if not any(f".{PROJECTOR}." in key for key in weights):
        raise CheckpointError(f"{folder}: the adapter holds no projector; expected it in {LORA_FILE} or {PROJECTOR_FILE}")
    config = LoraConfig(
        **{name: values[name] for name in KEPT if values.get(name) is not None},
        target_modules=sorted(lora),
        modules_to_save=[PROJECTOR],
        task_type="CAUSAL_LM",
    )
    return config, weights, form


def load_adapter(model: CrashChatModel | PeftModel, folder: str | Path, name: str = "default") -> PeftModel:
    """Put a saved adapter of either form on a model, in evaluation mode.

    A model that has adapters already gets one more; the one that was active stays so until set_adapter switches.
    Raises CheckpointError naming what of the adapter the model has no place for, what it lacks, and sizes that differ.
    """
    config, weights, form = read_adapter(folder)
    print_once(f"{folder}: adapter ({form} form), LoRA r {config.r} on {len(config.target_modules)} modules, and projector")
    base = base_of(model)
    own = {module for module, _ in base.named_modules()}
    unknown = [module for module in config.target_modules if module not in own]
    if unknown:
        raise CheckpointError(f"{folder}: the base model has no modules {unknown[:5]} ({len(unknown)} that the adapter adapts)")
    # What an adapter already there has wrapped keeps the name it had without.
    weights_of_base = base.state_dict().items()
    shapes = {re.sub(r"\.(base_layer|original_module)\.", ".", key): tuple(value.shape) for key, value in weights_of_base}
    for key, value in weights.items():
        plain = key.removeprefix(PEFT_PREFIX)
        module, _, kind = plain.removesuffix(".weight").rpartition(".")
        expected = shapes.get(plain)
        if kind == "lora_A":
            expected = (value.shape[0], shapes[f"{module}.weight"][1])
        elif kind == "lora_B":
            expected = (shapes[f"{module}.weight"][0], value.shape[1])
        if tuple(value.shape) != expected:
            raise CheckpointError(
                f"{folder}: the adapter does not fit the base model: {plain} is {tuple(value.shape)}, expected {expected}"
            )
    if isinstance(model, PeftModel):
        if name in model.peft_config:
            raise CheckpointError(f"{folder}: the model has an adapter {name!r} already; load this one under another name")
        adapted = model
        adapted.add_adapter(name, config)
    else:
        adapted = get_peft_model(model, config, adapter_name=name)
    report = set_peft_model_state_dict(adapted, weights, adapter_name=name)
    missing = [key for key in report.missing_keys if re.search(rf"(lora_[AB]|modules_to_save)\.{re.escape(name)}\.", key)]
    if missing or report.unexpected_keys:
        raise CheckpointError(f"{folder}: adapter weights missing {missing[:5]}, without a place {report.unexpected_keys[:5]}")
    return adapted.eval()


def write_released_adapter(folder: str | Path, out: str | Path) -> None:
    """Write an adapter folder of either form as the released form, for the reference's own code."""
    config, weights, _ = read_adapter(folder)
    renamed = {_rename(key, "native", "local"): value.contiguous() for key, value in weights.items()}
    values = _read_json(Path(folder) / CONFIG_FILE)
    names = sorted({module.rpartition(".")[2] for module in config.target_modules})
    with new_folder(out) as temporary:
        lora = {key: value for key, value in renamed.items() if "lora_" in key}
        save_file(lora, temporary / LORA_FILE, metadata={"format": "pt"})
        torch.save({key: value for key, value in renamed.items() if "lora_" not in key}, temporary / PROJECTOR_FILE)
        # Where only the language model is adapted, bare names would take in the vision encoder too.
        vision = any("vision" in key for key in lora)
        targets = names if vision else rf"model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(names)})"
        write_json_atomic(temporary / CONFIG_FILE, values | {"target_modules": targets, "modules_to_save": None})


def write_adapter(folder: str | Path, out: str | Path) -> None:
    """Write an adapter folder of either form as ours: one PEFT adapter with the projector inside."""
    config, weights, _ = read_adapter(folder)
    with new_folder(out) as temporary:
        save_file({key: value.contiguous() for key, value in weights.items()}, temporary / LORA_FILE, metadata={"format": "pt"})
        config.inference_mode = True
        config.base_model_name_or_path = _read_json(Path(folder) / CONFIG_FILE).get("base_model_name_or_path")
        config.save_pretrained(temporary)
