"""Which split a reviewed clip belongs to: all clips of a recording to one."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection

from crashchat.provenance import file_hash
from crashchat.review.folder import Reviewed
from crashchat.review.labels import ReviewError
from crashchat.tasks import SPLITS

SHARES = (80.0, 10.0, 10.0)  # percent of the recordings, in the order of SPLITS
TEST = SPLITS[-1]


def recordings(clips: list[Reviewed], group: str | None = None) -> dict[str, str]:
    """{clip: the recording it is of}: what `group`, a regular expression, finds of its path (its first group,
    or all that it matches; the whole path where it finds nothing), and one for files with the same content.
    """
    try:
        pattern = re.compile(group) if group is not None else None
    except re.error as error:
        raise ReviewError(f"--group {group!r}: no regular expression ({error})") from error
    parents: dict[str, str] = {}

    def root(key: str) -> str:
        while parents.setdefault(key, key) != key:
            key = parents[key]
        return key

    keys = {}
    sizes: dict[int, list[Reviewed]] = defaultdict(list)
    for clip in clips:
        found = pattern.search(clip.result.path) if pattern else None
        keys[clip.name] = (
            root(found[found.re.groups and 1] or clip.result.path) if found else root(clip.result.path)
        )
        sizes[clip.video.stat().st_size].append(clip)
    for same in sizes.values():
        contents: dict[str, str] = {}
        for clip in same if len(same) > 1 else []:
            mine = root(keys[clip.name])
            other = root(contents.setdefault(file_hash(clip.video), mine))
            parents[max(mine, other)] = min(mine, other)
    return {name: root(key) for name, key in keys.items()}


def split_of(recording: str, shares: tuple[float, ...] = SHARES, seed: int = 0) -> str:
    """A recording's split, which depends on nothing else."""
    digest = hashlib.sha256(f"{seed}/{recording}".encode("utf-8", "surrogatepass")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64 * sum(shares)
    for split, share in zip(SPLITS, shares, strict=True):
        if place < share:
            return split
        place -= share
    return next(split for split, share in zip(SPLITS, shares, strict=True) if share)


def splits_of(
    clips: list[Reviewed],
    group: str | None,
    shares: tuple[float, ...] = SHARES,
    seed: int = 0,
    held_out: Collection[str] = (),
) -> dict[str, str]:
    """{clip: split}. held_out: clips that are the test split; then others of their recordings have no split,
    and all else goes to train and val. Raises ReviewError.
    """
    if held_out:
        shares = (*shares[:-1], 0.0)
    if len(shares) != len(SPLITS) or min(shares) < 0 or sum(shares) <= 0:
        raise ReviewError(f"--splits {shares}: expected the percent of {', '.join(SPLITS)}, 0 or more each")
    grouped = recordings(clips, group)
    held = {grouped[name] for name in held_out if name in grouped}
    splits = {
        name: split_of(recording, shares, seed)
        for name, recording in grouped.items()
        if recording not in held
    }
    return splits | {name: TEST for name in held_out if name in grouped}
