"""Checkpoint folders: reading and writing weights, tokenizer and processor settings.

The three key layouts met in the wild (SPEC.md, Model) differ in the prefixes of four parts, and in nothing else.
"""

import dataclasses
import json
import os
import re
import shutil
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, VideoLlama3Config

from crashchat.batches import VideoSettings
from crashchat.files import write_json_atomic
from crashchat.model import CrashChatModel, choose_attention, choose_device, choose_dtype
from crashchat.sequence import image_token_id
from crashchat.vision import VisionSettings

# Part -> prefix of its keys. The longest prefix that fits decides, so that `model.` (language) comes last.
LAYOUTS: dict[str, dict[str, str]] = {
    "native": {
        "vision": "model.vision_model.",
        "projector": "model.projector.",
        "language": "model.language_model.",
        "head": "lm_head.",
    },
    "hub": {
        "vision": "model.vision_encoder.",
        "projector": "model.mm_projector.",
        "language": "model.",
        "head": "lm_head.",
    },
    "local": {
        "vision": "model.vision_encoder.vision_encoder.",
        "projector": "model.mm_projector.",
        "language": "model.",
        "head": "lm_head.",
    },
}
PROCESSOR_FILE = "preprocessor_config.json"
# so400m, the vision encoder of every released VideoLLaMA3; its folder's config.json does not say so in the local layout.
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the folder, what was found and what was expected."""


def detect_layout(keys: list[str], where: str | Path) -> str:
    """The layout that weights with these keys are in. Raises CheckpointError for keys of none."""
    if any(key.startswith("model.vision_model.") for key in keys):
        return "native"
    if any(key.startswith("model.vision_encoder.vision_encoder.") for key in keys):
        return "local"
    if any(key.startswith("model.vision_encoder.") for key in keys):
        return "hub"
    expected = ", ".join(f"{name} ({parts['vision']}…)" for name, parts in LAYOUTS.items())
    raise CheckpointError(
        f"{where}: no vision encoder among its {len(keys)} weights (first: {sorted(keys)[:3]}); expected the keys of {expected}"
    )


def rename_key(key: str, source: str, target: str) -> str:
    """A weight's key in another layout. Raises CheckpointError for a key of no known part."""
    for part, prefix in sorted(LAYOUTS[source].items(), key=lambda item: -len(item[1])):
        if key.startswith(prefix):
            return LAYOUTS[target][part] + key[len(prefix) :]
    raise CheckpointError(f"the key {key!r} belongs to no part of the {source} layout")


def _weight_files(folder: Path) -> list[Path]:
    for single, index in (
        ("model.safetensors", "model.safetensors.index.json"),
        ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    ):
        if (folder / index).is_file():
            names = sorted(set(json.loads((folder / index).read_text())["weight_map"].values()))
            missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
            if missing:
                raise CheckpointError(f"{folder / index} names {missing}, which the folder does not hold; fetch it again")
            return [folder / name for name in names]
        if (folder / single).is_file():
            return [folder / single]
    raise CheckpointError(f"{folder}: no weights (model.safetensors or pytorch_model.bin, one file or with an index)")


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All weights of a checkpoint folder, memory-mapped, under their own keys. No pickled code is run."""
    weights: dict[str, Tensor] = {}
    for path in _weight_files(Path(folder)):
        try:
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as file:
                    weights |= {key: file.get_tensor(key) for key in file.keys()}
            else:
                weights |= torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            raise CheckpointError(f"{path}: cannot be read as weights: {error}") from error
    return weights


def read_config(folder: str | Path) -> dict:
    """A checkpoint's config.json. Raises CheckpointError where there is none."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {folder}: {path} is missing; see ckpt/README.md for what to put there")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error


def stored_dtype(folder: str | Path) -> torch.dtype:
    """The type of a checkpoint's weights as its config says; float32 where it says nothing."""
    config = read_config(folder)
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name not in ("float32", "bfloat16", "float16"):
        raise CheckpointError(f"{folder}/config.json: dtype {name!r}, expected float32, bfloat16 or float16")
    return getattr(torch, name)


