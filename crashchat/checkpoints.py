"""Checkpoint folders: weights, config, tokenizer and processor settings, read into a model and written from one.

Any layout of layouts.py is read; what is written is transformers' own.
"""

import dataclasses
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase, VideoLlama3Config

from crashchat.attention import BRANCH_ATTENTION
from crashchat.batches import VideoSettings
from crashchat.files import new_folder, write_json_atomic
from crashchat.layouts import CheckpointError, detect_layout, native_config, read_weights, rename_key
from crashchat.model import CrashChatModel
from crashchat.processes import choose_device, choose_dtype, print_once
from crashchat.sequence import image_token_id
from crashchat.vision import VisionSettings

PROCESSOR_FILE = "preprocessor_config.json"


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
    attention: str = BRANCH_ATTENTION,
    vision: dict | None = None,
) -> CrashChatModel:
    """A checkpoint of any layout as a CrashChatModel, in evaluation mode.

    Raises CheckpointError that lists the weights that are missing, unknown, or of the wrong shape.
    """
    device = device or choose_device()
    config = native_config(folder, image_token_id(tokenizer), vision)
    config.dtype = dtype or choose_dtype(device)
    weights = read_weights(folder)
    layout = detect_layout(list(weights), folder)
    print_once(f"{folder}: {layout} layout, {len(weights)} weights")
    weights = {rename_key(key, layout, "native"): value for key, value in weights.items()}
    if config.tie_word_embeddings:
        weights.setdefault("lm_head.weight", weights.get("model.language_model.embed_tokens.weight"))
    check_shapes({key: tuple(value.shape) for key, value in weights.items()}, config, folder)
    model, report = CrashChatModel.from_pretrained(
        None,
        config=config,
        state_dict=weights,
        dtype=config.dtype,
        attn_implementation={"text_config": attention, "vision_config": "sdpa"},
        output_loading_info=True,
    )
    left = {name: keys for name, keys in report.items() if keys}
    if left:
        raise CheckpointError(f"{folder}: weights did not load: {left}")
    return model.to(device).eval()


def expected_shapes(config: VideoLlama3Config) -> dict[str, tuple[int, ...]]:
    """{native key: shape} of a model with this config, which is made on the meta device."""
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in CrashChatModel(config).state_dict().items()}


def check_shapes(found: dict[str, tuple[int, ...]], config: VideoLlama3Config, folder: str | Path) -> None:
    """Raises CheckpointError that lists the native keys that are missing, unknown, or of another shape than the config's."""
    expected = expected_shapes(config)
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in found]
    problems += [f"unknown: {key}" for key in found if key not in expected]
    wrong = [key for key in found if key in expected and found[key] != expected[key]]
    problems += [f"shape of {key}: found {found[key]}, expected {expected[key]}" for key in wrong]
    if problems:
        more = [f"… and {len(problems) - 20} more"] if len(problems) > 20 else []
        if any("vision_model" in problem for problem in problems):
            more.append("if its config.json has no vision config, so400m was assumed: give the right one with --vision-config")
        raise CheckpointError(f"{folder}: its weights do not fit its config:\n  " + "\n  ".join(problems[:20] + more))


def save_checkpoint(
    model: CrashChatModel, tokenizer: PreTrainedTokenizerBase, settings: VideoSettings, folder: str | Path
) -> None:
    """Write one self-contained model folder: safetensors, config, tokenizer, processor settings. All of it or nothing."""
    with new_folder(folder) as temporary:
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)
        config = json.loads((temporary / "config.json").read_text())
        # Our class adds a forward, no weights: the folder loads as the native class everywhere.
        config["architectures"] = ["VideoLlama3ForConditionalGeneration"]
        write_json_atomic(temporary / "config.json", config)
        processor = {"fps": settings.fps, "max_frames": settings.max_frames, **dataclasses.asdict(settings.vision)}
        write_json_atomic(temporary / PROCESSOR_FILE, processor)
