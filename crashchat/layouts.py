"""The three layouts of VideoLLaMA3 checkpoints met in the wild: their keys, their configs, their weight files.

They differ in the prefixes of four parts (SPEC.md, Model), in what config.json says, and in nothing else.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import VideoLlama3Config

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
# Below each prefix, what the language part's keys begin with: with it, `model.mm_projecter.…` is not taken for language.
LANGUAGE_PARTS = ("embed_tokens.", "layers.", "norm.")

NATIVE_TYPE, RELEASED_TYPE = "video_llama_3", "videollama3_qwen2"
# The vision encoder of every released VideoLLaMA3; the local layout's config.json has no vision config.
SO400M = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
    "num_channels": 3,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
    "attention_dropout": 0.0,
}
TEXT_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "attention_dropout",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class CheckpointError(Exception):
    """A checkpoint that cannot be used; the message names the folder, what was found and what was expected."""


def detect_layout(keys: list[str], where: str | Path) -> str:
    """The layout that weights with these keys are in. Raises CheckpointError for keys of none."""
    for layout in ("native", "local", "hub"):  # local before hub, whose prefix it begins with
        if any(key.startswith(LAYOUTS[layout]["vision"]) for key in keys):
            return layout
    expected = ", ".join(f"{name} ({parts['vision']}…)" for name, parts in LAYOUTS.items())
    raise CheckpointError(
        f"{where}: no vision encoder among its {len(keys)} weights (first: {sorted(keys)[:3]}); expected the keys of {expected}"
    )


def rename_key(key: str, source: str, target: str) -> str:
    """A weight's key in another layout. Raises CheckpointError for a key of no known part."""
    for part, prefix in sorted(LAYOUTS[source].items(), key=lambda item: -len(item[1])):
        if key.startswith(prefix):
            rest = key[len(prefix) :]
            if part != "language" or rest.startswith(LANGUAGE_PARTS):
                return LAYOUTS[target][part] + rest
    raise CheckpointError(f"the key {key!r} belongs to no part of the {source} layout")


def read_config(folder: str | Path) -> dict:
    """A checkpoint's config.json. Raises CheckpointError where there is none."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {folder}: {path} is missing; see ckpt/README.md for what to put there")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON: {error}") from error
    if values.get("model_type") not in (NATIVE_TYPE, RELEASED_TYPE):
        raise CheckpointError(
            f"{path}: model_type {values.get('model_type')!r}, expected {NATIVE_TYPE} (native) or {RELEASED_TYPE} (hub and local)"
        )
    return values


def stored_dtype(folder: str | Path) -> torch.dtype:
    """The type of a checkpoint's weights as its config says; float32 where it says nothing."""
    config = read_config(folder)
    name = config.get("dtype") or config.get("torch_dtype") or "float32"
    if name not in ("float32", "bfloat16", "float16"):
        raise CheckpointError(f"{folder}/config.json: dtype {name!r}, expected float32, bfloat16 or float16")
    return getattr(torch, name)


def read_vision_config(path: str | Path | None) -> dict | None:
    """The vision encoder's settings from a JSON file, for a checkpoint whose config has none; None without a path."""
    if path is None:
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not readable as JSON: {error}") from error


def native_config(folder: str | Path, image_token: int, vision: dict | None = None) -> VideoLlama3Config:
    """A checkpoint's config in transformers' own form.

    image_token: the id that stands for a visual token. vision: the vision encoder's settings, for a checkpoint whose config has
    none and that is not the released size (so400m): numbers of heads cannot be read off weights and are never guessed.
    """
    values = read_config(folder)
    if values["model_type"] == NATIVE_TYPE:
        config = VideoLlama3Config(**values)
    else:
        found = vision or values.get("vision_encoder_config") or values.get("vision_config") or SO400M
        rope = {"rope_type": "default", "rope_theta": values.get("rope_theta", 10000.0)}
        if values.get("rope_scaling"):
            raise CheckpointError(f"{folder}/config.json: rope_scaling {values['rope_scaling']}, expected none")
        config = VideoLlama3Config(
            text_config={
                "model_type": "qwen2",
                "rope_parameters": rope,
                **{name: values[name] for name in TEXT_FIELDS if name in values},
            },
            vision_config={name: found[name] for name in SO400M if name in found},
            tie_word_embeddings=bool(values.get("tie_word_embeddings", False)),
        )
        config.text_config.tie_word_embeddings = config.tie_word_embeddings
        config.dtype = stored_dtype(folder)
    # The one placeholder of the text (SPEC.md, step 6) stands for video tokens here.
    config.video_token_id = config.image_token_id = image_token
    return config


