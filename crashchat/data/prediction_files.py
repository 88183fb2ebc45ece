"""A prediction file held against all that is known of it: its own raw answers, the annotations, its manifest.

What contradicts them is refused. What could not be looked at is said wherever the file's figures are shown.
"""

from dataclasses import dataclass
from pathlib import Path

from crashchat.data.manifests import Manifest, check_manifest, manifest_path, read_manifest
from crashchat.data.predictions import PredictionError, first_few, read_predictions, tasks_of_record
from crashchat.data.readings import read_answer
from crashchat.data.truth import Annotations, Truth
from crashchat.provenance import file_hash
from crashchat.tasks import TASKS


@dataclass(frozen=True)
class PredictionFile:
    """A prediction file as it was read.

    truth: the annotations that its records agree with, None where there were none. expected_file: which those
    would have been. missing: the annotated videos that it has no record of.
    """

    path: Path
    task: str
    records: list[dict]
    truth: Truth | None
    expected_file: str
    missing: tuple[str, ...]
    manifest: Manifest | None

    @property
    def asked(self) -> int | None:
        """How many questions are annotated, None where that is not known."""
        return None if self.truth is None else len(self.truth.questions)

    @property
    def share(self) -> str:
        """How many of the annotated questions a partial run has: '3 of 4'; empty for a whole one."""
        return f"{len(self.records)} of {self.asked}" if self.missing else ""

    @property
    def unchecked(self) -> str:
        """Why its ground truth, or a part of it, could not be checked; empty where it was."""
        if self.truth is None:
            return f"there is no {self.expected_file}; how many questions were asked is not known either"
        carried = any(record.get("crash_start") is not None for record in self.records)
        before = TASKS[self.task].before
        if before and self.truth.starts is None and carried:
            return f"no {before} annotations were found, so each crash_start is as the file says"
        return ""

    @property
    def without_manifest(self) -> str:
        """What it means that it has no manifest; empty where it has one."""
        if self.manifest is not None:
            return ""
        return (
            f"no manifest: {manifest_path(self.path).name} is not beside it, so which weights answered, and "
            "whether the file was changed since, cannot be seen"
        )

    @property
    def read_otherwise(self) -> int:
        """How many answers are read as the released scripts read them, and otherwise by the task's parser."""
        task = TASKS[self.task]
        # An empty text and none are the same; the released scripts write the one, this project the other.
        return sum(
            any(
                record[key] not in (value, "")
                for key, value in read_answer(task, record["raw_response"]).items()
            )
            for record in self.records
        )

    def truth_facts(self) -> dict:
        """What is known of the questions that it answers, for JSON."""
        return {
            "truth_checked": not self.unchecked,
            "annotations": self.truth.files if self.truth else {},
            "num_asked": self.asked,
            "partial": bool(self.missing) if self.truth else None,
        }

    def file_facts(self) -> dict:
        """What is known of the file itself, for JSON."""
        return {
            "predictions": str(self.path),
            "predictions_sha256": file_hash(self.path),
            "num_read_as_released": self.read_otherwise,
            "manifest": self.without_manifest or str(manifest_path(self.path)),
        }

    def facts(self) -> dict:
        """All that is known of it, for JSON: what its figures are worth."""
        return self.truth_facts() | self.file_facts()

    def remarks(self) -> list[str]:
        """The same as sentences; none for a whole file that was checked in full."""
        lines = []
        if self.missing:
            lines.append(f"PARTIAL: {self.share} annotated questions have a record; the others count nowhere")
        if self.unchecked:
            lines.append(f"truth not checked: {self.unchecked}")
        if self.read_otherwise:
            lines.append(
                f"{self.read_otherwise} answers are read as the released scripts read them, which the parser "
                "of this project reads otherwise"
            )
        return [*lines, self.without_manifest] if self.without_manifest else lines


def read_prediction_file(
    path: Path, annotations: Annotations, task_name: str | None = None, partial: bool = False
) -> PredictionFile:
    """A prediction file, ours or the released scripts', held against its manifest and the annotations.

    task_name: the task it must be of; without it, the task of the first record. partial: take a file that
    lacks some of the annotated questions. Raises PredictionError for what read_predictions, read_manifest or
    Truth.check refuse, and for such a file where `partial` is not given; AnnotationError for annotations that
    cannot be used.
    """
    records = read_predictions(path, task_name)
    task_name = task_name or tasks_of_record(records[0])[0]
    manifest = read_manifest(path)
    if manifest is not None:
        check_manifest(path, task_name, records, manifest)
    with_context = any(record.get("context") for record in records)
    truth = annotations.truth(task_name, manifest, with_context)
    missing = truth.check(path, records) if truth else []
    if truth and missing and not partial:
        raise PredictionError(
            f"{path}: a partial run: {len(missing)} of the {len(truth.questions)} questions in {truth.where} "
            f"have no record ({first_few(missing)}); run the evaluation again to complete it, or give "
            "--partial, and all figures are marked as those of a part"
        )
    return PredictionFile(
        path=path,
        task=task_name,
        records=records,
        truth=truth,
        expected_file=annotations.expected_file(task_name),
        missing=tuple(missing),
        manifest=manifest,
    )
