"""Vision features on disk: the encoder is frozen,
so a video's features are the same in every epoch and every run.

    <folder>/<first two letters of key>/<key>.safetensors   kept tokens' features, grid, mask and times of one
    video <folder>/contents/<hash of path>.json                   a file's size and times, and the hash of its
    bytes <folder>/size, <folder>/lock                            bytes in all entries; held by whoever adds
    or removes one

The key is made of the video's bytes, sampling, preprocessing and the encoder's weights: change one and the
entry is another. On a hit the video is neither decoded nor encoded. When the folder would grow past its
limit, the entries unused for longest go. Entries appear complete (renamed into place), so readers need no
lock; a damaged one is removed, warned about and made again. A folder that cannot be written or read (full,
read-only, gone) is warned about once and passed by: what is not stored is made again. It is never the videos'
fault.
"""

import hashlib
import json
import os
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from crashchat.files import write_bytes_atomic, write_json_atomic, write_text_atomic
from crashchat.parts import file_of, span_of
from crashchat.video.tokens import VisualTokens

# Segment of every key: raise it when the same video and settings give other tokens, or entries hold other
# things.
FORMAT = 1
# Room made at a time, as a share of the limit, so that not every new entry looks through all old ones.
SLACK = 0.1
HASH_BLOCK = 1 << 20


