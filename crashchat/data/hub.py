"""Data sets of the hub, by the `datasets` package -> the same rows as files give; and videos that a table
itself holds -> files.
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from crashchat.data.kept_tables import cache_folder
from crashchat.data.records import AnnotationError
from crashchat.data.tables import Collector, Rows, collect_table
from crashchat.data_settings import DataSource
from crashchat.errors import opening
from crashchat.files import write_bytes_atomic

AT_ONCE = 64  # rows in memory at a time: each may hold its video
SNAPSHOTS = "snapshots"  # the folder of a data set's versions in the hub's cache


def read_hub(source: DataSource, context: Sequence[str] = ()) -> list[tuple[str, Rows]]:
    """(the hub's split, its rows) of a data set, or of a folder that has the hub's form. context: columns
    whose values join the prompts.

    Raises AnnotationError for one that cannot be loaded, or lacks a column.
    """
    import datasets  # here: only a run that needs it waits for it

    datasets.disable_progress_bars()
    try:
        found = datasets.load_dataset(
            source.hub, name=source.hub_config, revision=source.revision, streaming=source.streaming
        )
    except (datasets.exceptions.DatasetsError, ValueError, OSError) as error:
        raise AnnotationError(
            f"hub: {source.hub}: cannot be loaded: {opening(error)}; expected OWNER/NAME of a data set that "
            "the hub has and you may read, or a folder"
        ) from error
    tables = []
    for split, table in found.items():
        for name, feature in (table.features or {}).items():
            if isinstance(feature, datasets.Video | datasets.Image | datasets.Audio):
                table = table.cast_column(name, type(feature)(decode=False))
        place = _Place(source, str(split))
        collector = Collector(f"{source.hub}, split {split}", "parquet", context)
        batches = table.with_format("arrow").iter(batch_size=AT_ONCE)
        cells = (row for batch in batches for row in batch.to_pylist())
        collect_table(enumerate(place.named(cells)), source.columns, collector)
        rows = collector.rows()
        tables.append((str(split), rows if place.folder is None else rows.within(place.folder)))
    return tables


class _Place:
    """Where the videos of a split lie: `folder`, below which the rows name them; None where the rows hold
    paths alone.
    """

    def __init__(self, source: DataSource, split: str) -> None:
        self.column, self.split, self.hub = source.columns.video, split, source.hub
        self.root = Path(source.hub or "").resolve()
        self.folder: Path | None = None

    def named(self, rows: Iterator[dict]) -> Iterator[dict]:
        """The rows, with the name of its video in place of what the hub calls one, {bytes, path}."""
        for row in rows:
            video = row.get(self.column)
            if isinstance(video, dict):
                row = {**row, self.column: self._name(video)}
            yield row

    def _name(self, video: dict) -> str | None:
        if video.get("bytes") is not None:
            name = Path(video.get("path") or "").name
            name = "video.mp4" if name in ("", "..") else name
            self.folder = cache_folder() / "videos"
            return _unpacked(video["bytes"], name, self.folder)
        if not video.get("path"):
            return None
        if "://" in video["path"]:
            raise AnnotationError(
                f"hub: {self.hub}: its videos are files of their own ({video['path']}), which streaming does "
                "not fetch; leave streaming out"
            )
        path = Path(video["path"])
        if not path.is_absolute():
            return str(path)
        self.folder = self._folder_of(path)
        return str(path.relative_to(self.folder)) if path.is_relative_to(self.folder) else str(path)

    def _folder_of(self, path: Path) -> Path:
        """The folder that a downloaded file's name starts from: that of its split, where there is one."""
        if self.folder is not None:
            return self.folder
        root = self.root
        if SNAPSHOTS in path.parts:
            root = Path(*path.parts[: path.parts.index(SNAPSHOTS) + 2])
        if not path.is_relative_to(root):
            return path.parent
        return root / self.split if path.is_relative_to(root / self.split) else root


def _unpacked(data: bytes, name: str, folder: Path) -> str:
    """Write a video that a table holds to a file, once; returns its path below `folder`."""
    relative = f"{hashlib.sha256(data).hexdigest()[:16]}/{name}"
    if not (folder / relative).is_file():
        write_bytes_atomic(folder / relative, data)
    return relative
