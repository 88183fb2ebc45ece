"""The form in which every task hands over its answers: per-question columns whose totals give every figure.

A mean needs the sum and the number, an F1 the counts, corpus BLEU the n-gram counts: all of them are
functions of column totals. So a protocol is a choice of rows, a bootstrap resample is one product of weights
and columns, and a figure is written once for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

PROTOCOLS = ("strict", "released")
# Figures that an answer which does not parse has no part in: it has no error in seconds, or in anything.
PARSED_ONLY = ("start_MAE", "end_MAE", "MAE")

# {figure: groups of columns whose totals are numbers of questions}
Counted = dict[str, tuple[tuple[str, ...], ...]]
Totals = dict[str, np.ndarray]  # {column: float64[...]}, any shape, the same for all


def ratio(part: np.ndarray, whole: np.ndarray, empty: float = np.nan) -> np.ndarray:
    """part / whole, element by element; `empty` where whole is 0."""
    part, whole = np.asarray(part, dtype=float), np.asarray(whole, dtype=float)
    return np.divide(part, whole, out=np.full(np.broadcast(part, whole).shape, empty), where=whole != 0)


@dataclass(frozen=True)
class Sums:
    """The scored questions of one prediction file, R of them; or of several runs (seeds) on the same
    questions, one below the other (`joined`), whose figures are the means of the runs'.

    videos: the video of each question, R names; a resample draws videos, because questions on one video stand
    and fall together.
    answered: bool[R]; the released protocol keeps these alone.
    columns: {name: float64[R]}; a question without an answer holds what the strict protocol gives it.
    figures: column totals (of any shape) -> {figure: values of that shape}, NaN where there is nothing to
    average.
    tallies: the columns that are shown as counts.
    counts: what was and was not scored, whatever the protocol (see crashchat.metrics).
    counted: {figure between 0 and 1: what it is counted over}, each of some groups of columns whose totals
    are numbers of questions; the smallest group bounds how sure the figure can be.
    shares: those of them that are shares of questions, right or wrong each.
    parsed_only: figures that an answer which does not parse has no part in, in either protocol.
    runs: int64[R], the run of each question, 0 to num_runs - 1.
    """

    videos: list[str]
    answered: np.ndarray
    columns: dict[str, np.ndarray]
    figures: Callable[[Totals], dict[str, np.ndarray]]
    tallies: tuple[str, ...]
    counts: dict
    counted: Counted
    shares: tuple[str, ...]
    parsed_only: tuple[str, ...]
    runs: np.ndarray
    num_runs: int = 1

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
        return replace(
            self,
            videos=videos,
            answered=self.answered[kept],
            columns=columns,
            counts={},
            runs=self.runs[kept],
        )

    def answered_videos(self) -> list[str]:
        """The videos with an answer that parses in every run."""
        times: dict[str, int] = {}
        for video, answered in zip(self.videos, self.answered, strict=True):
            times[video] = times.get(video, 0) + bool(answered)
        return [video for video, answers in times.items() if answers >= self.num_runs]

    def _of_runs(self, protocol: str) -> dict[str, list[float]]:
        """{figure: its value in each run}."""
        rows = self.rows(protocol)
        values: dict[str, list[float]] = {}
        for run in range(self.num_runs):
            kept = rows & (self.runs == run)
            totals = {name: column[kept].sum() for name, column in self.columns.items()}
            for name, value in self.figures(totals).items():
                values.setdefault(name, []).append(float(value))
        return values

    def metrics(self, protocol: str = "strict") -> dict:
        """{metric: value}: the counts, the tallies as int, the figures as float or None; of several runs the
        counts are summed and the figures their means, None where any run has none.
        """
        rows = self.rows(protocol)
        figures = {name: float(np.mean(values)) for name, values in self._of_runs(protocol).items()}
        return {
            **self.counts,
            **{name: int(self.columns[name][rows].sum()) for name in self.tallies},
            **{name: None if np.isnan(value) else value for name, value in figures.items()},
        }

    def spread(self, protocol: str = "strict") -> dict[str, float]:
        """{figure: standard deviation over the runs}, those with one in every run; empty for a single run."""
        if self.num_runs == 1:
            return {}
        found = {name: float(np.std(values, ddof=1)) for name, values in self._of_runs(protocol).items()}
        return {name: value for name, value in found.items() if not np.isnan(value)}

    def counted_by(self, protocol: str) -> dict[str, float]:
        """{figure between 0 and 1: how many independent questions bound it}, of one run: questions on the
        same video count as one.
        """
        rows = self.rows(protocol) & (self.runs == 0)
        videos = {video for video, kept in zip(self.videos, rows, strict=True) if kept}
        apart = len(videos) / max(int(rows.sum()), 1)
        totals = {name: float(column[rows].sum()) for name, column in self.columns.items()}
        return {
            name: apart * min(sum(totals[column] for column in group) for group in groups)
            for name, groups in self.counted.items()
        }

    def by_video(self, protocol: str, videos: list[str], run: int = 0) -> Totals:
        """{column: float64[V]}: one run's totals of each of `videos`, which must hold all of this file's."""
        place = {video: number for number, video in enumerate(videos)}
        rows = self.rows(protocol) & (self.runs == run)
        where = np.array([place[video] for video in self.videos], dtype=int)[rows]
        return {
            name: np.bincount(where, column[rows], minlength=len(videos))
            for name, column in self.columns.items()
        }


def sums(
    questions: list[dict],
    figures: Callable[[Totals], dict[str, np.ndarray]],
    counts: dict,
    *,
    counted: Counted,
    shares: tuple[str, ...] = (),
    parsed_only: tuple[str, ...] = (),
    tallies: tuple[str, ...] = (),
    empty: tuple[str, ...] = (),
) -> Sums:
    """Sums of questions, each {"video": name, "answered": bool, column: value …}; `empty`:
    the columns where there is none. The others: see Sums.
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
        counted=counted,
        shares=shares,
        parsed_only=parsed_only,
        runs=np.zeros(len(questions), dtype=int),
    )


