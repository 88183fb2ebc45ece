"""Feature caches of small made-up entries, and a process that uses one at random."""

from pathlib import Path

import torch

from crashchat.video.feature_cache import FeatureCache
from crashchat.video.tokens import VisualTokens

ENTRY = 20_000  # bytes of an entry, about


def small_cache(folder: Path, entries: float) -> FeatureCache:
    """A cache with room for so many entries."""
    torch.manual_seed(0)
    return FeatureCache(folder, entries * ENTRY / 1e9, torch.nn.Linear(2, 2), {})


def entry(number: int) -> tuple[str, VisualTokens, torch.Tensor]:
    """(key, video, its features), all numbers of which are `number`."""
    visual = VisualTokens(
        pixel_values=torch.empty(0, 588, dtype=torch.uint8),
        grid_thw=torch.tensor([[2, 10, 10]]),
        merge_sizes=torch.tensor([2]),
        compression_mask=torch.arange(50) < 48,
        seconds=[0.1 * number, 0.3],
    )
    return f"{number:040x}"[::-1], visual, torch.full((48, 100), float(number))


def store(cache: FeatureCache, number: int) -> None:
    cache.store(*entry(number))


def holds(cache: FeatureCache, number: int) -> bool:
    """Whether the cache has an entry; it must then be the right one."""
    key, visual, features = entry(number)
    found = cache.load(key)
    if found is None:
        return False
    assert torch.equal(found.features, features) and found.seconds == visual.seconds
    assert torch.equal(found.grid_thw, visual.grid_thw) and torch.equal(
        found.compression_mask, visual.compression_mask
    )
    return True


def total(folder: Path) -> int:
    """Bytes of all entries."""
    sizes = 0
    for path in folder.glob("??/*"):
        try:
            sizes += path.stat().st_size
        except FileNotFoundError:
            pass  # removed meanwhile
    return sizes


def hammer(folder: Path, seed: int, hits) -> None:
    """Look for 150 entries, and store those that are not there; `hits` counts those that are."""
    cache = small_cache(folder, 8)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(150):
        number = int(torch.randint(0, 20, (1,), generator=generator))
        if holds(cache, number):
            hits.value += 1
        else:
            store(cache, number)
