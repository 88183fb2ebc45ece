"""Where questions come from, as `data:` in a config says it: files or a hub data set, which of their columns
are what, which rows belong to which split, and how much each counts. docs/data.md has an example of each.

data/sources.py reads them.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from crashchat.json_files import Exact, Line

Form = Literal["released", "messages", "csv", "parquet"]
SplitName = Literal["train", "val", "test"]
# What a file is taken for by the ending of its name, where a source does not say.
ENDINGS: dict[str, Form] = {
    ".json": "released",
    ".jsonl": "messages",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
}
MAX_WEIGHT = 1000


def _listed(value: object) -> object:
    return value if isinstance(value, list) else [value]


SPLIT_WORDS: dict[SplitName, list[str]] = {
    "train": ["train"],
    "val": ["val", "validation"],
    "test": ["test"],
}
Cell = str | bool | int | float


class Columns(Exact):
    """Which columns of a table, or keys of a record, are what."""

    video: str = Field(default="video", min_length=1)
    """Path of the clip, below the folder of the videos."""
    question: str | None = "question"
    """What is asked, in tables; empty where `task` says it: then it is that task's prompt."""
    answer: str = Field(default="answer", min_length=1)
    """The annotated answer, in tables."""
    task: str | None = "task"
    """Name of the task; empty: the task whose prompt the question is, or none."""
    source: str | None = "source"
    """Where the clip is from, as figures by source have it."""
    keep: list[str] = Field(default_factory=list)
    """Further columns that are kept with each question, for figures by their values."""

    def named(self, role: str) -> str | None:
        """The column of a role that it must have, as it is called otherwise; None for the usual name."""
        name = getattr(self, role)
        return None if name == type(self).model_fields[role].default else name


class DataSource(Exact):
    """One source of questions: files of one form, or a data set of the hub."""

    path: Annotated[list[Path], BeforeValidator(_listed)] = Field(default_factory=list)
    """A file of questions, or several."""
    hub: Line | None = None
    """Instead of files: a data set of the hub, OWNER/NAME, or a folder of that form."""
    hub_config: str | None = None
    """Which of its configurations; none: the only or default one."""
    revision: str | None = None
    """Its branch, tag or commit; none: the newest."""
    streaming: bool = False
    """Read its rows as they come, without its tables on this disk; videos that they hold are written."""
    name: Line | None = None
    """What reports call the source; none: the first file's name without its ending, or the hub's."""
    form: Form | None = None
    """released: our JSON; messages: JSON lines of chat messages; csv; parquet; none: by the file's ending."""
    videos: Path | None = None
    """Folder that the videos' paths start from; none: data_dir."""
    columns: Columns = Field(default_factory=Columns)
    """Which columns are what."""
    where: dict[str, Annotated[list[Cell], BeforeValidator(_listed)]] = Field(default_factory=dict)
    """Only rows with this value, or one of these values, in a column: {column: value or list of values}."""
    split: SplitName | None = None
    """The split that all its rows belong to."""
    split_column: str | None = None
    """The column that says the split of each row; of the hub, its own splits where nothing else is said."""
    split_values: dict[SplitName, Annotated[list[str], BeforeValidator(_listed)]] = Field(
        default_factory=lambda: SPLIT_WORDS
    )
    """What that column says of each split's rows; other rows are left out."""
    split_shares: dict[SplitName, Annotated[float, Field(gt=0, le=1)]] = Field(default_factory=dict)
    """Instead: each split's share of the recordings, drawn by `seed` and the recording's name."""
    recording: str | None = None
    """The column that names the recording a clip was cut from, whose clips stay in one split; none: the
    video."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of split_shares."""
    weight: float = Field(default=1.0, gt=0, le=MAX_WEIGHT)
    """How often a training epoch passes the source's videos: 2 twice, 0.5 one half of them."""

    @field_validator("split_values")
    @classmethod
    def _apart(cls, value):
        given = [word for words in value.values() for word in words]
        twice = sorted({word for word in given if given.count(word) > 1})
        if twice:
            raise ValueError(f"{twice[0]!r} stands for two splits")
        return value

    @model_validator(mode="after")
    def _one_of_each(self):
        if bool(self.path) == (self.hub is not None):
            raise ValueError("expected either path or hub")
        if self.hub is None and (self.hub_config or self.revision or self.streaming):
            raise ValueError("hub_config, revision and streaming go with hub alone")
        if self.hub is not None and self.form:
            raise ValueError("form goes with path alone")
        rules = [name for name in ("split", "split_column", "split_shares") if getattr(self, name)]
        if len(rules) > 1 or (not rules and self.hub is None):
            raise ValueError(
                f"found {' and '.join(rules) or 'no rule'} for its split; expected one of split, "
                "split_column and split_shares"
            )
        if sum(self.split_shares.values()) > 1 + 1e-9:
            raise ValueError(
                f"split_shares add up to {sum(self.split_shares.values()):g}, expected at most 1"
            )
        if self.recording and not self.split_shares:
            raise ValueError("recording goes with split_shares alone")
        unknown = [path for path in self.path if self.form is None and path.suffix.lower() not in ENDINGS]
        if unknown:
            raise ValueError(
                f"{unknown[0]}: its ending says no form; expected one of {', '.join(ENDINGS)}, or "
                f"form: one of {', '.join(get_args(Form))}"
            )
        if self.hub is not None and find_spec("datasets") is None:
            raise ValueError("hub needs the datasets package: pip install datasets")
        return self

    def form_of(self, path: Path) -> Form:
        """What one of its files is read as."""
        return self.form or ENDINGS[path.suffix.lower()]

    @property
    def title(self) -> str:
        """What reports call it."""
        return self.name or self.hub or self.path[0].stem
