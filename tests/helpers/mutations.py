"""Damage made from a seed: JSON texts, YAML texts and checkpoint folders as a disk,
an editor or an attacker leaves them.

The same seed makes the same damage. What a command may do with it is one of two things: end with a line that
begins with `error:` and names the file, or run to a valid result (see `ending`).
"""

import copy
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

EXECUTED = "executed"  # a folder of this name beside a poisoned file: its code was run
DEEP = 100_000

# What stands where something else was expected.
ODD_VALUES = (
    None,
    True,
    0,
    -1,
    3.5,
    10**12,
    10**400,
    -(10**30),
    1e300,
    float("nan"),
    float("inf"),
    float("-inf"),
    "",
    "x" * 100_000,
    "ünï\u0000\n\u2028",
    "../../../../etc/passwd",
    [],
    [[]],
    [None],
    {},
    {"a": {"b": [1, 2]}},
)


def _places(value: object, path: tuple = ()) -> list[tuple]:
    """Paths of everything within a JSON value, the value itself left out."""
    found = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in items:
        found += [(*path, key), *_places(one, (*path, key))]
    return found


def _holder(value, place: tuple):
    for key in place[:-1]:
        value = value[key]
    return value


def _pick(value, random_: random.Random) -> tuple | None:
    """A place in it, each depth as likely as another:
    else the many tokens of a vocabulary would be all that is met.
    """
    places = _places(value)
    if not places:
        return None
    depth = random_.choice(sorted({len(place) for place in places}))
    return random_.choice([place for place in places if len(place) == depth])


def mutate_value(value: object, seed: int) -> object:
    """A JSON value in which something has another kind or size, is missing, is there twice,
    or bears another name.
    """
    random_ = random.Random(seed)
    value = copy.deepcopy(value)
    place = _pick(value, random_)
    if place is None:
        return random_.choice(ODD_VALUES)
    holder, key = _holder(value, place), place[-1]
    kind = random_.randrange(10)
    if kind < 6:
        holder[key] = random_.choice(ODD_VALUES)
    elif kind == 6:
        del holder[key]
    elif kind == 7:
        holder[key] = [holder[key], copy.deepcopy(holder[key])]
    elif kind == 8 and isinstance(holder, list):
        holder.append(copy.deepcopy(holder[key]))
    elif kind == 8:
        holder[f"{key}_"] = holder.pop(key)
    else:
        return random_.choice(ODD_VALUES)
    return value


def _twice(text: str, random_: random.Random) -> str:
    """A key that is there twice, with two values: Python's reader takes the last."""
    value = json.loads(text)
    if not isinstance(value, dict) or not value:
        return text + text
    key = random_.choice(sorted(value))
    odd = json.dumps(random_.choice(ODD_VALUES))
    return f"{json.dumps(value)[:-1]}, {json.dumps(key)}: {odd}}}"


def _deep(text: str, random_: random.Random) -> str:
    """So many brackets that a reader which calls itself gives up, or so many digits, alone or as a value."""
    opening, closing = random_.choice((("[", "]"), ('{"a":', "}"), ("9", "9")))
    deep = opening * DEEP + "0" + closing * DEEP
    place = _pick(value := json.loads(text), random_)
    if place is None or random_.random() < 0.5:
        return deep
    _holder(value, place)[place[-1]] = "DEEP"
    return json.dumps(value).replace('"DEEP"', deep, 1)


def mutate_bytes(data: bytes, seed: int) -> bytes:
    """Bytes cut short, flipped, filled with zeros, doubled, or other ones."""
    random_ = random.Random(seed)
    at = random_.randrange(len(data) or 1)
    kind = random_.randrange(8)
    if kind == 0:
        return b""
    if kind in (1, 2):
        return data[:at]
    if kind == 3:
        return data[:at] + bytes([(data[at] if data else 0) ^ 1 << random_.randrange(8)]) + data[at + 1 :]
    if kind == 4:  # as a file system leaves it after a power cut
        return data[:at] + bytes(len(data) - at)
    if kind == 5:
        return b"\xff\xfe" + data
    if kind == 6:
        return data + data[at:]
    return random_.randbytes(100)


