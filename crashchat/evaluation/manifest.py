"""What an evaluation states of itself in the manifests beside its prediction files."""

from dataclasses import dataclass
from pathlib import Path

import torch.distributed as dist

from crashchat.checkpoints.layouts import CheckpointError
from crashchat.data.datasets import DatasetUse
from crashchat.data.manifests import FolderUse, Manifest, write_manifest
from crashchat.evaluation.choosing import choosing
from crashchat.evaluation_settings import EvalConfig
from crashchat.processes import process_count, rank
from crashchat.provenance import command_line, content_hash, file_hash, now, versions


def model_name(config: EvalConfig) -> str:
    """What the records and their files' folder call the model that answers."""
    return config.model_name or (config.adapter or config.model).resolve().name


def weights_hashes(config: EvalConfig) -> dict[str, str]:
    """{folder: SHA-256 over its weights and settings} of the model and the adapter, in every process.

    The first process reads them for all. Raises CheckpointError for a folder that is not there.
    """
    folders = [folder for folder in (config.model, config.adapter) if folder is not None]
    for folder in folders:
        if not folder.is_dir():
            raise CheckpointError(f"{folder}: no such folder; expected the weights that are to answer")
    found: list[dict[str, str]] = [{}]
    if rank() == 0:
        found = [{str(folder): content_hash(folder) for folder in folders}]
    if process_count() > 1:
        dist.broadcast_object_list(found)
    return found[0]


@dataclass(frozen=True)
class Evaluation:
    """What all prediction files of a run are made from: its settings, its data set, its weights' hashes."""

    config: EvalConfig
    dataset: DatasetUse
    weights: dict[str, str]

    def state(self, path: Path, task: str, records: int) -> None:
        """Write the manifest of the prediction file at `path`, just written, of a task's `records`."""
        config = self.config
        model, adapter = (
            FolderUse(path=str(folder), sha256=self.weights[str(folder)]) if folder is not None else None
            for folder in (config.model, config.adapter)
        )
        assert model is not None
        write_manifest(
            path,
            Manifest(
                predictions_sha256=file_hash(path),
                task=task,
                records=records,
                model=model_name(config),
                checkpoint=model,
                adapter=adapter,
                dataset=self.dataset,
                settings=config.model_dump(mode="json"),
                decoding=f"{choosing(config)}, {config.decode}, at most {config.max_new_tokens} tokens",
                versions=versions(),
                time=now(),
                command=command_line(),
            ),
        )
