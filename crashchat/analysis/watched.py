"""A clip that is being looked at: by which model, and how."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from crashchat.analysis.windows import WindowSettings
from crashchat.answering.cascade import Cascade
from crashchat.video.source import Source


@dataclass(frozen=True)
class Watched:
    """source: what was found in the file. known: what is told of the clip with the questions, {column of the
    task set's context: its value}.
    """

    cascade: Cascade
    path: Path
    source: Source
    windows: WindowSettings
    known: Mapping[str, str]
