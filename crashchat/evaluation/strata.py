"""Figures by the values of a column that is kept with the questions: ego or not, day or night, source.

Beside each value's figures stands the balanced one: the mean over the values, each counted alike, however
many questions it has. A value with too few videos has no figure of its own, and no part in the balanced one.
"""

import math
from dataclasses import dataclass

import numpy as np

from crashchat.data.prediction_files import PredictionFile
from crashchat.data.predictions import PredictionError
from crashchat.metrics.bootstrap import balanced, intervals
from crashchat.metrics.sums import Sums, format_value
from crashchat.parts import whole_name

FEWEST = 10  # videos of a value: with fewer, an interval says next to nothing
MOST_VALUES = 12  # of a column; numbers beyond that are cut into thirds
NOT_SAID = "not said"
SOURCE = "source"


@dataclass(frozen=True)
class Strata:
    """The figures by one column's values.

    counts: {value: videos}. figures, ranges: {value: {figure: value, or its interval}}, of the values that
    are not too_few. mean, mean_ranges: the balanced figures.
    """

    column: str
    counts: dict[str, int]
    too_few: list[str]
    figures: dict[str, dict]
    ranges: dict[str, dict]
    mean: dict
    mean_ranges: dict

    def as_json(self) -> dict:
        """The same as JSON has it."""
        values: dict[str, dict] = {name: {"num_videos": count} for name, count in self.counts.items()}
        for name in self.figures:
            values[name] |= {**self.figures[name], "intervals": _lists(self.ranges[name])}
        return {
            "values": values,
            "too_few": self.too_few,
            "balanced": {**self.mean, "intervals": _lists(self.mean_ranges)},
        }

    def table(self) -> str:
        """The same for a terminal: a line a figure, a column a value."""
        shown = [*self.figures, *(["balanced"] if self.mean else [])]
        names = list(self.mean or next(iter(self.figures.values()), {}))
        heads = [f"{name} ({self.counts[name]})" if name in self.counts else name for name in shown]
        width = max(map(len, names), default=6)
        lines = [f"by {self.column} (videos)"]
        if self.too_few:
            few = ", ".join(f"{name} ({self.counts[name]})" for name in self.too_few)
            lines.append(
                f"too few videos, fewer than {FEWEST}: {few}; without a figure, and in no balanced one"
            )
        if not shown:
            return "\n".join(lines)
        lines.append(f"{'metric':{width}}  " + "  ".join(f"{head:>24}" for head in heads))
        for name in names:
            cells = [self._cell(column, name) for column in shown]
            lines.append(f"{name:{width}}  " + "  ".join(f"{cell:>24}" for cell in cells))
        return "\n".join(lines)

    def _cell(self, column: str, name: str) -> str:
        value = (self.mean if column == "balanced" else self.figures[column]).get(name)
        span = (self.mean_ranges if column == "balanced" else self.ranges[column]).get(name)
        text = format_value(value)
        return text if span is None else f"{text} [{span[0]:.3f}, {span[1]:.3f}]"


def _lists(ranges: dict) -> dict[str, list[float]]:
    return {name: list(span) for name, span in ranges.items()}


def strata(file: PredictionFile, sums: Sums, column: str, protocol: str) -> Strata:
    """The figures of a prediction file by a column of its annotations.

    Raises PredictionError where there are no annotations, or none of them has the column.
    """
    parts = {
        name: sums.of([video in videos for video in sums.videos])
        for name, videos in grouped(column_values(file, column), column).items()
    }
    counts = {name: len(set(part.videos)) for name, part in parts.items()}
    enough = {name: part for name, part in parts.items() if counts[name] >= FEWEST}
    mean, mean_ranges = balanced(list(enough.values()), protocol) if len(enough) > 1 else ({}, {})
    figures = {name: _floats(part.metrics(protocol), sums) for name, part in enough.items()}
    return Strata(
        column=column,
        counts=counts,
        too_few=[name for name in counts if name not in enough],
        figures=figures,
        ranges={name: intervals(part, protocol) for name, part in enough.items()},
        mean=mean,
        mean_ranges=mean_ranges,
    )


def _floats(metrics: dict, sums: Sums) -> dict:
    return {name: value for name, value in metrics.items() if name not in sums.tallies}


def column_values(file: PredictionFile, column: str) -> dict[str, str]:
    """{video file name: its value} of each question that was asked (see strata)."""
    if file.truth is None:
        raise PredictionError(
            f"--by {column}: annotations have the column, and there is no {file.expected_file}; name them "
            "with --annotations or --data-dir"
        )
    found, names = {}, {SOURCE}
    for name, (video, question) in file.truth.questions.items():
        kept = {SOURCE: video.source, **dict(question.kept)}
        names |= kept.keys()
        found[whole_name(name)] = kept.get(column) or NOT_SAID
    if column not in names:
        raise PredictionError(
            f"--by {column}: none of the questions in {file.truth.where} has it; those that are kept are "
            f"{', '.join(sorted(names))}"
        )
    return found


def grouped(values: dict[str, str], column: str) -> dict[str, set[str]]:
    """{value: videos}, the values in order; a column of many different numbers is cut into thirds of the
    videos.

    Raises PredictionError for one of many different texts.
    """
    distinct = sorted(set(values.values()), key=lambda value: (value == NOT_SAID, value))
    if len(distinct) > MOST_VALUES:
        numbers = {name: _number(value) for name, value in values.items() if value != NOT_SAID}
        known = {name: number for name, number in numbers.items() if number is not None}
        if len(known) < len(numbers):
            raise PredictionError(
                f"--by {column}: has {len(distinct)} different values ({distinct[0]}, {distinct[1]}, …); "
                f"expected at most {MOST_VALUES}, or numbers"
            )
        values = {**values, **_thirds(known)}
        distinct = list(dict.fromkeys(values[name] for name in sorted(known, key=known.__getitem__)))
        distinct += [NOT_SAID] if NOT_SAID in values.values() else []
    return {value: {name for name, one in values.items() if one == value} for value in distinct}


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _thirds(numbers: dict[str, float]) -> dict[str, str]:
    """{video: the third that its number is in, as a range}."""
    low, high = np.quantile(list(numbers.values()), (1 / 3, 2 / 3))
    names = (f"up to {low:g}", f"{low:g} to {high:g}", f"above {high:g}")
    return {name: names[int(number > low) + int(number > high)] for name, number in numbers.items()}
