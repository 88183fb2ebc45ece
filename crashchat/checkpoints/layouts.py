"""The three layouts of VideoLLaMA3 checkpoints met in the wild: their keys and their configs.

They differ in the prefixes of four parts (docs/reference.md, Layouts), in what config.json says, and in
nothing else.
"""

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field

from crashchat.errors import CrashChatError, abbreviate
from crashchat.json_files import Lenient, checked, read_json

# Segment -> prefix of its keys. The longest prefix that fits decides, so that `model.` (language) comes last.
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
# Below each prefix, what the language part's keys begin with: with it, `model.mm_projecter.…` is not taken
# for language.
LANGUAGE_PARTS = ("embed_tokens.", "layers.", "norm.")

NATIVE_TYPE, RELEASED_TYPE = "video_llama_3", "videollama3_qwen2"
# Far above every model there is: what a damaged config asks for beyond is never allocated.
Width = Annotated[int, Field(ge=1, le=2**24)]
Layers = Annotated[int, Field(ge=1, le=1024)]
Share = Annotated[float, Field(ge=0, lt=1)]
Small = Annotated[float, Field(gt=0, lt=1)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)] | list[Annotated[int, Field(ge=0, lt=2**31)]] | None


class Rope(Lenient, extra="allow"):
    """Rotary positions; kinds other than the default have settings of their own."""

    rope_type: str = "default"
    rope_theta: Annotated[float, Field(gt=0, le=1e12)]


class VisionFields(Lenient):
    """What config.json says of the vision encoder."""

    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Layers
    num_attention_heads: Layers
    patch_size: Annotated[int, Field(ge=1, le=256)]
    num_channels: Literal[3] = 3
    hidden_act: str = "gelu_pytorch_tanh"
    layer_norm_eps: Small = 1e-6
    attention_dropout: Share = 0.0


class TextFields(Lenient):
    """What config.json says of the language model, in all layouts.

    Whatever the weights do not show must be there.
    """

    vocab_size: Width
    hidden_size: Width
    intermediate_size: Width
    num_hidden_layers: Annotated[int, Field(ge=0, le=1024)]  # 0: an engine has them (engine_export.py)
    num_attention_heads: Layers
    num_key_value_heads: Layers
    hidden_act: str
    max_position_embeddings: Width
    initializer_range: Small = 0.02
    rms_norm_eps: Small
    attention_dropout: Share = 0.0
    bos_token_id: TokenId = None
    eos_token_id: TokenId = None
    pad_token_id: TokenId = None
    rope_theta: Annotated[float, Field(gt=0, le=1e12)] | None = None
    rope_scaling: None = None
    use_sliding_window: Literal[False] = False


class NativeText(TextFields):
    """The language model in transformers' own form."""

    rope_parameters: Rope | None = None
    tie_word_embeddings: bool = False


class ConfigFields(Lenient):
    """Any config.json."""

    model_type: str
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    torch_dtype: Literal["float32", "bfloat16", "float16"] | None = None
    tie_word_embeddings: bool = False
    quantization_config: None = None

    @property
    def stored(self) -> torch.dtype:
        """The type of the weights; float32 where nothing is said."""
        return getattr(torch, self.dtype or self.torch_dtype or "float32")


class NativeFields(ConfigFields):
    """transformers' own config.json."""

    text_config: NativeText
    vision_config: VisionFields


class ReleasedFields(ConfigFields, TextFields):
    """config.json of the hub and local layouts."""

    vision_encoder_config: VisionFields | None = None
    vision_config: VisionFields | None = None


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
ROPE_FIELDS = {"rope_theta", "rope_scaling", "rope_parameters"}
TEXT_FIELDS = tuple(
    name for name in TextFields.model_fields if name not in (*ROPE_FIELDS, "use_sliding_window")
)


class CheckpointError(CrashChatError):
    """A checkpoint that cannot be used; the message names the folder,
    what was found and what was expected.
    """

    everywhere = True


def detect_layout(keys: list[str], where: str | Path) -> str:
    """The layout that weights with these keys are in. Raises CheckpointError for keys of none."""
    for layout in ("native", "local", "hub"):  # local before hub, whose prefix it begins with
        if any(key.startswith(LAYOUTS[layout]["vision"]) for key in keys):
            return layout
    expected = ", ".join(f"{name} ({parts['vision']}…)" for name, parts in LAYOUTS.items())
    raise CheckpointError(
        f"{where}: no vision encoder among its {len(keys)} weights (first: {sorted(keys)[:3]}); expected "
        f"the keys of {expected}"
    )


def rename_key(key: str, source: str, target: str) -> str:
    """A weight's key in another layout. Raises CheckpointError for a key of no known part."""
    for part, prefix in sorted(LAYOUTS[source].items(), key=lambda item: -len(item[1])):
        if key.startswith(prefix):
            rest = key[len(prefix) :]
            if part != "language" or rest.startswith(LANGUAGE_PARTS):
                return LAYOUTS[target][part] + rest
    raise CheckpointError(f"the key {key!r} belongs to no part of the {source} layout")


def file_in(folder: str | Path, name: str) -> Path:
    """The path of a checkpoint folder's file, whether it is there or not.

    Raises CheckpointError for a link out of the folder, through which a folder that came from elsewhere could
    have another file of this machine copied into a checkpoint. The hub's cache keeps its files in blobs/
    beside snapshots/: that is no way out.
    """
    path, home = Path(folder) / name, Path(folder).resolve()
    if not path.is_symlink():
        return path
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise CheckpointError(f"{path}: a link that leads nowhere; put the file itself there") from error
    if not target.is_relative_to(home) and target.parent != home.parent.parent / "blobs":
        advice = "put the file itself there, or link the whole folder"
        raise CheckpointError(f"{path}: a link out of its folder, to {target}; {advice}")
    return path


def read_config(folder: str | Path) -> NativeFields | ReleasedFields:
    """A checkpoint's config.json.

    Raises CheckpointError where there is none, or one that is no VideoLLaMA3's.
    """
    path = file_in(folder, "config.json")
    if not path.exists():
        raise CheckpointError(
            f"no checkpoint at {folder}: {path} is missing; see ckpt/README.md for what to put there"
        )
    values = read_json(path, CheckpointError, "a checkpoint's config")
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in (NATIVE_TYPE, RELEASED_TYPE):
        raise CheckpointError(
            f"{path}: model_type {abbreviate(kind)}, expected {NATIVE_TYPE!r} (native) or {RELEASED_TYPE!r} "
            "(hub and local)"
        )
    if kind == NATIVE_TYPE:
        return checked(NativeFields, values, path, CheckpointError)
    return checked(ReleasedFields, values, path, CheckpointError)


def stored_dtype(folder: str | Path) -> torch.dtype:
    """The type of a checkpoint's weights as its config says; float32 where it says nothing."""
    return read_config(folder).stored


def read_vision_config(path: str | Path | None) -> VisionFields | None:
    """The vision encoder's settings from a JSON file, for a checkpoint whose config has none;
    None without a path.
    """
    if path is None:
        return None
    return checked(
        VisionFields, read_json(path, CheckpointError, "a vision encoder's config"), path, CheckpointError
    )