def joined(runs: Sequence[Sums]) -> Sums:
    """Several runs on the same questions as one; a single run is itself.

    Raises ValueError where a column or a video is not in all of them.
    """
    first = runs[0]
    if len(runs) == 1:
        return first
    for one in runs[1:]:
        if sorted(one.videos) != sorted(first.videos) or one.columns.keys() != first.columns.keys():
            raise ValueError("runs that are to be one row were not asked the same questions")
    return replace(
        first,
        videos=[video for one in runs for video in one.videos],
        answered=np.concatenate([one.answered for one in runs]),
        columns={name: np.concatenate([one.columns[name] for one in runs]) for name in first.columns},
        counts=_joined_counts([one.counts for one in runs]),
        runs=np.concatenate([np.full(len(one.videos), run) for run, one in enumerate(runs)]),
        num_runs=len(runs),
    )


def _joined_counts(parts: list[dict]) -> dict:
    """Numbers of questions are summed; what is a figure already, a float, is the mean or None."""
    whole: dict = {}
    for name in parts[0]:
        values = [part[name] for part in parts]
        if isinstance(values[0], dict):
            whole[name] = _joined_counts(values)
        elif any(value is None for value in values):
            whole[name] = None
        elif any(isinstance(value, float) for value in values):
            whole[name] = float(np.mean(values))
        else:
            whole[name] = sum(values)
    return whole


def is_count(name: str) -> bool:
    """Whether a metric is a number of questions that is the same in both protocols."""
    return name.startswith("num_") or name.endswith("_count")


def format_value(value: float | int | None, digits: int = 3) -> str:
    """A figure as text, a float with so many decimals; `not computed` where it cannot be."""
    if value is None:
        return "not computed"
    return f"{value:.{digits}f}" if isinstance(value, float) else str(value)