def released_config(config: VideoLlama3Config) -> dict:
    """The config.json of the hub and local layouts. Both get the vision config, which the reference's own local ones lack."""
    text, vision = config.text_config.to_dict(), config.vision_config.to_dict()
    return {
        "model_type": RELEASED_TYPE,
        "architectures": ["Videollama3Qwen2ForCausalLM"],
        **{name: text[name] for name in TEXT_FIELDS},
        "rope_theta": text["rope_parameters"]["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": config.tie_word_embeddings,
        "torch_dtype": str(config.dtype).removeprefix("torch."),
        "use_cache": True,
        "use_token_compression": True,
        "image_token_index": config.video_token_id,
        "mm_projector_type": "mlp2x_gelu",
        "vision_encoder": "DAMO-NLP-SG/SigLIP-NaViT",
        "mm_vision_encoder": "DAMO-NLP-SG/SigLIP-NaViT",
        "vision_encoder_config": {
            "model_type": "videollama3_vision_encoder",
            **{name: vision[name] for name in SO400M},
        },
    }


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a checkpoint's weights. Raises CheckpointError where there are none, or one is missing."""
    folder = Path(folder)
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{single}.index.json"
        if index.is_file():
            try:
                names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            except (ValueError, KeyError, AttributeError) as error:
                raise CheckpointError(f"{index}: not an index with a weight_map: {error!r}") from error
            # A name is a file of this folder, never a way out of it.
            missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
            if missing:
                raise CheckpointError(f"{index} names {missing}, which the folder does not hold; fetch it again")
            return [folder / name for name in names]
        if (folder / single).is_file():
            return [folder / single]
    raise CheckpointError(f"{folder}: no weights (model.safetensors or pytorch_model.bin, one file or with an index)")


def iterate_weights(path: Path, keys: set[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of one weight file, memory-mapped, one tensor in memory at a time. No pickled code is run."""
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                for key in file.keys():
                    if keys is None or key in keys:
                        yield key, file.get_tensor(key)
        else:
            for key, tensor in torch.load(path, map_location="cpu", weights_only=True, mmap=True).items():
                if not isinstance(tensor, Tensor):
                    raise CheckpointError(f"{path}: {key!r} is a {type(tensor).__name__}, expected a tensor")
                if keys is None or key in keys:
                    yield key, tensor
    # UnpicklingError: a pickle that holds anything but tensors, which weights_only refuses to run.
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as weights: {error}") from error


def weight_table(folder: str | Path) -> dict[str, tuple[Path, tuple[int, ...], int]]:
    """{key: (file, shape, bytes)} of a checkpoint, without holding its weights. Raises CheckpointError for a key in two files."""
    table: dict[str, tuple[Path, tuple[int, ...], int]] = {}
    for path in weight_files(folder):
        for key, shape, size in _headers(path):
            if key in table:
                raise CheckpointError(f"{folder}: the weight {key!r} is in both {table[key][0].name} and {path.name}")
            table[key] = (path, shape, size)
    return table


def _headers(path: Path) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """(key, shape, bytes) of one weight file's tensors; of safetensors, the header alone is read."""
    if path.suffix != ".safetensors":  # mapped, and only looked at: nothing is held
        yield from ((key, tuple(tensor.shape), tensor.nbytes) for key, tensor in iterate_weights(path))
        return
    try:
        with safe_open(path, framework="pt"):  # checks that header and file fit each other
            pass
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path}: cannot be read as weights: {error}") from error
    header.pop("__metadata__", None)
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        yield key, tuple(entry["shape"]), end - begin


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All weights of a checkpoint folder under their own keys."""
    return {key: tensor for path in weight_files(folder) for key, tensor in iterate_weights(path)}
