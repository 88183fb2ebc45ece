"""A table of what is known of clips besides their pictures, for a task set that tells it with its questions
(crashchat/tasks/context.py).

    video,speed,braking
    drive_17.mp4,52,0.41
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from crashchat.analysis.options import AnalyzeError
from crashchat.data.foreign import each_row
from crashchat.data.tables import as_text, no_column
from crashchat.errors import listed
from crashchat.tasks import TASKS

CLIP = "video"  # the column that names the clip, by its file's name

Known = Mapping[str, str]  # {column: value}, of a clip
NOTHING: Known = MappingProxyType({})


def add_context(parser: argparse._ActionsContainer) -> None:
    """The option that `contexts_of` reads."""
    parser.add_argument(
        "--context",
        type=Path,
        metavar="TABLE",
        help="what is known of the clips, for a task set that tells it (docs/tasks.md): CSV, Parquet or JSON "
        f"with a column {CLIP!r}, the file's name, and the set's columns",
    )


def known_of(values: Mapping[str, object]) -> Known:
    """What is known of a clip, {column: value}, as text and without what is missing.

    Raises ValueError for a column that the task set in use does not tell, for a value that no prompt may
    have, and for one that the set requires and that is missing.
    """
    contexts = TASKS.task_set.context
    if unknown := sorted(values.keys() - contexts.keys()):
        told = ", ".join(contexts) or "nothing of clips"
        raise ValueError(f"found {unknown[0]!r}, the task set tells {told}")
    known = {name: text for name, value in values.items() if (text := as_text(value))}
    for task in TASKS:
        TASKS.task_set.told(task, known)
    return known


def contexts_of(table: Path | None, paths: Sequence[Path]) -> dict[str, Known]:
    """{clip's file name: what is known of it} by a table; none without one.

    Raises AnalyzeError for a table that the set in use asks nothing of, that lacks a column or names a clip
    twice, for a value that no prompt may have, and for a clip without one that the set requires;
    AnnotationError for a table that cannot be read.
    """
    contexts = TASKS.task_set.context
    if table is not None and not contexts:
        raise AnalyzeError(
            f"--context {table}: the task set {TASKS.task_set.path} tells nothing of the clips; expected one "
            "with `context:`, or no table"
        )
    found: dict[str, Known] = {}
    problems = []
    for number, row in each_row(table) if table is not None else ():
        missing = [name for name in (CLIP, *contexts) if name not in row]
        if missing and table and table.suffix.lower() in (".csv", ".tsv", ".parquet", ""):
            raise AnalyzeError(no_column(str(table), missing[0], list(row)))
        try:
            clip = Path(as_text(row.get(CLIP)) or "").name
            if not clip or clip in found:
                raise ValueError(f"names {f'{clip} again' if clip else 'no clip'}; expected each clip once")
            found[clip] = known_of({name: row.get(name) for name in contexts})
        except ValueError as error:
            problems.append(f"{table}, row {number}: {error}")
    lacking = [name for name, context in contexts.items() if context.required]
    for path in paths:
        problems += [
            f"{path}: has no {name!r}, which {TASKS.task_set.path} requires; --context names a table with it"
            for name in lacking
            if name not in found.get(path.name, {})
        ]
    if problems:
        raise AnalyzeError(f"what is known of the clips cannot be told:{listed(problems)}")
    return found
