"""A checkpoint folder in one layout -> a checkpoint folder in another, weights streamed:
at most one shard is in memory.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm
from transformers import VideoLlama3Config

from crashchat.checkpoints.configs import native_config, released_config
from crashchat.checkpoints.folders import (
    PROCESSOR_FILE,
    TOKENIZER_FILES,
    check_shapes,
    check_tokenizer,
    load_tokenizer,
    load_video_settings,
)
from crashchat.checkpoints.layouts import CheckpointError, VisionFields, detect_layout, file_in, rename_key
from crashchat.checkpoints.model_card import read_card, write_card
from crashchat.checkpoints.weights import check_finite, iterate_weights, weight_table
from crashchat.errors import writing
from crashchat.files import new_folder, write_json_atomic
from crashchat.json_files import read_json
from crashchat.model.sequence import image_token_id

SHARD_BYTES = 2 * 1024**3
MAPPED_BYTES = (
    256 * 1024**2
)  # read of a mapped file before it is mapped anew: its pages count as memory until then
GENERATION_FILE = "generation_config.json"
# Everything but weights and config.json that belongs to a checkpoint; code is never copied.
COPIED = (*TOKENIZER_FILES, GENERATION_FILE, PROCESSOR_FILE)


def plan_shards(sizes: dict[str, int], limit: int = SHARD_BYTES) -> list[list[str]]:
    """Keys by shard of the result, in order; a shard holds at most `limit` bytes,
    or one tensor that is larger.
    """
    shards: list[list[str]] = [[]]
    room = limit
    for key, size in sizes.items():
        if shards[-1] and size > room:
            shards.append([])
            room = limit
        shards[-1].append(key)
        room -= size
    return shards


def convert(
    source: Path,
    out: Path,
    to: str = "native",
    vision: VisionFields | None = None,
    dtype: torch.dtype | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> str:
    """Write the checkpoint `source` to `out` in another layout;
    returns the layout it was in. All of it or nothing.

    vision: the vision encoder's settings, for a checkpoint without them that is not the released size. Raises
    CheckpointError for keys that are unknown or missing, and shapes that do not fit the config, each listed,
    for weights that are not finite, and for files beside them that are damaged or links out of the folder;
    FolderError where `out` is not new.
    """
    card = read_card(source)
    config, table, layout = checked_source(source, vision)
    if dtype:
        config.dtype = dtype
    names = {own: rename_key(own, layout, to) for own in table}
    with new_folder(out) as temporary, writing(out):
        write_shards(
            temporary,
            table,
            names=names,
            dtype=dtype,
            limit=shard_bytes,
            told=f"{layout} -> {to}",
        )
        if to == "native":
            values = config.to_dict() | {"architectures": ["VideoLlama3ForConditionalGeneration"]}
        else:
            values = released_config(config)
        write_json_atomic(temporary / "config.json", values)
        copy_beside(source, temporary)
        if card:
            write_card(temporary, card)
    return layout


def checked_source(
    source: Path, vision: VisionFields | None = None
) -> tuple[VideoLlama3Config, dict[str, tuple[Path, tuple[int, ...], int]], str]:
    """(config in transformers' form, table of weights, layout) of a checkpoint that can be written anew.

    Raises CheckpointError as `convert` does.
    """
    load_video_settings(source)
    if file_in(source, GENERATION_FILE).exists():
        read_json(source / GENERATION_FILE, CheckpointError, "generation settings")
    tokenizer = load_tokenizer(source)
    config = native_config(source, image_token_id(tokenizer), vision)
    check_tokenizer(tokenizer, config, source)
    table = weight_table(source)
    layout = detect_layout(list(table), source)
    native = {rename_key(key, layout, "native"): key for key in table}
    shapes = {key: table[own][1] for key, own in native.items()}
    embeddings = "model.language_model.embed_tokens.weight"
    if (
        config.tie_word_embeddings and embeddings in shapes
    ):  # the head is the embedding: a file need not hold it twice
        shapes.setdefault("lm_head.weight", shapes[embeddings])
    check_shapes(shapes, config, source)
    return config, table, layout


def copy_beside(source: Path, out: Path) -> None:
    """Copy what belongs to a checkpoint beside its weights and its config.json."""
    for name in COPIED:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def write_shards(
    folder: Path,
    table: dict[str, tuple[Path, tuple[int, ...], int]],
    names: dict[str, str],
    dtype: torch.dtype | None = None,
    limit: int = SHARD_BYTES,
    told: str = "weights",
    change: Callable[[str, Tensor], Tensor] = lambda name, weight: weight,
) -> None:
    """Write some of a checkpoint's weights to `folder` under other names, at most one shard in memory.

    table: from weight_table. names: {a key of the table: the name that it is written under}; weights that it
    does not hold are left out. limit: bytes of a shard. told: what the progress bar says. change: (the name
    that a weight is written under, the weight) -> what is written. Raises CheckpointError for weights that
    are not finite.
    """
    sizes = {
        own: torch.Size(table[own][1]).numel() * dtype.itemsize if dtype else table[own][2] for own in names
    }
    shards = plan_shards(sizes, limit)
    weight_map: dict[str, str] = {}
    written = 0
    with tqdm(total=len(names), desc=told, unit="weights") as progress:
        for number, keys in enumerate(shards, start=1):
            file = (
                f"model-{number:05d}-of-{len(shards):05d}.safetensors"
                if len(shards) > 1
                else "model.safetensors"
            )
            shard = {}
            for path in sorted({table[key][0] for key in keys}):
                for some in plan_shards(
                    {key: table[key][2] for key in keys if table[key][0] == path}, MAPPED_BYTES
                ):
                    for key, tensor in iterate_weights(path, set(some)):
                        # A copy: the source stays mapped, not held.
                        tensor = change(names[key], tensor).to(dtype or tensor.dtype)
                        tensor = tensor.clone(memory_format=torch.contiguous_format)
                        # As it is written: float16 holds less than the others.
                        check_finite(key, tensor, f"{path}, as {tensor.dtype}" if dtype else path)
                        shard[names[key]] = tensor
                        progress.update()
            save_file(shard, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(shard, file)
            written += sum(weight.nbytes for weight in shard.values())
    if len(shards) > 1:
        index = {"metadata": {"total_size": written}, "weight_map": weight_map}
        write_json_atomic(folder / "model.safetensors.index.json", index)
