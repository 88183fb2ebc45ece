"""Files and folders that are never half written, nor by two at once: a lock,
a temporary beside the target, then a rename.
"""

import errno
import json
import os
import re
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from crashchat.errors import CrashChatError, writing

# A killed holder's forked children (readers of videos) have its lock too; they notice within five seconds
# that it is gone.
ORPHANS_END = 15.0
ENDING = 1.0  # seconds that a holder which is just being killed may still take


class FolderError(CrashChatError):
    """A folder or file that cannot be written: it holds something already,
    or another process has it; the message names both.
    """

    everywhere = True


def write_bytes_atomic(path: str | Path, data: bytes | memoryview) -> None:
    """Write `data` to `path`, creating its folder; `path` is either its old self or complete,
    never in between.

    When this returns it is on disk: a power cut does not undo it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    # Not mkstemp: its files are private to their owner, and a result is shared like any other file, as the
    # umask says.
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with writing(path), os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink()
        raise
    sync(path.parent)


def delete_leftovers(folder: Path, of: str = "") -> None:
    """Delete what processes that were killed left of files that they were writing into a folder.

    of: what these files' names begin with. For who has them to itself alone: what another process is writing
    just now would go too.
    """
    left = re.compile(rf"\.{re.escape(of)}.+\.[0-9a-f]{{8}}")
    for path in folder.iterdir() if folder.is_dir() else ():
        if left.fullmatch(path.name) and path.is_file():
            print(f"{path}: deleted, left by a process that was killed")
            path.unlink()


def write_text_atomic(path: str | Path, text: str) -> None:
    """Write `text` as UTF-8 (see write_bytes_atomic)."""
    write_bytes_atomic(path, text.encode("utf-8"))


def write_json_atomic(path: str | Path, value: object) -> None:
    """Write `value` as JSON with one space of indent (see write_bytes_atomic).

    Raises TypeError for what JSON cannot hold.
    """
    write_text_atomic(path, json.dumps(value, indent=1, ensure_ascii=False) + "\n")


def sync(path: Path) -> None:
    """Return once a file's bytes, or a folder's list of names, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if (
            error.errno != errno.EINVAL or not path.is_dir()
        ):  # some network file systems cannot do it for a folder
            raise
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Return once a folder and all below it are on disk."""
    for path in [*folder.rglob("*"), folder, folder.parent]:
        sync(path)


@contextmanager
def owned(folder: Path, what: str | None = None) -> Iterator[None]:
    """Have a folder to oneself, as `held`, without what killed processes left half written in it."""
    with held(folder / ".lock", what or str(folder)):
        delete_leftovers(folder)
        yield


@contextmanager
def held(lock: Path, what: str) -> Iterator[None]:
    """Have `what` to oneself, until the end of the block or of the process, by a lock on the file `lock`.

    Raises FolderError, which names the process that has it, where another one does.
    """
    file_lock = FileLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file_lock.acquire(timeout=ENDING)
    except Timeout:
        try:
            file_lock.acquire(timeout=0 if _lives(_holder(lock)) else ORPHANS_END)
        except Timeout as error:
            raise FolderError(
                f"{what} is in use by {_holder(lock)}; wait until that ends, end it, or name another place"
            ) from error
    except OSError as error:
        raise FolderError(f"{what} cannot be written to: {error}") from error
    try:
        with suppress(OSError):  # on a full disk others are told of "another process"; the lock holds
            lock.write_text(f"process {os.getpid()} on {socket.gethostname()}")
        yield
    finally:
        lock.unlink()  # while it is held: who waits for it sees that this file is no longer the lock
        file_lock.release()


def _holder(lock: Path) -> str:
    """What a lock's file says of who has it; it may have been let go or taken just now."""
    try:
        return lock.read_text() or "another process"
    except FileNotFoundError:
        return "another process"


def _lives(holder: str) -> bool:
    """Whether a lock's holder may still run; on another host that cannot be seen."""
    found = re.fullmatch(r"process (\d+) on (.*)", holder)
    if not found or found[2] != socket.gethostname():
        return True
    try:
        # Behind the name in brackets stands the state. A zombie has ended; where nobody waits for it, it
        # stays in the list.
        state = Path(f"/proc/{found[1]}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target` for what `target` is made from, deleted at the end.

    What a killed process left of an earlier one for the same target is deleted first. Raises FolderError
    where another process makes the same target.
    """
    with held(target.with_name(f".{target.name}.lock"), str(target)):
        left = re.compile(re.escape(f".{target.name}.") + r"made_[a-z0-9_]{8}")
        for folder in [path for path in target.parent.iterdir() if left.fullmatch(path.name)]:
            print(f"{folder}: deleted, left by a process that was killed")
            shutil.rmtree(folder)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.made_") as made:
            yield Path(made)


@contextmanager
def new_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when all went well, on disk in full, and vanishes when not.

    Raises FolderError where `folder` already holds something, or another process makes it.
    """
    folder = Path(folder)
    check_new(folder)
    with scratch_folder(folder) as scratch:
        made = scratch / folder.name
        made.mkdir()
        yield made
        for path in made.rglob("*"):  # safetensors makes files private; a model is shared like any other file
            if path.is_file() and not path.is_symlink():
                os.chmod(path, 0o644)
        sync_tree(made)
        check_new(folder)
        if folder.exists():
            folder.rmdir()
        os.replace(made, folder)
        sync(folder.parent)


def check_new(folder: Path) -> None:
    """Raises FolderError where `folder` already holds something, or is a link."""
    if folder.is_symlink() or (folder.exists() and (not folder.is_dir() or any(folder.iterdir()))):
        raise FolderError(f"{folder} is not empty; name another folder, or remove it first")
