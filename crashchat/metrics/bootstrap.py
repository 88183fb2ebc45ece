"""How far a figure could be off: bootstrap over videos (Efron 1979; paired as in Koehn 2004).

A resample draws as many videos as there are, with repetition, and takes all questions on each: answers on one
video stand and fall together. As every figure is a function of column totals (sums.py), all resamples are one
matrix product. Where a row holds several runs (seeds), a resample also draws the runs: a hierarchical
bootstrap, whose interval is of the strategy and not of one seed.

A share near 0 or 1 has hardly any spread in resamples, and none at 0 and 1: shares have Wilson's interval
(1927) instead, and so has every other figure between 0 and 1 where all resamples agree on an end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from crashchat.metrics.sums import Sums, Totals

RESAMPLES, SEED = 1000, 0
# Of a paired comparison: its smallest p-value, 2 / 10,001, leaves room for a correction over fifty of them.
PAIRED_RESAMPLES = 10_000
CHUNK = 1000  # resamples in memory at a time
TAILS = (0.025, 0.975)  # of a 95% interval
Z = 1.959964  # of a 95% interval, in standard deviations
POWER_Z = Z + 0.841621  # what a true difference must be to be found at p < 0.05 in 80% of test sets

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """b minus a in one figure.

    value, low, high: the difference and its 95% interval. p: two-sided, of there being none, never below
    what a sign test on as many videos as the two answered differently could show (2^(1-n)); at_floor: it is
    the smallest that the resamples can show, so the true one is that or less. p_holm: corrected for the
    family that it was tested in (`corrected`), None without one. detectable: the smallest true difference
    that such a test set shows at p < 0.05 four times in five (80% power); None where nothing varied. over: of
    a figure over parsed answers alone, how many questions both answered.
    """

    value: float
    low: float
    high: float
    p: float
    at_floor: bool = False
    p_holm: float | None = None
    detectable: float | None = None
    over: int | None = None

    @property
    def significant(self) -> bool:
        """Whether p, corrected where it was, is below 0.05."""
        return (self.p if self.p_holm is None else self.p_holm) < 0.05

    @property
    def p_text(self) -> str:
        """p, corrected where it was, in words: `p 0.031`, or `p ≤ 0.0002` at the floor of the resamples."""
        p = self.p if self.p_holm is None else self.p_holm
        # A whole 1 says nothing more by a sign.
        return f"p ≤ {p:.4f}" if self.at_floor and p < 1 else f"p {p:.3f}"


@lru_cache(maxsize=2)  # six tasks of many rows draw the same
def draws(videos: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """float64[resamples, videos], read-only: how often each resample holds each video."""
    drawn = np.random.default_rng(seed).multinomial(videos, np.full(videos, 1 / videos), size=resamples)
    weights = drawn.astype(float)
    weights.flags.writeable = False
    return weights


def run_draws(runs: int, resamples: int, seed: int) -> np.ndarray:
    """float64[resamples, runs]: the weight of each run in each resample, 1 for a run that is alone."""
    if runs == 1:
        return np.ones((resamples, 1))
    return np.random.default_rng([seed, runs]).multinomial(runs, np.full(runs, 1 / runs), resamples) / runs


def _resampled(
    sums: Sums, protocol: str, videos: list[str], weights: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """{figure: float64[resamples]}, the mean of the drawn runs' figures."""
    chosen = run_draws(sums.num_runs, len(weights), seed)
    found: dict[str, np.ndarray] = {}
    for run in range(sums.num_runs):
        totals = sums.by_video(protocol, videos, run)
        columns = np.stack(list(totals.values()), axis=1)
        # A total of whole numbers is one; rounding noise in the product must not make a 0 of it into a
        # division by 1e-16.
        product = np.concatenate(
            [weights[at : at + CHUNK] @ columns for at in range(0, len(weights), CHUNK)]
        ).round(9)
        of_run: Totals = {name: product[:, at] for at, name in enumerate(totals)}
        for name, values in sums.figures(of_run).items():
            # A run that was not drawn must not make the mean NaN.
            part = np.where(chosen[:, run] > 0, values * chosen[:, run], 0.0)
            found[name] = found[name] + part if name in found else part
    return found