class FeatureCache:
    """The features of one encoder on videos read with one set of settings.

    Processes may share the folder; picklable.
    """

    def __init__(self, folder: Path, limit_gb: float, encoder: nn.Module, settings: dict):
        """limit_gb: size of all entries at most, in 10^9 bytes. encoder: the vision tower,
        with whatever adapter is on it.

        settings: how videos are sampled and preprocessed, as JSON values. Raises OSError where the folder
        cannot be made.
        """
        self.folder = folder.absolute()
        self.limit = int(limit_gb * 1e9)
        self.dtype = next(encoder.parameters()).dtype
        self.run = json.dumps(
            {"format": FORMAT, "encoder": encoder_hash(encoder), "settings": settings}, sort_keys=True
        )
        self._warned = torch.zeros(
            1, dtype=torch.bool
        ).share_memory_()  # with the processes that read videos for this one
        self.folder.mkdir(parents=True, exist_ok=True)

    def _pass_by(self, error: Exception) -> None:
        """Warn of a cache that does not work; once, as the disk is the same for all videos."""
        if not self._warned:
            self._warned.fill_(True)
            cause = getattr(error, "strerror", None) or error
            warnings.warn(
                f"{self.folder}: the feature cache can't be used, videos are read without it ({cause})",
                stacklevel=3,
            )

    def key(self, path: str | Path) -> str:
        """The entry's name for a video file, wherever it lies, or for a part of one (parts.py).

        Raises OSError where the video itself cannot be read.
        """
        part = "" if (span := span_of(path)) is None else f" {span[0]:g} {span[1]:g}"
        return _digest(f"{self.run} {self._content(file_of(path))}{part}".encode())

    def _content(self, path: Path) -> str:
        """Hash of a file's bytes, remembered as long as its size and times stay."""
        status = path.stat()
        now = [status.st_size, status.st_mtime_ns, status.st_ctime_ns]
        memo = self.folder / "contents" / f"{_digest(os.fsencode(path.absolute()))}.json"
        try:
            known = json.loads(memo.read_text(encoding="utf-8"))
            if known["file"] == now:
                return known["content"]
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            pass  # not seen before, or damaged: hashed (again) below
        except OSError as error:
            self._pass_by(error)
        digest = hashlib.blake2b(digest_size=32)
        with open(path, "rb") as file:
            while block := file.read(HASH_BLOCK):
                digest.update(block)
        try:
            write_json_atomic(memo, {"file": now, "content": digest.hexdigest()})
        except OSError as error:
            self._pass_by(error)
        return digest.hexdigest()

    def _entry(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.safetensors"

    def load(self, key: str) -> VisualTokens | None:
        """The stored video with its features and no pixels, or None.

        A damaged entry is removed, with a warning.
        """
        try:
            return self._load(self._entry(key))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._pass_by(error)
            return None

    def _load(self, path: Path) -> VisualTokens | None:
        data = path.read_bytes()
        try:
            stored = load(data)
            checksum = int(stored.pop("checksum"))
            if checksum != _checksum(stored):
                raise ValueError("its checksum is wrong")
            visual = VisualTokens(
                pixel_values=torch.empty(0, int(stored["patch_values"]), dtype=torch.uint8),
                grid_thw=stored["grid_thw"],
                merge_sizes=stored["merge_sizes"],
                compression_mask=stored["compression_mask"],
                seconds=stored["seconds"].tolist(),
                features=stored["features"],
            )
        except (SafetensorError, KeyError, ValueError) as error:
            warnings.warn(f"{path}: damaged, it is removed and made again ({error})", stacklevel=2)
            path.unlink(missing_ok=True)
            return None
        try:
            os.utime(path)  # used now: what was used last is evicted last
        except FileNotFoundError:
            pass  # evicted by another process since it was read
        except OSError as error:
            self._pass_by(error)
        return visual

    def store(self, key: str, visual: VisualTokens, features: Tensor) -> None:
        """Keep the features float[K, vision hidden] of a video's kept tokens;
        other entries make room for them.

        An entry larger than the limit is warned about, and the run goes on without storing it.
        """
        tensors = {
            "features": features.detach().to("cpu", self.dtype).contiguous(),
            "grid_thw": visual.grid_thw,
            "merge_sizes": visual.merge_sizes,
            "compression_mask": visual.compression_mask,
            "seconds": torch.tensor(visual.seconds, dtype=torch.float64),
            "patch_values": torch.tensor(visual.pixel_values.shape[1]),
        }
        data = save({**tensors, "checksum": torch.tensor(_checksum(tensors))})
        path = self._entry(key)
        if len(data) > self.limit:
            warnings.warn(
                f"an entry of {len(data):,} bytes is over feature_cache_gb={self.limit / 1e9:g}", stacklevel=2
            )
            return
        try:
            with FileLock(self.folder / "lock"):
                if path.exists():
                    return  # another process was faster
                total = self._total()
                if total + len(data) > self.limit:
                    total = self._make_room(len(data))
                # Counted before it is there: a process killed in between leaves the sum too large, never too
                # small.
                write_text_atomic(self.folder / "size", str(total + len(data)))
                write_bytes_atomic(path, data)
        except (OSError, NotImplementedError) as error:  # the latter: a file system without locks
            self._pass_by(error)

    def _total(self) -> int:
        try:
            return int((self.folder / "size").read_text())
        except (FileNotFoundError, ValueError):
            return self._make_room(0)

    def _make_room(self, wanted: int) -> int:
        """Remove the entries unused for longest until `wanted` bytes fit, with some slack;
        returns the bytes left.
        """
        entries = []
        for path in self.folder.glob("??/*"):
            if path.is_dir():
                continue  # not of our making
            if path.name.startswith("."):  # left by a process killed while it wrote: nobody else writes now
                path.unlink(missing_ok=True)
                continue
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # a reader found it damaged and removed it
            entries.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in entries)
        if total + wanted <= self.limit:
            return total
        for _, size, path in sorted(entries):
            if total == 0 or total + wanted <= self.limit * (1 - SLACK):
                break
            path.unlink(missing_ok=True)
            total -= size
        return total

    def store_new(self, videos: Sequence[VisualTokens], features: Tensor) -> None:
        """Store what a batch had to encode.

        features: float[K, vision hidden], kept tokens of all `videos`, in order.
        """
        for visual, piece in zip(videos, features.split([visual.num_kept for visual in videos]), strict=True):
            if visual.cache_key is not None:
                self.store(visual.cache_key, visual, piece)


def encoder_hash(encoder: nn.Module) -> str:
    """Hash of an encoder's weights: names, types and bytes."""
    digest = hashlib.blake2b(digest_size=32)
    for name, weight in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {list(weight.shape)} ".encode())
        digest.update(_bytes(weight))
    return digest.hexdigest()


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=20).hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _checksum(tensors: dict[str, Tensor]) -> int:
    checksum = 0
    for name in sorted(tensors):
        checksum = zlib.crc32(_bytes(tensors[name]), checksum)
    return checksum
