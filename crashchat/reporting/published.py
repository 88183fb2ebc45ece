"""The paper's results (arXiv 2512.18878), and whether answers may stand beside them."""

import json
from importlib.resources import files

from crashchat.data.datasets import DatasetUse
from crashchat.reporting.tables import Scores, Table, filled, headlines, kind_of
from crashchat.tasks import TASKS

# The split that the figures are of, and where its videos come from (docs/reference.md, Annotations).
PUBLISHED_SPLIT, PUBLISHED_VIDEOS = "test", 1839
PUBLISHED_SOURCES = frozenset({"MM-AU-CAP", "MM-AU-DADA", "D2City", "Nexar"})
PUBLISHED_NOTE = (
    "Published: arXiv 2512.18878, on the released test split (1,839 videos). The models' own figures are in "
    "the released scripts' terms here, because the published ones are: what does not parse is left out. The "
    "paper does not say whether its ROUGE is ROUGE-1 or ROUGE-L; SimpleTAD and WSAL are read off a plot."
)
NOT_PUBLISHED_NOTE = (
    "The paper's figures (arXiv 2512.18878) are of the released test split, 1,839 videos. These answers are "
    "about other videos, so the two say nothing about each other, and the paper's are not shown."
)
# The published figures' names and ours; the paper does not say which ROUGE it gives.
_NAMES = {
    "macro_precision": "macro_precision",
    "macro_recall": "macro_recall",
    "macro_f1": "macro_f1",
    "bleu": "BLEU",
    "rouge": "rougeL_f",
    "bertscore": "BERTScore",
    "miou": "mIoU",
    "ap30": "AP@30",
    "ap50": "AP@50",
    "ap70": "AP@70",
}


def is_published_split(used: DatasetUse | None, sources: dict[str, str], answered: set[str]) -> bool:
    """Whether answers are about the videos that the published figures are of.

    used: the annotated split at hand, None without annotation files; sources: {video: its collection};
    answered: the videos' names.
    """
    if used is None or used.drawn or used.split != PUBLISHED_SPLIT or used.videos != PUBLISHED_VIDEOS:
        return False
    return all(sources.get(name) in PUBLISHED_SOURCES for name in answered)


def read_published() -> dict:
    """{"results": {model: {task: {name: value}}}, "source": …, "read_off_a_plot": …}."""
    return json.loads(
        files("crashchat.reporting").joinpath("published_results.json").read_text(encoding="utf-8")
    )


def published_tables(scores: Scores) -> list[Table]:
    """The models' figures in the released scripts' terms beside the published ones,
    which were made with those.
    """
    theirs: Scores = {
        model: {
            task: {_NAMES[name]: float(value) for name, value in row.items()} for task, row in tasks.items()
        }
        for model, tasks in read_published()["results"].items()
    }
    ours = {
        name: {task: metrics["released"] for task, metrics in row.items()}
        for name, row in scores.items()
        if kind_of(name) == "model"
    }
    tables = []
    for group, tasks in TASKS.groups.items():
        if not any(task in row for row in ours.values() for task in tasks):
            continue
        # A model called as one of theirs must not hide it.
        both = {f"{name} (published)": row for name, row in theirs.items()} | ours
        table = filled(Table(f"{group} tasks beside the published figures", headlines(theirs, tasks)), both)
        for row in table.rows:
            if row.name not in ours:
                row.kind = "published"
        tables.append(table)
    return tables