def mutate_json(text: str, seed: int) -> str | bytes:
    """A JSON text after one accident; bytes where it's no longer UTF-8 for sure."""
    random_ = random.Random(seed)
    kind = random_.randrange(10)
    if kind < 6:
        return json.dumps(mutate_value(json.loads(text), random_.randrange(2**32)))
    if kind == 6:
        return _twice(text, random_)
    if kind == 7:
        return _deep(text, random_)
    return mutate_bytes(text.encode("utf-8"), random_.randrange(2**32))


def mutate_yaml(text: str, seed: int) -> str | bytes:
    """A YAML text after one accident, as mutate_json."""
    random_ = random.Random(seed)
    if random_.randrange(10) < 8:
        return yaml.safe_dump(mutate_value(yaml.safe_load(text), random_.randrange(2**32)))
    return mutate_bytes(text.encode("utf-8"), random_.randrange(2**32))


class _Poison:
    """Pickled, it makes the folder EXECUTED when it's read by a reader that runs what it reads."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder / EXECUTED),)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """A safetensors file's tensors, in memory of their own: a mapped file must not be written over."""
    return {key: value.clone() for key, value in load_file(path).items()}


def _change_weights(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    weights = _weights(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def _damage_weights(path: Path, random_: random.Random) -> str:
    """Damage to a safetensors file, in its bytes or in what it holds."""
    key = random_.choice(sorted(load_file(path)))

    def put(value: float) -> Callable[[dict], None]:
        def change(weights):
            weights[key].view(-1)[random_.randrange(weights[key].numel())] = value

        return change

    def replace(make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict], None]:
        return lambda weights: weights.update({key: make(weights[key]).contiguous()})

    changes = {
        f"NaN in {key}": put(float("nan")),
        f"infinity in {key}": put(float("inf")),
        f"{key} is gone": lambda weights: weights.pop(key),
        f"{key} is called {key}x": lambda weights: weights.update({f"{key}x": weights.pop(key)}),
        f"{key} has one more row": replace(lambda tensor: torch.cat([tensor, tensor[:1]])),
        f"{key} is int64": replace(lambda tensor: tensor.long()),
        f"{key} is complex": replace(lambda tensor: tensor.to(torch.complex64)),
        f"{key} is empty": replace(lambda tensor: tensor[:0]),
        "no weights at all": lambda weights: weights.clear(),
    }
    kind = random_.randrange(len(changes) + 5)
    if kind < len(changes):
        what, change = list(changes.items())[kind]
        _change_weights(path, change)
        return what
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    if kind == len(changes):
        path.write_bytes((10**15).to_bytes(8, "little") + data[8:])
        return "header said to be 10^15 bytes"
    if kind < len(changes) + 3:
        header = mutate_json(data[8 : 8 + size].decode(), random_.randrange(2**32))
        header = header if isinstance(header, bytes) else header.encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + data[8 + size :])
        return "damaged header"
    path.write_bytes(mutate_bytes(data, random_.randrange(2**32)))
    return "damaged bytes"


def _to_bin(path: Path, random_: random.Random) -> str:
    """The same weights as a pickle that holds something besides them, or that is no file of torch."""
    weights = _weights(path)
    path = path if path.name.endswith(".bin") else path.rename(path.with_name("pytorch_model.bin"))
    key = sorted(weights)[0]
    contents = {
        "number keys": dict(enumerate(weights.values())),
        "one number key": weights | {7: weights[key]},
        "nested": {"module": {"state_dict": weights}},
        "a list": list(weights.values()),
        "a text among them": weights | {key: "text"},
        "a tensor alone": weights[key],
        "code": weights | {key: _Poison(path.parent)},
    }
    what = random_.choice([*contents, "code, plainly pickled", "cut short"])
    if what == "code, plainly pickled":
        path.write_bytes(pickle.dumps(_Poison(path.parent)))
    else:
        torch.save(contents.get(what, weights), path)
    if what == "cut short":
        path.write_bytes(path.read_bytes()[: random_.randrange(path.stat().st_size)])
    return what


