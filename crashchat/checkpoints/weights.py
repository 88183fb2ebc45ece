"""The weight files of a checkpoint or adapter folder: which there are, what is in them,
and that it can be used.

safetensors or torch's own, in one file or many. Files are mapped, one tensor is in memory at a time, and no
pickled code is run.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from crashchat.checkpoints.layouts import CheckpointError, file_in
from crashchat.errors import opening
from crashchat.json_files import Lenient, checked, parse_json, read_json

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Index(Lenient):
    """{key: file} of weights in several files."""

    weight_map: dict[str, str]


def weight_files(folder: str | Path) -> list[Path]:
    """The files that hold a checkpoint's weights.

    Raises CheckpointError where there are none, or one is missing.
    """
    for single in ("model.safetensors", "pytorch_model.bin"):
        index = file_in(folder, f"{single}.index.json")
        if index.exists():
            values = read_json(index, CheckpointError, "an index with a weight_map")
            names = sorted(set(checked(Index, values, index, CheckpointError).weight_map.values()))
            # A name is a file of this folder, never a way out of it.
            missing = [
                name for name in names if Path(name).name != name or not file_in(folder, name).is_file()
            ]
            if missing or not names:
                raise CheckpointError(
                    f"{index} names {missing or 'no file'}, which the folder does not hold; fetch it again"
                )
            return [Path(folder) / name for name in names]
        if file_in(folder, single).is_file():
            return [Path(folder) / single]
    raise CheckpointError(
        f"{folder}: no weights (model.safetensors or pytorch_model.bin, one file or with an index)"
    )


def iterate_weights(path: Path, keys: set[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """(key, tensor) of one weight file, memory-mapped,
    one tensor in memory at a time. No pickled code is run.

    Raises CheckpointError for a file that is damaged, or holds anything but floating-point tensors.
    """
    tensors = _safetensors(path, keys) if path.suffix == ".safetensors" else _torch_tensors(path, keys)
    size = path.stat().st_size
    for key, tensor in tensors:
        if tensor.dtype not in (*DTYPES.values(), torch.float64) or tensor.layout != torch.strided:
            raise CheckpointError(f"{path}: {key} is {tensor.dtype}, expected one of {', '.join(DTYPES)}")
        if tensor.nbytes > size:  # a view that repeats a few stored numbers without end
            raise CheckpointError(
                f"{path}: {key} says it is {tensor.nbytes:,} bytes, the whole file is {size:,}"
            )
        yield key, tensor


def _safetensors(path: Path, keys: set[str] | None) -> Iterator[tuple[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 (no dict: it cannot be iterated)
                if keys is None or key in keys:
                    yield key, file.get_tensor(key)
    except (SafetensorError, AttributeError, RuntimeError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights: {opening(error)}; fetch it again"
        ) from error


def _torch_tensors(path: Path, keys: set[str] | None) -> Iterator[tuple[str, Tensor]]:
    try:
        values = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    # Of a pickle that holds more than tensors, weights_only refuses all, and advises to run it; of random
    # bytes its reader stumbles in as many ways as there are bytes.
    except Exception as error:
        words = opening(error)
        advice = any(part in words for part in ("weights_only", "Weights only", "mmap"))
        said = (
            "it holds more than tensors, or is no file of torch; nothing of it was run" if advice else words
        )
        raise CheckpointError(
            f"{path}: cannot be read as weights: {said}; fetch it again from where you trust"
        ) from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: holds a {type(values).__name__}, expected {{key: tensor}}")
    for key, tensor in values.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path}: {key!r} is a {type(tensor).__name__}, expected a text and its tensor"
            )
        if keys is None or key in keys:
            yield key, tensor


def check_finite(key: str, tensor: Tensor, where: str | Path) -> None:
    """Raises CheckpointError for a weight with NaN or infinity in it, which makes every answer nonsense."""
    if not tensor.numel():
        return
    # The least and the greatest number are NaN where any is, and are found in one pass that takes no memory.
    if all(math.isfinite(end) for end in tensor.aminmax()):
        return
    wrong = int((~torch.isfinite(tensor)).sum())
    raise CheckpointError(
        f"{where}: {key}: {wrong:,} of its {tensor.numel():,} numbers are NaN or infinite; every answer "
        "would be nonsense"
    )


def weight_table(folder: str | Path) -> dict[str, tuple[Path, tuple[int, ...], int]]:
    """{key: (file, shape, bytes)} of a checkpoint, without holding its weights.

    Raises CheckpointError for a key in two files.
    """
    table: dict[str, tuple[Path, tuple[int, ...], int]] = {}
    for path in weight_files(folder):
        for key, shape, size in _headers(path):
            if key in table:
                raise CheckpointError(
                    f"{folder}: the weight {key!r} is in both {table[key][0].name} and {path.name}"
                )
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
            # An object, or safe_open would have refused the file.
            header = cast(dict, parse_json(file.read(int.from_bytes(file.read(8), "little"))))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(
            f"{path}: cannot be read as weights: {opening(error)}; fetch it again"
        ) from error
    header.pop("__metadata__", None)
    for key, entry in header.items():
        begin, end = entry["data_offsets"]
        yield key, tuple(entry["shape"]), end - begin


def read_weights(folder: str | Path) -> dict[str, Tensor]:
    """All weights of a checkpoint folder under their own keys.

    Raises CheckpointError for one that is not finite.
    """
    weights = {}
    for path in weight_files(folder):
        for key, tensor in iterate_weights(path):
            check_finite(key, tensor, path)
            weights[key] = tensor
    return weights
