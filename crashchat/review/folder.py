"""An analysis folder, as `crashchat analyze` leaves it, read for review. Nothing in it is changed."""

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from crashchat.analysis.result_files import strip_paths
from crashchat.analysis.results import ClipResult
from crashchat.errors import listed
from crashchat.json_files import problems
from crashchat.provenance import file_hash
from crashchat.review.labels import ReviewError


@dataclass(frozen=True)
class Reviewed:
    """One clip of an analysis.

    video: where its file should lie. sha256: of the result's file. size: bytes of the video as it was
    analyzed; None where there was none.
    """

    result: ClipResult
    video: Path
    sha256: str

    @property
    def name(self) -> str:
        """Of the result's files."""
        return self.result.name

    def missing(self) -> str | None:
        """Why its video cannot be shown, in a line; None where it is there as it was analyzed."""
        try:
            size = os.path.getsize(self.video) if self.video.is_file() else None
        except OSError:
            size = None
        if size is None:
            return f"{self.video}: moved or deleted since the analysis; put it back, or name --videos FOLDER"
        if size != self.result.bytes:
            was = "no file" if self.result.bytes is None else f"{self.result.bytes:,} bytes"
            return f"{self.video}: has {size:,} bytes, was {was} when analyzed; analyze it again"
        return None

    def strips(self, folder: Path) -> list[Path]:
        """Its film strips that are there."""
        return [path for path in strip_paths(folder, self.result) if path.is_file()]


def read_folder(folder: Path, videos: Path | None = None) -> dict[str, Reviewed]:
    """{name: clip} of an analysis, sorted by name. videos: the folder that relative paths of clips start from
    (None: the one that commands run in, as when they were analyzed).

    Raises ReviewError for a folder that is no analysis, and for results that cannot be read.
    """
    if not folder.is_dir():
        raise ReviewError(f"{folder}: no such folder; expected one that crashchat analyze wrote")
    found: dict[str, Reviewed] = {}
    wrong = []
    for path in sorted(folder.glob("*.json")):
        try:
            result = ClipResult.model_validate_json(path.read_bytes())
        except OSError as error:
            wrong.append(f"{path}: cannot be read: {error.strerror}")
            continue
        except ValidationError as error:
            wrong.append(f"{path}: is no result of crashchat analyze ({problems(error)[0]})")
            continue
        if result.name != path.stem:
            wrong.append(f"{path}: is the result of {result.name!r}; give it back its name")
            continue
        found[result.name] = Reviewed(result, (videos or Path()) / result.path, file_hash(path))
    if wrong:
        raise ReviewError(f"{len(wrong)} result(s) cannot be used:{listed(wrong)}")
    if not found:
        raise ReviewError(
            f"{folder}: holds no results; expected a folder that crashchat analyze wrote (--out {folder})"
        )
    return found
