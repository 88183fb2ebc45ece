"""The form in which every task hands over its answers: per-question columns whose totals give every figure.

A mean needs the sum and the number, an F1 the counts, corpus BLEU the n-gram counts: all of them are
functions of column totals. So a protocol is a choice of rows, a bootstrap resample is one product of weights
and columns, and a figure is written once for all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

PROTOCOLS = ("strict", "released")

Totals = dict[str, np.ndarray]  # {column: float64[...]}, any shape, the same for all


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """part / whole, element by element; `empty` where whole is 0."""
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, empty), where=whole != 0)


@dataclass(frozen=True)
class Sums:
    """The scored questions of one prediction file, R of them.

    videos: the video of each question, R names; a resample draws videos, because questions on one video stand
    and fall together.
    answered: bool[R]; the released protocol keeps these alone.
    columns: {name: float64[R]}; a question without an answer holds what the strict protocol gives it.
    figures: column totals (of any shape) -> {figure: values of that shape}, NaN where there is nothing to
    average.
    tallies: the columns that are shown as counts.
    counts: what was and was not scored, whatever the protocol (see crashchat.metrics).
    """

    videos: list[str]
    answered: np.ndarray
    columns: dict[str, np.ndarray]
    figures: Callable[[Totals], dict[str, np.ndarray]]
    tallies: tuple[str, ...]
    counts: dict

    def rows(self, protocol: str) -> np.ndarray:
        """bool[R]: the questions that a protocol counts. Raises ValueError for an unknown protocol."""
        if protocol not in PROTOCOLS:
            raise ValueError(f"protocol {protocol!r}, expected one of {', '.join(PROTOCOLS)}")
        return self.answered if protocol == "released" else np.ones(len(self.videos), dtype=bool)

    def of(self, rows: list[bool]) -> "Sums":
        """Some of the questions; their counts are not known."""
        kept = np.array(rows, dtype=bool)
        columns = {name: column[kept] for name, column in self.columns.items()}
        videos = [video for video, keep in zip(self.videos, rows, strict=True) if keep]
        return replace(self, videos=videos, answered=self.answered[kept], columns=columns, counts={})

    def metrics(self, protocol: str = "strict") -> dict:
        """{metric: value}: the counts, the tallies as int, the figures as float or None."""
        rows = self.rows(protocol)
        totals = {name: column[rows].sum() for name, column in self.columns.items()}
        figures = {name: float(value) for name, value in self.figures(totals).items()}
        return {
            **self.counts,
            **{name: int(totals[name]) for name in self.tallies},
            **{name: None if np.isnan(value) else value for name, value in figures.items()},
        }

    def by_video(self, protocol: str, videos: list[str]) -> Totals:
        """{column: float64[V]}: the totals of each of `videos`, which must hold all of this file's."""
        place = {video: number for number, video in enumerate(videos)}
        rows = self.rows(protocol)
        where = np.array([place[video] for video in self.videos], dtype=int)[rows]
        return {
            name: np.bincount(where, column[rows], minlength=len(videos))
            for name, column in self.columns.items()
        }


def sums(
    questions: list[dict],
    figures: Callable[[Totals], dict[str, np.ndarray]],
    counts: dict,
    tallies: tuple[str, ...] = (),
    empty: tuple[str, ...] = (),
) -> Sums:
    """Sums of questions, each {"video": name, "answered": bool, column: value …}; `empty`:
    the columns where there is none.
    """
    names = [name for name in questions[0] if name not in ("video", "answered")] if questions else list(empty)
    answered = sum(question["answered"] for question in questions)
    return Sums(
        videos=[question["video"] for question in questions],
        answered=np.array([question["answered"] for question in questions], dtype=bool),
        columns={name: np.array([question[name] for question in questions], dtype=float) for name in names},
        figures=figures,
        tallies=tallies,
        counts={"num_records": counts["num_records"], "num_scored": answered, **counts},
    )


def is_count(name: str) -> bool:
    """Whether a metric is a number of questions that is the same in both protocols."""
    return name.startswith("num_") or name.endswith("_count")


def format_value(value: float | int | None, digits: int = 3) -> str:
    """A figure as text, a float with so many decimals; `not computed` where it cannot be."""
    if value is None:
        return "not computed"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
