"""What a data set is: its name, whether its videos are drawings, and what of it a run used.

A data folder may hold dataset.json, {"name": …, "drawn": …, "description": …}; `crashchat synthesize` writes
one. Without it a set is called as its folder, and is taken for real footage.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import Field

from crashchat.data.annotations import AnnotationError, VideoQAs
from crashchat.files import write_json_atomic
from crashchat.json_files import Exact, Line, as_line, checked, read_json
from crashchat.provenance import file_hash, text_hash

DATASET_FILE = "dataset.json"


class DatasetCard(Exact):
    """What dataset.json says of a data folder."""

    name: Line
    """What the set is called."""
    drawn: bool = False
    """Whether its videos are drawings of traffic, not footage."""
    description: str = Field(default="", max_length=2000)
    """What it is, in a sentence."""


class DatasetUse(Exact):
    """What a run took of a data set; None where that is not known."""

    name: Line
    """What the set is called."""
    drawn: bool
    """Whether its videos are drawings of traffic, not footage."""
    split: Line
    """train, val or test."""
    videos: int | None
    """How many videos."""
    questions: int | None
    """How many questions on them."""
    annotations: dict[str, str]
    """{annotation file's name: SHA-256 of its bytes}."""
    names_sha256: str | None
    """SHA-256 over the videos' sorted names, a line each."""


def read_dataset_card(data_dir: Path) -> DatasetCard:
    """What a data folder says of itself. Raises AnnotationError for a dataset.json that cannot be used."""
    path = data_dir / DATASET_FILE
    if not path.is_file():
        return DatasetCard(name=as_line(data_dir.resolve().name))
    value = read_json(path, AnnotationError, "an object with name, drawn and description")
    return checked(DatasetCard, value, path, AnnotationError)


def write_dataset_card(data_dir: Path, card: DatasetCard) -> None:
    """Write dataset.json to a data folder."""
    write_json_atomic(data_dir / DATASET_FILE, card.as_json())


def names_hash(names: Iterable[str]) -> str:
    """SHA-256 over video names, each once, in the order of their bytes."""
    return text_hash(sorted(set(names)))


def describe_use(data_dir: Path, files: Sequence[Path], videos: Sequence[VideoQAs], split: str) -> DatasetUse:
    """What a run took: the annotation files it read and the videos and questions in them.

    Raises AnnotationError for a dataset.json that cannot be used.
    """
    card = read_dataset_card(data_dir)
    return DatasetUse(
        name=card.name,
        drawn=card.drawn,
        split=split,
        videos=len(videos),
        questions=sum(len(video.questions) for video in videos),
        annotations={as_line(path.name): file_hash(path) for path in files},
        names_sha256=names_hash(Path(video.name).name for video in videos),
    )
