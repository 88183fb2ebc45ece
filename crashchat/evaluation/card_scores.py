"""Scores written into the card of the model that answered, so that they go where the weights go."""

from pathlib import Path

from crashchat.checkpoints.layouts import CheckpointError
from crashchat.checkpoints.model_card import Score, read_card, write_card
from crashchat.data.prediction_files import PredictionFile
from crashchat.data.predictions import PredictionError
from crashchat.json_files import as_line
from crashchat.metrics.sums import Sums
from crashchat.provenance import content_hash


def check_card(folder: Path, file: PredictionFile) -> None:
    """Raises CheckpointError for a folder without a card, PredictionError for a prediction file that is not
    of its weights, or whose scores are not sure: a partial one, one without a manifest or that was not held
    against annotations.
    """
    if read_card(folder) is None:
        raise CheckpointError(
            f"{folder}: no card to write scores into; training writes one, merging and conversion keep it"
        )
    if file.manifest is None:
        raise PredictionError(f"{file.path}: {file.without_manifest}; no card takes its scores")
    if file.missing or file.unchecked:
        raise PredictionError(
            f"{file.path}: {file.share or file.unchecked}: no card takes its scores; expected all questions, "
            "held against their annotations"
        )
    answered = file.manifest.adapter or file.manifest.checkpoint
    found = content_hash(folder)
    if found != answered.sha256:
        raise PredictionError(
            f"{file.path}: answers of {answered.path} (SHA-256 {answered.sha256[:12]}…), and {folder} is "
            f"{found[:12]}…; name the folder that answered: the adapter's, where there was one"
        )


def write_scores_into_card(folder: Path, file: PredictionFile, sums: Sums) -> int:
    """Write the strict figures of a task into a folder's card, in place of those of the same data set and
    split; returns how many. As check_card, which comes before.
    """
    check_card(folder, file)
    card = read_card(folder)
    assert card is not None and file.manifest is not None, "check_card has looked"
    dataset = file.manifest.dataset
    new = [
        Score(
            dataset=as_line(dataset.name),
            split=as_line(dataset.split),
            metric=f"{file.task} {name}",
            value=value,
            questions=len(file.records),
            predictions_sha256=file.manifest.predictions_sha256,
        )
        for name, value in sums.metrics("strict").items()
        if isinstance(value, float)
    ]
    replaced = {(score.dataset, score.split, score.metric) for score in new}
    kept = [score for score in card.scores if (score.dataset, score.split, score.metric) not in replaced]
    write_card(folder, card.model_copy(update={"scores": [*kept, *new]}))
    return len(new)
