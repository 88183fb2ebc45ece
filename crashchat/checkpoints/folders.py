"""Checkpoint folders: weights, config, tokenizer and processor settings,
read into a model and written from one.

Any layout of layouts.py is read; what is written is transformers' own.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any, cast

import torch
from pydantic import Field
from transformers import AutoTokenizer, PreTrainedTokenizerBase, VideoLlama3Config

from crashchat.checkpoints.configs import native_config, text_and_vision
from crashchat.checkpoints.layouts import CheckpointError, VisionFields, detect_layout, file_in, rename_key
from crashchat.checkpoints.model_card import ModelCard, write_card
from crashchat.checkpoints.weights import read_weights
from crashchat.errors import abbreviate, listed, writing
from crashchat.files import new_folder, write_json_atomic
from crashchat.json_files import Lenient, checked, read_json
from crashchat.model.attention import BRANCH_ATTENTION
from crashchat.model.quantized import quantize
from crashchat.model.sequence import image_token_id
from crashchat.model.videollama3 import CrashChatModel
from crashchat.processes import choose_device, choose_dtype, print_once
from crashchat.settings import MAX_FPS, MAX_FRAMES, Settings
from crashchat.video.tokens import VideoSettings, VisionSettings

PROCESSOR_FILE = "preprocessor_config.json"
MERGE_SIZE = 2  # what the model makes one token of, a side
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
TEMPLATES = "additional_chat_templates"  # the one folder among them
# What a tokenizer is read from; whatever is there of it.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.json",
    "chat_template.jinja",
    TEMPLATES,
)


class Sampling(Lenient):
    """Of a checkpoint's processor settings, what says which frames are taken."""

    fps: Annotated[float, Field(gt=0, le=MAX_FPS)] | None = None
    max_frames: Annotated[int, Field(gt=0, le=MAX_FRAMES)] | None = None


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer.

    Raises CheckpointError where the folder has none, or one that is damaged or brings code.
    """
    paths = {name: file_in(folder, name) for name in TOKENIZER_FILES}
    if not paths["tokenizer_config.json"].exists():
        raise CheckpointError(f"{folder}: no tokenizer_config.json; expected a tokenizer beside the weights")
    if not paths["tokenizer.json"].exists() and not (
        paths["vocab.json"].exists() and paths["merges.txt"].exists()
    ):
        raise CheckpointError(f"{folder}: no tokenizer.json; expected a tokenizer beside the weights")
    for name, path in paths.items():
        if name == TEMPLATES and path.is_dir():
            for inner in path.iterdir():
                file_in(folder, f"{name}/{inner.name}")
        elif path.suffix == ".json" and path.exists():
            values = read_json(path, CheckpointError, "an object, of a tokenizer")
            if not isinstance(values, dict):
                raise CheckpointError(
                    f"{path}: found {abbreviate(values)}, expected an object, of a tokenizer"
                )
    files = f"{folder}: its tokenizer.json and tokenizer_config.json"
    try:
        # The config is given, so that config.json, not checked here, is not read for it.
        tokenizer = AutoTokenizer.from_pretrained(
            str(folder), config=VideoLlama3Config(), trust_remote_code=False, local_files_only=True
        )
        ids = [tokenizer.convert_tokens_to_ids(token) for token in (TURN_START, TURN_END)]
        tokenizer.decode(tokenizer.encode(TURN_START))  # a setting of a wrong kind shows when it is used
    # transformers and tokenizers have errors of every kind for files that are JSON and no tokenizer, and
    # plain Exceptions too.
    except Exception as error:
        words = abbreviate(" ".join(str(error).split()))
        raise CheckpointError(
            f"{files} make no tokenizer: {type(error).__name__} {words}; fetch them again"
        ) from error
    if (
        tokenizer.eos_token != TURN_END
        or tokenizer.pad_token_id is None
        or None in ids
        or tokenizer.unk_token_id in ids
    ):
        raise CheckpointError(
            f"{files} make a tokenizer with the end {abbreviate(tokenizer.eos_token)} and the padding "
            f"{abbreviate(tokenizer.pad_token)}; expected the end {TURN_END!r}, some padding, and "
            f"{TURN_START!r} for turns"
        )
    return tokenizer


def load_video_settings(
    folder: str | Path,
    fps: float | None = None,
    max_frames: int | None = None,
    max_visual_tokens: int | None = None,
    token_compression: bool = True,
) -> VideoSettings:
    """How a checkpoint wants its videos, from its preprocessor_config.json; what is given here wins.

    Raises CheckpointError naming the file and the key that is not as it should be.
    """
    path = file_in(folder, PROCESSOR_FILE)
    values = read_json(path, CheckpointError, "processor settings") if path.exists() else {}
    sampling = checked(Sampling, values, path, CheckpointError)
    known = {field.name for field in dataclasses.fields(VisionSettings)}
    # An object, as has just been checked.
    given = {name: value for name, value in cast(dict, values).items() if name in known}
    if max_visual_tokens is not None:
        given["max_tokens"] = max_visual_tokens
    vision = checked(VisionSettings, given, path, CheckpointError)
    if vision.merge_size != MERGE_SIZE:
        raise CheckpointError(
            f"{path}: merge_size: found {vision.merge_size}, expected {MERGE_SIZE}, as VideoLLaMA3 has it"
        )
    return VideoSettings(
        fps=fps or sampling.fps or VideoSettings.fps,
        max_frames=max_frames or sampling.max_frames or VideoSettings.max_frames,
        vision=vision,
        token_compression=token_compression,
    )


def video_settings_of(folder: str | Path, config: Settings) -> VideoSettings:
    """How a run wants its videos: its settings, and where they say nothing the checkpoint's.

    Raises CheckpointError as load_video_settings does.
    """
    return load_video_settings(
        folder,
        config.fps,
        max_frames=config.max_frames,
        max_visual_tokens=config.max_visual_tokens,
        token_compression=config.token_compression,
    )


def load_model(
    folder: str | Path,
    tokenizer: PreTrainedTokenizerBase,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    attention: str = BRANCH_ATTENTION,
    vision: VisionFields | None = None,
    quantized: bool = False,
) -> CrashChatModel:
    """A checkpoint of any layout as a CrashChatModel, in evaluation mode.

    quantized: the language model's linear layers in 4 bits (quantized.py). Raises CheckpointError that lists
    the weights that are missing, unknown, or of the wrong shape, for weights that are not finite, and for a
    tokenizer of another model.
    """
    device = device or choose_device()
    config = native_config(folder, image_token_id(tokenizer), vision)
    check_tokenizer(tokenizer, config, folder)
    config.dtype = dtype or choose_dtype(device)
    weights = read_weights(folder)
    layout = detect_layout(list(weights), folder)
    print_once(f"{folder}: {layout} layout, {len(weights)} weights")
    weights = {rename_key(key, layout, "native"): value for key, value in weights.items()}
    embeddings = "model.language_model.embed_tokens.weight"
    if config.tie_word_embeddings and embeddings in weights:
        weights.setdefault("lm_head.weight", weights[embeddings])
    check_shapes({key: tuple(value.shape) for key, value in weights.items()}, config, folder)
    # transformers' types tell neither of the report that output_loading_info adds nor of what `to` takes.
    loaded, report = cast(
        tuple[Any, dict],
        CrashChatModel.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            dtype=config.dtype,
            attn_implementation={"text_config": attention, "vision_config": "sdpa"},
            output_loading_info=True,
        ),
    )
    left = {name: keys for name, keys in report.items() if keys}
    if left:
        raise CheckpointError(f"{folder}: weights did not load: {left}")
    if quantized:
        quantize(loaded)
    model: CrashChatModel = loaded.to(device)
    model.name_or_path = str(folder)  # what an adapter on it names as its base
    return model.eval()


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, config: VideoLlama3Config, folder: str | Path
) -> None:
    """Raises CheckpointError for a tokenizer with tokens that the model has no embedding of."""
    last, size = max(tokenizer.get_vocab().values()), text_and_vision(config)[0].vocab_size
    if last >= size:
        raise CheckpointError(
            f"{folder}/tokenizer.json: goes up to token {last}, but vocab_size in config.json is {size}"
        )


def expected_shapes(config: VideoLlama3Config) -> dict[str, tuple[int, ...]]:
    """{native key: shape} of a model with this config, which is made on the meta device:
    nothing is allocated.
    """
    with torch.device("meta"):
        return {key: tuple(value.shape) for key, value in CrashChatModel(config).state_dict().items()}


def check_shapes(found: dict[str, tuple[int, ...]], config: VideoLlama3Config, folder: str | Path) -> None:
    """Raises CheckpointError that lists the native keys that are missing, unknown,
    or of another shape than the config's.
    """
    try:
        expected = expected_shapes(config)
    # Whatever transformers' modules say of sizes and names that go together in no model.
    except Exception as error:
        raise CheckpointError(
            f"{folder}/config.json: no model can be made of it: {abbreviate(error, 300)}"
        ) from error
    problems = [f"missing: {key} {shape}" for key, shape in expected.items() if key not in found]
    problems += [f"unknown: {key}" for key in found if key not in expected]
    wrong = [key for key in found if key in expected and found[key] != expected[key]]
    problems += [f"shape of {key}: found {found[key]}, expected {expected[key]}" for key in wrong]
    if problems:
        hint = " (if that has no vision config, so400m was assumed: give its own with --vision-config)"
        hint = hint if any("vision_model" in problem for problem in problems) else ""
        raise CheckpointError(f"{folder}: its weights do not fit its config.json{hint}:{listed(problems)}")


def save_checkpoint(
    model: CrashChatModel,
    tokenizer: PreTrainedTokenizerBase,
    settings: VideoSettings,
    folder: str | Path,
    card: ModelCard | None = None,
) -> None:
    """Write one self-contained model folder: safetensors, config, tokenizer, processor settings, card.

    All of it or nothing.
    """
    with new_folder(folder) as temporary, writing(folder):
        model.save_pretrained(temporary, safe_serialization=True)
        tokenizer.save_pretrained(temporary)
        config = json.loads((temporary / "config.json").read_text())
        # Our class adds a forward, no weights: the folder loads as the native class everywhere.
        config["architectures"] = ["VideoLlama3ForConditionalGeneration"]
        write_json_atomic(temporary / "config.json", config)
        processor = {
            "fps": settings.fps,
            "max_frames": settings.max_frames,
            **dataclasses.asdict(settings.vision),
        }
        write_json_atomic(temporary / PROCESSOR_FILE, processor)
        if card:
            write_card(temporary, card)
