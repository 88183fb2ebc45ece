"""Writing files so that a reader never sees half of one: a temporary file beside the target, then a rename."""

import json
import os
import tempfile
from pathlib import Path

from crashchat.errors import writing


def write_bytes_atomic(path: str | Path, data: bytes) -> None:
    """Write `data` to `path`, creating its folder; `path` is either its old self or complete, never in between."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with writing(path), os.fdopen(handle, "wb") as file:
            file.write(data)
        # mkstemp makes files private to their owner; a result is meant to be shared like any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 (see write_bytes_atomic)."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, value: object) -> None:
    """Write `value` as JSON with one space of indent (see write_bytes_atomic). Raises TypeError for what JSON cannot hold."""
    write_text_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")
