"""Tables of files that were checked, kept on disk as Arrow files: a file is checked once by the same code."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from crashchat.files import write_bytes_atomic
from crashchat.provenance import file_hash, text_hash

SMALLEST = 2**20  # bytes of a file whose table is kept: a smaller one is read as fast
MOST = 200  # tables; the longest unused go first


def cache_folder() -> Path:
    """What may be deleted at any time: the folder CRASHCHAT_CACHE, or one among the user's caches."""
    named = os.environ.get("CRASHCHAT_CACHE")
    return (
        Path(named)
        if named
        else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "crashchat"
    )


def place_of(file: Path, words: Sequence[str], code: Sequence[ModuleType]) -> Path | None:
    """Where a file's table is kept; None for a file that is small or not there.

    words: what else decides on what is in it. code: the modules that read and check files; what they made is
    not taken once one of them is another.
    """
    if not file.is_file() or file.stat().st_size < SMALLEST:
        return None
    hashes = [file_hash(path) for path in (file, *(Path(str(module.__file__)) for module in code))]
    return cache_folder() / "tables" / f"{text_hash([*hashes, *words])}.arrow"


def read_kept(path: Path) -> pa.Table | None:
    """A kept table, mapped; None where there is none, or a damaged one."""
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
            table.validate(full=True)
        os.utime(path)  # it was used now
    except (OSError, pa.ArrowException):
        return None
    return table


def keep(path: Path, table: pa.Table) -> None:
    """Keep a table; where that is not possible, the next run reads the file again, and this one says why."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    try:
        write_bytes_atomic(path, memoryview(sink.getvalue()))
        for old in sorted(path.parent.glob("*.arrow"), key=_last_used)[:-MOST]:
            old.unlink(missing_ok=True)
    except OSError as error:
        print(
            f"note: checked annotations cannot be kept in {path.parent} ({error.strerror}); name a "
            "folder with CRASHCHAT_CACHE",
            file=sys.stderr,
        )


def _last_used(path: Path) -> float:
    """When a kept table was used; 0 where another process has just deleted it."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
