"""The manifest beside a prediction file: what the answers were made from, and the file's own SHA-256.

`x_predict.json` has `x_predict_manifest.json`; the released files have none.
"""

from pathlib import Path

from pydantic import JsonValue

from crashchat.data.datasets import DatasetUse
from crashchat.data.predictions import PredictionError
from crashchat.files import write_json_atomic
from crashchat.json_files import Exact, checked, read_json
from crashchat.provenance import file_hash


class FolderUse(Exact):
    """A folder of weights that a run took."""

    path: str
    """Where it was."""
    sha256: str
    """SHA-256 over its weights and settings (crashchat.provenance.content_hash)."""


class Manifest(Exact):
    """What a prediction file was made from."""

    predictions_sha256: str
    """SHA-256 of the prediction file's bytes."""
    task: str
    """What was asked."""
    records: int
    """How many questions of it were asked."""
    model: str
    """Who answered, as the records call it."""
    checkpoint: FolderUse
    """The model's folder."""
    adapter: FolderUse | None
    """The adapter that was put on it."""
    dataset: DatasetUse
    """What the run asked about, all its tasks together."""
    settings: dict[str, JsonValue]
    """The run's settings, all of them."""
    decoding: str
    """How words were chosen."""
    versions: dict[str, str]
    """Of this package, of Python, and of what computes answers."""
    time: str
    """When the prediction file was written, in UTC."""
    command: str
    """The command that wrote it."""


def manifest_path(predictions: Path) -> Path:
    """Where the manifest of a prediction file lies."""
    return predictions.with_name(f"{predictions.stem}_manifest.json")


def write_manifest(predictions: Path, manifest: Manifest) -> None:
    """Write a prediction file's manifest beside it."""
    write_json_atomic(manifest_path(predictions), manifest.as_json())


def read_manifest(predictions: Path) -> Manifest | None:
    """The manifest of a prediction file, None where there is none.

    Raises PredictionError for one that cannot be used, and for a prediction file that is not the one which
    it describes.
    """
    path = manifest_path(predictions)
    if not path.exists():
        return None
    manifest = checked(Manifest, read_json(path, PredictionError, "a manifest"), path, PredictionError)
    found = file_hash(predictions)
    if found != manifest.predictions_sha256:
        raise PredictionError(
            f"{predictions}: was changed after it was written: its SHA-256 is {found[:12]}…, "
            f"{manifest.predictions_sha256[:12]}… in {path.name}; take the file as it was written, or "
            "evaluate again"
        )
    return manifest


def check_manifest(predictions: Path, task_name: str, records: list[dict], manifest: Manifest) -> None:
    """Raises PredictionError where the records are not of the task, the number or the model that it names."""
    path = manifest_path(predictions)
    models = {record.get("model") for record in records}
    for what, found, stated in (
        ("task", task_name, manifest.task),
        ("number of records", len(records), manifest.records),
        ("model", next(iter(models)), manifest.model),
    ):
        if found != stated:
            raise PredictionError(
                f"{predictions}: the {what} is {found!r}, {path.name} says {stated!r}; the two do not belong "
                "together: take the files as they were written, or evaluate again"
            )
