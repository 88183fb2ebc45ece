"""How far a figure could be off: bootstrap over videos (Efron 1979; paired as in Koehn 2004).

A resample draws as many videos as there are, with repetition, and takes all questions on each: answers on one
video stand and fall together. As every figure is a function of column totals (sums.py), all resamples are one
matrix product.
"""

from dataclasses import dataclass

import numpy as np

from crashchat.metrics.sums import Sums, Totals

RESAMPLES, SEED = 1000, 0
TAILS = (0.025, 0.975)  # of a 95% interval

Interval = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """b minus a in one figure: value, its 95% interval, and the two-sided p-value of there being none."""

    value: float
    low: float
    high: float
    p: float


def draws(videos: int, resamples: int = RESAMPLES, seed: int = SEED) -> np.ndarray:
    """float64[resamples, videos]: how often each resample holds each video."""
    return (
        np.random.default_rng(seed)
        .multinomial(videos, np.full(videos, 1 / videos), size=resamples)
        .astype(float)
    )


def _resampled(sums: Sums, protocol: str, videos: list[str], weights: np.ndarray) -> dict[str, np.ndarray]:
    """{figure: float64[resamples]}."""
    totals = sums.by_video(protocol, videos)
    product = weights @ np.stack(list(totals.values()), axis=1)
    # A total of whole numbers is one; rounding noise in the product must not make a 0 of it into a division
    # by 1e-16.
    columns: Totals = {name: product[:, at].round(9) for at, name in enumerate(totals)}
    return sums.figures(columns)


def intervals(
    sums: Sums, protocol: str = "strict", resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Interval]:
    """{figure: (low, high)}, 95% percentile intervals; a figure that is None,
    or without any valid resample, has none.
    """
    videos = sorted(set(sums.videos))
    if not videos:
        return {}
    values = _resampled(sums, protocol, videos, draws(len(videos), resamples, seed))
    return {name: _tails(column) for name, column in values.items() if not np.isnan(column).all()}


def _tails(values: np.ndarray) -> Interval:
    low, high = np.nanquantile(values, TAILS)
    return float(low), float(high)


def paired(
    a: Sums, b: Sums, protocol: str = "strict", resamples: int = RESAMPLES, seed: int = SEED
) -> dict[str, Difference]:
    """{figure: b - a} of two models on the same videos, each resample drawing the same videos for both.

    p: twice the share of resamples on the other side of 0 (one added, so that it is never 0): below 0.05
    where the interval leaves 0 out. A figure that either lacks has no entry.
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
    first, second = (_resampled(sums, protocol, videos, weights) for sums in (a, b))
    before, after = a.metrics(protocol), b.metrics(protocol)
    found = {}
    for name in first.keys() & second.keys():
        if before[name] is None or after[name] is None:
            continue
        value, differences = after[name] - before[name], second[name] - first[name]
        differences = differences[~np.isnan(differences)]
        if len(differences):
            tail = min(np.count_nonzero(differences <= 1e-12), np.count_nonzero(differences >= -1e-12))
            p = min(1.0, 2 * (1 + tail) / (1 + len(differences)))
            found[name] = Difference(value, *_tails(differences), p)
    return {name: found[name] for name in first if name in found}