def _index(path: Path, random_: random.Random) -> str:
    """The weights behind an index that is damaged."""
    shard = path.rename(path.with_name("model-00001-of-00001.safetensors"))
    keys = sorted(load_file(shard))
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(keys, shard.name)}
    out = path.with_name("model.safetensors.index.json")
    maps = {
        "numbers for names": dict.fromkeys(keys, 3),
        "a name that leads out": dict.fromkeys(keys, "../outside.safetensors"),
        "a list for names": {key: [shard.name] for key in keys},
        "a list": [shard.name],
    }
    what = random_.choice([*maps, "mutated"])
    made = {"weight_map": maps.get(what)}
    data = mutate_json(json.dumps(index), random_.randrange(2**32)) if what == "mutated" else json.dumps(made)
    out.write_bytes(data if isinstance(data, bytes) else data.encode())
    return f"an index with {what}"


def _link_out(path: Path, random_: random.Random) -> str:
    """The file as a link to one elsewhere, or to nothing."""
    outside = path.parent.with_name(f"{path.parent.name}_outside_{path.name}")
    what = random_.choice(("a link out of the folder", "a link to nothing", "a link to itself"))
    if what == "a link to itself":
        path.unlink()
        path.symlink_to(path.name)
        return what
    path.rename(outside)
    path.symlink_to(outside)
    if what == "a link to nothing":
        outside.unlink()
    return what


def damage_file(path: Path, seed: int) -> str:
    """Damage one JSON, YAML or weight file in place; returns what was done."""
    random_ = random.Random(seed)
    kind = random_.randrange(12)
    if kind == 0:
        path.unlink()
        return f"{path.name}: deleted"
    if kind == 1:
        path.unlink()
        path.mkdir()
        return f"{path.name}: a folder"
    if kind == 2:
        return f"{path.name}: {_link_out(path, random_)}"
    if path.suffix == ".safetensors":
        if path.name == "model.safetensors" and kind in (3, 4, 5):
            return f"{path.name}: replaced by a .bin: {_to_bin(path, random_)}"
        if path.name == "model.safetensors" and kind in (6, 7):
            return f"{path.name}: {_index(path, random_)}"
        return f"{path.name}: {_damage_weights(path, random_)}"
    if path.suffix == ".bin":
        path.write_bytes(mutate_bytes(path.read_bytes(), random_.randrange(2**32)))
        return f"{path.name}: damaged bytes"
    mutate = mutate_yaml if path.suffix == ".yaml" else mutate_json
    data = mutate(path.read_text(encoding="utf-8"), random_.randrange(2**32))
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    return f"{path.name}: {repr(data)[:80]}"


def damage_checkpoint(folder: Path, seed: int) -> str:
    """Damage one file of a checkpoint or adapter folder in place; returns what was done,
    beginning with the file's name.
    """
    random_ = random.Random(seed)
    names = sorted(path.name for path in folder.iterdir() if path.suffix in (".json", ".safetensors", ".bin"))
    names += [name for name in names if not name.endswith(".json")]  # the most can be wrong with weights
    return damage_file(folder / random_.choice(names), random_.randrange(2**32))


def ending(code: int, stderr: str) -> str:
    """How a command ended: 'ran', 'clear' (one line that says what is wrong), or 'unclear'."""
    if "Traceback (most recent call last)" in stderr:
        return "unclear"
    if code == 0:
        return "ran"
    lines = stderr.strip().splitlines()
    return "clear" if any(line.startswith("error: ") for line in lines[-25:]) else "unclear"
