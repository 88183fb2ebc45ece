"""Adapter folders, two forms of one thing: LoRA weights and a projector.

    ours        adapter_config.json, adapter_model.safetensors with LoRA and projector
    released    adapter_config.json, adapter_model.safetensors with LoRA, non_lora_trainables.bin with the
    projector

The released form names the base's modules as the local layout does. Its target modules are bare names
(`q_proj`), which the vision encoder's attention has too, so that a released adapter can hold LoRA on the
vision encoder: what is in the file is loaded.
"""

import copy
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from pydantic import Field, field_validator
from safetensors.torch import save_file
from torch import Tensor, nn

from crashchat.checkpoints.layouts import CheckpointError, file_in, rename_key
from crashchat.checkpoints.model_card import read_card, write_card
from crashchat.checkpoints.weights import check_finite, iterate_weights
from crashchat.errors import writing
from crashchat.files import new_folder, write_json_atomic
from crashchat.json_files import Lenient, checked, read_json
from crashchat.model.lora import PROJECTOR, base_of, train_in_float32
from crashchat.model.videollama3 import CrashChatModel
from crashchat.processes import print_once
from crashchat.settings import MAX_RANK

CONFIG_FILE, LORA_FILE, PROJECTOR_FILE = (
    "adapter_config.json",
    "adapter_model.safetensors",
    "non_lora_trainables.bin",
)
PEFT_PREFIX = "base_model.model."
Rank = Annotated[int, Field(ge=1, le=MAX_RANK)]
Alpha = Annotated[float, Field(gt=0, le=10**6)]


class LoraFields(Lenient):
    """Of a LoRA config, what is taken over, and what there must not be;
    the rest is about how it was trained.
    """

    peft_type: Literal["LORA"]
    r: Rank
    lora_alpha: Alpha
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    rank_pattern: dict[str, Rank] = Field(default_factory=dict)
    alpha_pattern: dict[str, Alpha] = Field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool | None = None
    fan_in_fan_out: Literal[False] | None = None
    bias: Literal["none"] = "none"
    layer_replication: None = None
    base_model_name_or_path: str | None = None

    @field_validator("rank_pattern", "alpha_pattern", mode="before")
    @classmethod
    def _patterns(cls, value):
        for pattern in value if isinstance(value, dict) else ():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"expected patterns: {error}") from error
        return value or {} if value is None else value


def _rename(key: str, source: str, target: str) -> str:
    if not key.startswith(PEFT_PREFIX):
        raise CheckpointError(f"the adapter's key {key!r} does not begin with {PEFT_PREFIX!r}")
    return PEFT_PREFIX + rename_key(key.removeprefix(PEFT_PREFIX), source, target)


def _read_config(folder: str | Path) -> object:
    path = file_in(folder, CONFIG_FILE)
    if not path.exists():
        raise CheckpointError(
            f"no adapter at {folder}: {CONFIG_FILE} is missing; expected the output folder of a training "
            "run, "
            f"or a released adapter folder"
        )
    return read_json(path, CheckpointError, "an adapter's config")


class Adapter(NamedTuple):
    """An adapter folder's content.

    config: its target modules are exactly those that the weights name. modules: these, sorted. weights: under
    native names. form: "ours" or "released".
    """

    config: LoraConfig
    modules: list[str]
    weights: dict[str, Tensor]
    form: str


