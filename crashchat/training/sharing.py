"""How the processes of a run share a step's questions: by whole videos, since a video costs its prefix.

A prefix is some 9,000 tokens and a question 130, so a process with two videos works twice as long as one with
one, and the step waits for it. On the annotations of the paper a step of 24 questions is on 5.2 videos; cut
by number among eight processes, the slowest of them would run 1.94 prefixes, shared by whole videos one.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

QUESTION = 0.015  # what a question costs, in prefixes
Video = TypeVar("Video", bound=Hashable)


def share_questions(numbers: Sequence[int], video_of: Mapping[int, Video], processes: int) -> list[list[int]]:
    """A step's question numbers -> those of each process, in the step's order.

    Whole videos, those with most questions first, each to the process with least to do. Where there are fewer
    videos than processes, those with most questions are split, so that nobody is idle. Raises ValueError for
    fewer questions than processes.
    """
    if len(numbers) < processes:
        raise ValueError(f"{len(numbers)} questions cannot be shared by {processes} processes")
    if processes == 1:
        return [list(numbers)]
    groups: dict[Video, list[int]] = {}
    for number in numbers:
        groups.setdefault(video_of[number], []).append(number)
    parts = list(groups.values())
    while len(parts) < processes:
        largest = max(parts, key=len)
        parts.remove(largest)
        middle = (len(largest) + 1) // 2
        parts += [largest[:middle], largest[middle:]]
    shares: list[list[int]] = [[] for _ in range(processes)]
    load = [0.0] * processes
    for part in sorted(parts, key=len, reverse=True):
        least = load.index(min(load))
        shares[least] += part
        load[least] += 1 + QUESTION * len(part)
    place = {number: index for index, number in enumerate(numbers)}
    return [sorted(share, key=place.__getitem__) for share in shares]