def wilson(share: float, number: float) -> Interval:
    """Wilson's 95% interval of a share of `number` independent questions."""
    if number <= 0:
        return 0.0, 1.0
    middle = (share + Z**2 / (2 * number)) / (1 + Z**2 / number)
    half = Z * np.sqrt(share * (1 - share) / number + Z**2 / (4 * number**2)) / (1 + Z**2 / number)
    # The share itself lies within, whatever rounding makes of an end.
    return float(min(max(0.0, middle - half), share)), float(max(min(1.0, middle + half), share))


def intervals(
    sums: Sums, protocol: str = "strict", resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """{figure: (low, high)}, 95% intervals: Wilson's of shares, percentiles of resamples of all others;
    a figure that is None, or without any valid resample, has none.
    """
    videos = sorted(set(sums.videos))
    if not videos:
        return {}
    values = _resampled(sums, protocol, videos=videos, weights=draws(len(videos), resamples, seed), seed=seed)
    figures, counted = sums.metrics(protocol), sums.counted_by(protocol)
    found: dict[str, Interval] = {}
    for name, column in values.items():
        value = figures[name]
        if value is None or np.isnan(column).all():
            continue
        low, high = _tails(column)
        share_alone = name in sums.shares and sums.num_runs == 1
        if name in counted and (share_alone or (low == high and value in (0, 1))):
            low, high = wilson(value, counted[name])
        found[name] = (low, high)
    return found


def balanced(
    parts: Sequence[Sums], protocol: str = "strict", resamples: int = RESAMPLES, seed: int = SEED
) -> tuple[dict[str, float | None], dict[str, Interval]]:
    """({figure: the mean of the parts' figures}, {figure: its 95% interval}): each part counts alike, however
    many questions it has, and is resampled by itself.

    A figure that any part lacks is None. Where no resample of any part differs, the interval is the mean of
    the parts' own.
    """
    figures = [part.metrics(protocol) for part in parts]
    # A number of questions has no mean over values that says anything.
    left_out = {*parts[0].tallies, *(name for name in figures[0] if name.lower().startswith("num_"))}
    names = [name for name in figures[0] if name not in left_out]
    alone = [intervals(part, protocol, resamples, seed) for part in parts]
    drawn = []
    for number, part in enumerate(parts):
        videos = sorted(set(part.videos))
        weights = draws(len(videos), resamples, seed + number)
        drawn.append(_resampled(part, protocol, videos=videos, weights=weights, seed=seed))
    means: dict[str, float | None] = {}
    ranges: dict[str, Interval] = {}
    for name in names:
        values = [figure[name] for figure in figures]
        lacking = any(value is None for value in values) or any(name not in found for found in alone)
        means[name] = None if lacking else float(np.mean(values))
        if lacking:
            continue
        low, high = _tails(np.mean([found[name] for found in drawn], axis=0))
        if low == high:
            low, high = (float(np.mean([found[name][end] for found in alone])) for end in (0, 1))
        ranges[name] = low, high
    return means, ranges


def _tails(values: np.ndarray) -> Interval:
    low, high = np.nanquantile(values, TAILS)
    return float(low), float(high)


def paired(
    a: Sums, b: Sums, protocol: str = "strict", resamples: int = PAIRED_RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """{figure: b - a} of two models on the same videos, each resample drawing the same videos for both.

    p: twice the share of resamples on the other side of 0 (one added, so that it is never 0): below 0.05
    where the interval leaves 0 out. A figure that either lacks has no entry; one that only parsed answers
    have (errors in seconds) is compared on the videos that both answered.
    Raises ValueError where the two were not asked about the same videos.
    """
    videos = sorted(set(a.videos))
    if videos != sorted(set(b.videos)):
        only = sorted(set(a.videos) ^ set(b.videos))
        raise ValueError(
            f"{len(only)} videos are in only one of the two ({only[0]}, …); compare answers to the same "
            "questions"
        )
    if not videos:
        return {}
    weights = draws(len(videos), resamples, seed)
    found = _differences(a, b, protocol=protocol, videos=videos, weights=weights, seed=seed)
    if a.parsed_only:
        both = set(a.answered_videos()) & set(b.answered_videos())
        one, other = (side.of([video in both for video in side.videos]) for side in (a, b))
        again: dict[str, Difference] = {}
        if both:
            again = _differences(one, other, protocol=protocol, videos=videos, weights=weights, seed=seed)
        for name in a.parsed_only:
            found.pop(name, None)
            if name in again:
                found[name] = replace(again[name], over=len(both))
    return found


def _differences(
    a: Sums, b: Sums, protocol: str, videos: list[str], weights: np.ndarray, seed: int
) -> dict[str, Difference]:
    first, second = (_resampled(one, protocol, videos=videos, weights=weights, seed=seed) for one in (a, b))
    before, after = a.metrics(protocol), b.metrics(protocol)
    fewest = min(1.0, 2.0 ** (1 - _different_videos(a, b, protocol, videos)))
    found = {}
    for name in first:
        if name not in second or before[name] is None or after[name] is None:
            continue
        value, differences = after[name] - before[name], second[name] - first[name]
        differences = differences[~np.isnan(differences)]
        if len(differences):
            found[name] = _difference(value, differences, fewest)
    return found


def _different_videos(a: Sums, b: Sums, protocol: str, videos: list[str]) -> int:
    """On how many videos the two have other totals, over all their runs."""
    different = np.zeros(len(videos), dtype=bool)
    for name in a.columns.keys() & b.columns.keys():
        one, other = (
            np.mean([side.by_video(protocol, videos, run)[name] for run in range(side.num_runs)], axis=0)
            for side in (a, b)
        )
        different |= np.abs(one - other) > 1e-12
    return int(different.sum())


def paired_mean(pairs: Sequence[tuple[Sums, Sums, str]], seed: int = SEED) -> Difference:
    """b minus a in the mean over tasks, each (a, b, the figure that counts), strict; a resample draws the
    same videos for all of them.

    Raises ValueError for no questions, or where a figure is None.
    """
    videos = sorted({video for a, b, _ in pairs for side in (a, b) for video in side.videos})
    if not videos:
        raise ValueError("expected some questions to compare two models by")
    weights = draws(len(videos), PAIRED_RESAMPLES, seed)
    values, drawn = [], []
    for a, b, figure in pairs:
        before, after = a.metrics()[figure], b.metrics()[figure]
        if before is None or after is None:
            raise ValueError(f"{figure} cannot be computed of these answers")
        values.append(after - before)
        first, second = (
            _resampled(side, "strict", videos=videos, weights=weights, seed=seed)[figure] for side in (a, b)
        )
        drawn.append(second - first)
    fewest = min(2.0 ** (1 - _different_videos(a, b, "strict", videos)) for a, b, _ in pairs)
    differences = np.mean(drawn, axis=0)
    differences = differences[~np.isnan(differences)]  # a resample may hold no video of some task
    if not len(differences):
        raise ValueError("no resample holds videos of all tasks; expected more of them")
    return _difference(float(np.mean(values)), differences, min(1.0, fewest))


def _difference(value: float, differences: np.ndarray, fewest: float) -> Difference:
    """The figure's difference, and what its resamples say of it. fewest: the smallest p that can be shown."""
    tail = min(np.count_nonzero(differences <= 1e-12), np.count_nonzero(differences >= -1e-12))
    spread = float(differences.std())
    p = float(min(1.0, 2 * (1 + tail) / (1 + len(differences))))
    return Difference(
        value,
        *_tails(differences),
        p=max(p, fewest),
        at_floor=bool(tail == 0 and p >= fewest),
        detectable=POWER_Z * spread if spread > 1e-12 else None,
    )


def corrected(family: list[Difference]) -> list[Difference]:
    """The same differences with p_holm: Holm's correction (1979) for as many tests as the family holds."""
    order = sorted(range(len(family)), key=lambda at: family[at].p)
    highest, adjusted = 0.0, [0.0] * len(family)
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, (len(family) - rank) * family[at].p))
        adjusted[at] = highest
    return [replace(one, p_holm=p) for one, p in zip(family, adjusted, strict=True)]