def read_adapter(folder: str | Path) -> Adapter:
    """An adapter folder of either form.

    Raises CheckpointError for a folder
    that is no adapter, an adapter without LoRA or projector, one that does more than LoRA, or weights that
    are not finite.
    """
    folder = Path(folder)
    fields = checked(LoraFields, _read_config(folder), folder / CONFIG_FILE, CheckpointError)
    files = [file_in(folder, name) for name in (LORA_FILE, PROJECTOR_FILE)]
    if not files[0].is_file():
        raise CheckpointError(f"no adapter at {folder}: {LORA_FILE} is missing")
    form = "released" if files[1].exists() else "ours"
    weights = {}
    for path in files[: 1 if form == "ours" else 2]:
        for key, value in iterate_weights(path):
            check_finite(key, value, path)
            weights[key if form == "ours" else _rename(key, "local", "native")] = value
    lora = {
        match[1] for key in weights if (match := re.fullmatch(rf"{PEFT_PREFIX}(.+)\.lora_[AB]\.weight", key))
    }
    if not lora:
        raise CheckpointError(f"{folder / LORA_FILE}: holds no LoRA weights, found {sorted(weights)[:3]}")
    if not any(f".{PROJECTOR}." in key for key in weights):
        raise CheckpointError(
            f"{folder}: the adapter holds no projector; expected it in {LORA_FILE} or {PROJECTOR_FILE}"
        )
    ranks = {fields.r, *fields.rank_pattern.values()}
    for module in sorted(lora):
        first, second = (
            weights.get(f"{PEFT_PREFIX}{module}.lora_{side}.weight", torch.empty(0)).shape for side in "AB"
        )
        if len(first) != 2 or len(second) != 2 or first[0] != second[1] or first[0] not in ranks:
            raise CheckpointError(
                f"{folder / LORA_FILE}: {module} has lora_A {list(first)} and lora_B {list(second)}, "
                "expected [r, inputs] and "
                f"[outputs, r] with the r of {CONFIG_FILE}, {', '.join(map(str, sorted(ranks)))}"
            )
    kept = {
        "r",
        "lora_alpha",
        "lora_dropout",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "use_dora",
        "base_model_name_or_path",
    }
    modules = sorted(lora)
    config = LoraConfig(
        **fields.model_dump(include=kept),
        target_modules=modules,
        modules_to_save=[PROJECTOR],
        task_type="CAUSAL_LM",
    )
    return Adapter(config, modules, weights, form)


def check_fits(adapter: Adapter, shapes: Mapping[str, tuple[int, ...]], folder: str | Path) -> None:
    """Raises CheckpointError where an adapter does not fit a base whose weights have these shapes, {native
    name: shape}, naming what the base has no place for, what the adapter lacks, and sizes that differ.
    """
    unknown = [module for module in adapter.modules if f"{module}.weight" not in shapes]
    if unknown:
        raise CheckpointError(
            f"{folder}: the base model has no modules {unknown[:5]} ({len(unknown)} that the adapter adapts)"
        )
    for key, value in adapter.weights.items():
        plain = key.removeprefix(PEFT_PREFIX)
        module, _, kind = plain.removesuffix(".weight").rpartition(".")
        expected: tuple[int | None, ...] | None = shapes.get(plain)
        if kind in ("lora_A", "lora_B"):
            outputs, inputs = shapes.get(f"{module}.weight", ())[:2] or (None, None)
            expected = (value.shape[0], inputs) if kind == "lora_A" else (outputs, value.shape[1])
        elif kind == "lora_magnitude_vector":
            expected = shapes.get(f"{module}.weight", ())[:1]
        if tuple(value.shape) != expected:
            raise CheckpointError(
                f"{folder}: the adapter does not fit the base model: {plain} is {tuple(value.shape)}, "
                f"expected {expected}"
            )
    # The base's own projector: not those that adapters already there have put beside it.
    projector = [key for key in shapes if f".{PROJECTOR}." in key and ".modules_to_save." not in key]
    lacking = [key for key in projector if f"{PEFT_PREFIX}{key}" not in adapter.weights]
    if lacking:
        raise CheckpointError(f"{folder}: the adapter's projector lacks {lacking[:5]}")