def native_config(folder: str | Path, tokenizer: PreTrainedTokenizerBase, vision: dict | None = None) -> VideoLlama3Config:
    """A checkpoint's config in transformers' own form.

    vision: the vision encoder's settings, for a checkpoint whose config has none and that is not the released size.
    """
    values = read_config(folder)
    image = image_token_id(tokenizer)
    if values.get("model_type") == "video_llama_3":
        config = VideoLlama3Config(**values)
    elif values.get("model_type") == "videollama3_qwen2":
        vision = vision or values.get("vision_encoder_config") or values.get("vision_config") or SO400M
        kept = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "patch_size", "hidden_act",
                "layer_norm_eps", "num_channels", "attention_dropout")  # fmt: skip
        text = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta",
                "tie_word_embeddings", "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id",
                "initializer_range")  # fmt: skip
        text_config = {name: values[name] for name in text if name in values}
        config = VideoLlama3Config(
            text_config={"model_type": "qwen2", **text_config},
            vision_config={name: vision[name] for name in kept if name in vision},
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        )
    else:
        raise CheckpointError(
            f"{folder}/config.json: model_type {values.get('model_type')!r}, expected video_llama_3 (native) or "
            f"videollama3_qwen2 (hub and local)"
        )
    # The one placeholder of the text (SPEC.md, step 6) stands for video tokens here.
    config.video_token_id = config.image_token_id = image
    return config


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer. Raises CheckpointError where the folder has none."""
    if not (Path(folder) / "tokenizer_config.json").is_file():
        raise CheckpointError(f"{folder}: no tokenizer_config.json; a checkpoint folder holds its tokenizer")
    return AutoTokenizer.from_pretrained(str(folder))


def load_video_settings(
    folder: str | Path,
    fps: float | None = None,
    max_frames: int | None = None,
    max_visual_tokens: int | None = None,
    token_compression: bool = True,
) -> VideoSettings:
    """How a checkpoint wants its videos, from its preprocessor_config.json; what is given here wins."""
    path = Path(folder) / PROCESSOR_FILE
    values = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    known = {field.name for field in dataclasses.fields(VisionSettings)}
    vision = {name: value for name, value in values.items() if name in known}
    if max_visual_tokens is not None:
        vision["max_tokens"] = max_visual_tokens
    return VideoSettings(
        fps=fps or values.get("fps", VideoSettings.fps),
        max_frames=max_frames or values.get("max_frames", VideoSettings.max_frames),
        vision=VisionSettings(**vision),
        token_compression=token_compression,
    )


def load_model(
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    attention: str | None = None,
    vision: dict | None = None,
) -> CrashChatModel:
    """A checkpoint of any layout as a CrashChatModel, in evaluation mode.

    Raises CheckpointError that lists the weights that are missing, unknown, or of the wrong shape.
    """
    device = device or choose_device()
    config = native_config(folder, tokenizer, vision)
    config.dtype = dtype or choose_dtype(device)
    weights = read_weights(folder)
    layout = detect_layout(list(weights), folder)
    weights = {rename_key(key, layout, "native"): value for key, value in weights.items()}
    if config.tie_word_embeddings:
        weights.setdefault("lm_head.weight", weights.get("model.language_model.embed_tokens.weight"))
    _check_weights(weights, config, folder)
    model, report = CrashChatModel.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=config.dtype,
        attn_implementation={"text_config": attention or choose_attention(device), "vision_config": "sdpa"},
        output_loading_info=True,
    )
    left = {name: keys for name, keys in report.items() if keys}
    if left:
        raise CheckpointError(f"{folder}: weights did not load: {left}")
    return model.to(device).eval()


def _check_weights(weights: dict[str, Tensor], config: VideoLlama3Config, folder: str | Path) -> None:
    with torch.device("meta"):
        expected = {key: tuple(value.shape) for key, value in CrashChatModel(config).state_dict().items()}
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in weights]
    problems += [f"unknown: {key}" for key in weights if key not in expected]
    problems += [
        f"shape of {key}: found {tuple(value.shape)}, expected {expected[key]}"
        for key, value in weights.items()
        if key in expected and tuple(value.shape) != expected[key]
    ]
    if problems:
        more = [f"… and {len(problems) - 20} more"] if len(problems) > 20 else []
        raise CheckpointError(f"{folder}: its weights do not fit its config:\n  " + "\n  ".join(problems[:20] + more))


def load_adapter(model: CrashChatModel, folder: str | Path) -> PeftModel:
    """Put a saved adapter (LoRA and projector in one PEFT adapter) on a model.

    Raises CheckpointError naming every weight of the adapter that the model has no place for, or that is missing.
    """
    folder = Path(folder)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (folder / name).is_file():
            raise CheckpointError(f"no adapter at {folder}: {name} is missing; expected the output folder of a training run")
    saved = {key: tuple(value.shape) for key, value in load_file(folder / "adapter_model.safetensors").items()}
    if not any("projector" in key for key in saved):
        raise CheckpointError(f"{folder}: the adapter holds no projector; it was not saved by this project's training")
    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{folder}: the adapter does not fit the base model: {error}") from error
    own = {re.sub(r"\.default\b", "", key).replace("modules_to_save.", "") for key in adapted.state_dict()}
    unknown = sorted(key for key in saved if key not in own)
    if unknown:
        raise CheckpointError(f"{folder}: the base model has no place for {unknown[:10]} ({len(unknown)} weights)")
    return adapted.eval()


def save_checkpoint(
    model: CrashChatModel, tokenizer: PreTrainedTokenizerBase, settings: VideoSettings, folder: str | Path
) -> None:
    """Write one self-contained model folder: safetensors, config, tokenizer, processor settings. All of it or nothing."""
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty; name another folder, or remove it first")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)
        config = json.loads((temporary / "config.json").read_text())
        # Our class adds a forward, no weights: the folder loads as the native class everywhere.
        config["architectures"] = ["VideoLlama3ForConditionalGeneration"]
        write_json_atomic(temporary / "config.json", config)
        processor = {"fps": settings.fps, "max_frames": settings.max_frames, **dataclasses.asdict(settings.vision)}
        write_json_atomic(temporary / PROCESSOR_FILE, processor)
        os.chmod(temporary, 0o755)  # mkdtemp and safetensors make things private; a model is shared like any other file
        for path in temporary.iterdir():
            os.chmod(path, 0o644)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    except BaseException:
        shutil.rmtree(temporary)
        raise
