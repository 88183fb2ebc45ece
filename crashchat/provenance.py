"""What a result was made from: hashes of files and folders, versions, the time, the command."""

import hashlib
import os
import platform
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import crashchat

PACKAGES = ("torch", "transformers", "peft")
# What makes a model's answers: its weights, settings and words; pictures and cards beside them do not.
WEIGHTS_AND_SETTINGS = {".safetensors", ".bin", ".json", ".txt"}
CARD_FILE = "crashchat_card.json"  # describes a folder's content, and is no part of it
OURS = "crashchat"  # the part of a model exported for an engine that stays on our side


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def text_hash(lines: list[str]) -> str:
    """SHA-256 of lines of text, each ended by a newline, as hex."""
    return hashlib.sha256("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogatepass")).hexdigest()


def content_hash(folder: Path, names: list[str] | None = None) -> str:
    """SHA-256 over the names and contents of a folder's own files
    (or of those `names` that are there), as hex; its card is left out. Of a model exported for an engine,
    the part on our side counts too.
    """
    paths = sorted(
        path
        for path in (*folder.iterdir(), *(folder / OURS).glob("*"))
        if path.is_file()
        and path.name != CARD_FILE
        and (path.name in names if names else path.suffix in WEIGHTS_AND_SETTINGS)
    )
    with ThreadPoolExecutor() as pool:  # shards of gigabytes: hashlib lets other threads work meanwhile
        hashes = list(pool.map(file_hash, paths))
    return text_hash(
        [f"{path.relative_to(folder)} {found}" for path, found in zip(paths, hashes, strict=True)]
    )


def versions() -> dict[str, str]:
    """{name: version} of this package, of Python, and of what computes answers, as far as installed."""
    found = {"crashchat": crashchat.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def now() -> str:
    """The time in UTC to the second, as ISO 8601: 2026-11-24T13:00:00Z."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def command_line() -> str:
    """The command that this process runs, as it could be typed again; what is no UTF-8 is replaced."""
    program = Path(sys.argv[0]).name
    words = ["crashchat" if program in ("__main__.py", "crashchat") else sys.argv[0], *sys.argv[1:]]
    return os.fsencode(shlex.join(words)).decode("utf-8", "replace")
