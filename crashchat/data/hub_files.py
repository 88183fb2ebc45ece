"""Files of the hub: which a repository has, and each fetched to its end and held against the hub's checksum
before it gets its name.
"""

import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import BinaryIO

os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"  # read by huggingface_hub when it is imported

import httpx2
from huggingface_hub import constants, hf_hub_url, list_repo_tree, repo_info
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff
from tqdm import tqdm

CHUNK = 2**20  # bytes; what a broken connection may lose
ATTEMPTS = 5  # in a row that bring no new byte
PARTS = ".partial"  # folder in --out of what is not complete yet
TRAINING_STATE = ("training_args.bin", "optimizer.bin", "scheduler.bin")  # pickles that no one needs


class DownloadError(Exception):
    """What could not be fetched, why, and what to do."""


@dataclass(frozen=True)
class Kind:
    """What one of the command's words fetches: where to, from where, and the endings of its files."""

    out: str
    repo: str | None
    repo_type: str
    endings: tuple[str, ...]
    folder: str = (
        ""  # of the repository; where it exists, its files alone are fetched and its name is dropped
    )


@dataclass(frozen=True)
class Item:
    """One file to have: where it is on the hub, where it goes, its size in bytes, and its checksum in
    hexadecimal: SHA-256 of a large file, git's SHA-1 of a small one, "" where the hub gives none."""

    url: str
    name: str
    path: Path
    part: Path
    size: int
    checksum: str

    def matches(self, path: Path) -> bool:
        """Whether the file at `path` has the size and the checksum the hub gives."""
        if path.stat().st_size != self.size:
            return False
        digest = hashlib.sha1(b"blob %d\0" % self.size) if len(self.checksum) == 40 else hashlib.sha256()
        with path.open("rb") as file:
            return not self.checksum or hashlib.file_digest(file, lambda: digest).hexdigest() == self.checksum

    def missing(self) -> int:
        """Bytes still to fetch."""
        have = [path.stat().st_size for path in (self.path, self.part) if path.exists()]
        return max(self.size - have[0], 0) if have else self.size


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn what the hub's client and the disk raise into a DownloadError that says what failed
    and what to do.
    """
    try:
        yield
    except (
        RevisionNotFoundError,
        RepositoryNotFoundError,
    ) as error:  # a repository not open to all is among the second
        raise DownloadError(
            f"{what}: not there or no access; check --repo, --repo-type, --revision and HF_TOKEN"
        ) from error
    except (
        httpx2.HTTPError,
        OSError,
        ValueError,
    ) as error:  # connection and hub; disk; names and answers that make no sense
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DownloadError(
            f"{what}: {reason} (hub: {constants.ENDPOINT}); run this again later: it resumes"
        ) from error


def safe_path(out: Path, name: str) -> Path:
    """Where a repository's file `name` goes below `out`.

    Raises DownloadError if it could lead elsewhere, on any system.
    """
    parts = name.split("/")
    anchored = any(PureWindowsPath(part).anchor for part in parts)
    if (
        anchored
        or "\\" in name
        or "\0" in name
        or any(part in ("", ".", "..") for part in parts)
        or parts[0] == PARTS
    ):
        raise DownloadError(
            f"the repository holds a file named {name!r}, which is no plain path; nothing was fetched"
        )
    for path in (out.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)):
        if path.is_symlink():
            raise DownloadError(
                f"{path} is a symbolic link and would be written through; move it away and run this again"
            )
    return out / name


def list_items(
    kind: Kind, repo: str, repo_type: str, revision: str, folder: str | None, out: Path
) -> list[Item]:
    """The files of `kind` in `revision`, by name; `out` is absolute.

    Raises DownloadError (hub, unsafe names, links, nothing).
    """
    with hub_errors(f"cannot list {repo_type} {repo} at {revision}"):
        commit = repo_info(repo, revision=revision, repo_type=repo_type).sha or revision
        tree = list_repo_tree(repo, recursive=True, revision=commit, repo_type=repo_type)
        files = sorted((entry for entry in tree if isinstance(entry, RepoFile)), key=lambda entry: entry.path)
    prefix = ((kind.folder if folder is None else folder.strip("/")) + "/").lstrip("/")
    if folder is None and not any(file.path.startswith(prefix) for file in files):
        prefix = ""
    items = []
    for file in files:
        path, name = safe_path(out, file.path.removeprefix(prefix)), PurePosixPath(file.path).name
        if (
            not name.lower().endswith(kind.endings)
            or name in TRAINING_STATE
            or not file.path.startswith(prefix)
        ):
            continue
        checksum = file.lfs.sha256 if file.lfs else file.blob_id
        if not re.fullmatch("[0-9a-f]{64}" if file.lfs else "[0-9a-f]{40}", checksum or ""):
            checksum = ""
        # A part is named after its content, so that a new revision never goes on with an older one's bytes.
        key = hashlib.sha256(f"{file.path}\n{checksum or commit}".encode()).hexdigest()[:40]
        url = hf_hub_url(repo, file.path, repo_type=repo_type, revision=commit)
        items.append(
            Item(
                url=url, name=file.path, path=path, part=out / PARTS / key, size=file.size, checksum=checksum
            )
        )
    left_out = sorted({file.path for file in files} - {item.name for item in items})
    print(
        f"{repo_type} {repo} at {commit}: {len(items)} files; {len(left_out)} left out: "
        f"{', '.join(left_out[:20]) or 'none'}"
    )
    if not items:
        raise DownloadError(
            f"{repo}/{prefix} has no file in {' '.join(kind.endings)}; see --repo, --repo-type and --folder"
        )
    return items


def stream(item: Item, file: BinaryIO, headers: dict[str, str], bar: tqdm) -> None:
    """Append to `file` what is missing of `item`, going on after a broken connection.

    Raises what the connection raised last.
    """
    failures = 0
    while (start := file.seek(0, os.SEEK_END)) < item.size:
        wanted = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        lost: Exception = httpx2.RemoteProtocolError(f"the answer ended before byte {item.size}")
        try:
            timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT  # seconds without a byte
            with http_stream_backoff(
                "GET", item.url, headers=wanted, timeout=timeout, retry_on_exceptions=()
            ) as response:
                hf_raise_for_status(response)
                if start and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                    file.truncate(file.seek(0))  # the server sends the whole file again
                    bar.update(-start)
                for chunk in response.iter_bytes(CHUNK):
                    if file.tell() + len(chunk) > item.size:
                        raise DownloadError(
                            f"{item.name}: the hub sends more than the {item.size} bytes it lists"
                        )
                    file.write(chunk)
                    file.flush()
                    bar.update(len(chunk))
        except httpx2.TransportError as error:
            lost = error
        failures = 0 if file.tell() > start else failures + 1
        if failures >= ATTEMPTS:
            raise lost
        time.sleep(min(failures, 1))


def fetch(item: Item, headers: dict[str, str], bar: tqdm) -> bool:
    """Have `item` complete under its name.

    False if its content is not what the hub lists: it is removed then.
    """
    target = item.path if item.path.exists() else item.part
    if target == item.part:
        item.path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(item.part, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666), "r+b") as file:
            stream(item, file, headers, bar)
            os.fsync(file.fileno())
    if good := item.matches(target):
        os.replace(target, item.path)
    else:
        target.unlink()
    return good


def download(items: list[Item], out: Path) -> None:
    """Fetch and check all `items`.

    Raises DownloadError; what is complete by then stays, a part of a file too.
    """
    wrong = []
    headers = build_hf_headers(library_name="crashchat")
    (out / PARTS).mkdir(parents=True, exist_ok=True)
    lock = os.open(out / PARTS, os.O_RDONLY | os.O_NOFOLLOW)  # until the process ends
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DownloadError(f"another download into {out} is running; wait for it") from error
    with tqdm(
        total=sum(item.missing() for item in items),
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        desc="fetching",
    ) as bar:
        for item in items:
            bar.set_postfix_str(item.name[-40:])
            with hub_errors(f"cannot fetch {item.name}"):
                if not fetch(item, headers, bar):
                    wrong.append(item.name)
    if not any((out / PARTS).iterdir()):
        (out / PARTS).rmdir()
    if wrong:
        raise DownloadError(
            f"checksum or size differ from the hub's, file removed, run this again: {', '.join(wrong)}"
        )