def load_adapter(
    model: CrashChatModel | PeftModel, folder: str | Path, name: str = "default", trained: bool = False
) -> PeftModel:
    """Put a saved adapter of either form on a model, in evaluation mode and in the base's type.

    trained: to be trained further, so in float32.

    A model that has adapters already gets one more; the one that was active stays so until set_adapter
    switches. Raises CheckpointError, see check_fits.
    """
    adapter = read_adapter(folder)
    config, modules, weights, form = adapter
    print_once(f"{folder}: adapter ({form} form), LoRA r {config.r} on {len(modules)} modules, and projector")
    # What an adapter already there has wrapped keeps the name it had without.
    shapes = {
        re.sub(r"\.(base_layer|original_module)\.", ".", key): tuple(value.shape)
        for key, value in base_of(model).state_dict().items()
    }
    check_fits(adapter, shapes, folder)
    if isinstance(model, PeftModel):
        if name in model.peft_config:
            raise CheckpointError(
                f"{folder}: the model has an adapter {name!r} already; load this one under another name"
            )
        adapted = model
        adapted.add_adapter(name, config, autocast_adapter_dtype=trained)
    else:
        config.base_model_name_or_path = None  # PEFT writes the model's own there, and would warn of another
        adapted = get_peft_model(model, config, adapter_name=name, autocast_adapter_dtype=trained)
    if trained:
        train_in_float32(adapted)
    try:
        # torch's report of missing_keys and unexpected_keys, which PEFT's type calls a namedtuple of nothing.
        report: Any = set_peft_model_state_dict(adapted, weights, adapter_name=name)
    except RuntimeError as error:  # a rank_pattern that gives a module another rank than its weights have
        raise CheckpointError(
            f"{folder}: the adapter's weights do not fit its {CONFIG_FILE}: {error}"
        ) from error
    missing = [
        key
        for key in report.missing_keys
        if re.search(rf"(lora_[AB]|lora_magnitude_vector|modules_to_save)\.{re.escape(name)}\.", key)
    ]
    if missing or report.unexpected_keys:
        raise CheckpointError(
            f"{folder}: adapter weights missing {missing[:5]}, without a place {report.unexpected_keys[:5]}"
        )
    return adapted.eval()


def read_projector(folder: str | Path, base: nn.Module) -> nn.Module:
    """An adapter's projector alone, in evaluation mode, as the base's in type and place.

    Raises CheckpointError for a folder that is no adapter, and for a projector of other sizes than the
    base's.
    """
    beginning = f"{PEFT_PREFIX}model.{PROJECTOR}."
    weights = {
        key.removeprefix(beginning): value
        for key, value in read_adapter(folder).weights.items()
        if key.startswith(beginning)
    }
    projector = copy.deepcopy(base)
    try:
        projector.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(
            f"{folder}: the adapter's projector does not fit the base's: {error}"
        ) from error
    return projector.eval()


def write_released_adapter(
    folder: str | Path,
    out: str | Path,
    change: Callable[[str, Tensor], Tensor] = lambda name, weight: weight,
) -> None:
    """Write an adapter folder of either form as the released form, for the reference's own code.

    change: (the name that a weight is written under, the weight) -> what is written.
    """
    _, modules, weights, _ = read_adapter(folder)
    card = read_card(folder)
    renamed = {
        (name := _rename(key, "native", "local")): change(name, value).contiguous()
        for key, value in weights.items()
    }
    values = cast(dict, _read_config(folder))  # read_adapter has checked it
    names = sorted({module.rpartition(".")[2] for module in modules})
    with new_folder(out) as temporary, writing(out):
        lora = {key: value for key, value in renamed.items() if "lora_" in key}
        save_file(lora, temporary / LORA_FILE, metadata={"format": "pt"})
        torch.save(
            {key: value for key, value in renamed.items() if "lora_" not in key}, temporary / PROJECTOR_FILE
        )
        # Where only the language model is adapted, bare names would take in the vision encoder too.
        vision = any("vision" in key for key in lora)
        targets = names if vision else rf"model\.layers\.\d+\.(self_attn|mlp)\.({'|'.join(names)})"
        write_json_atomic(
            temporary / CONFIG_FILE, values | {"target_modules": targets, "modules_to_save": None}
        )
        if card:
            write_card(temporary, card)


def write_adapter(folder: str | Path, out: str | Path) -> None:
    """Write an adapter folder of either form as ours: one PEFT adapter with the projector inside."""
    config, _, weights, _ = read_adapter(folder)
    card = read_card(folder)
    with new_folder(out) as temporary, writing(out):
        save_file(
            {key: value.contiguous() for key, value in weights.items()},
            temporary / LORA_FILE,
            metadata={"format": "pt"},
        )
        config.inference_mode = True
        config.save_pretrained(str(temporary))
        if card:
            write_card(temporary, card)
