"""One look at each of many video files, in processes side by side."""

from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from crashchat.video.source import VideoError

Seen = TypeVar("Seen")


def each_video(
    look: Callable[[Path], Seen], paths: Sequence[Path], workers: int, title: str
) -> list[Seen | VideoError]:
    """`look` of each path in order, in `workers` processes, with a progress bar; the VideoError it raised,
    where it did.

    look: a function of a module, which another process can import. A file that kills the process that
    decodes it has a VideoError too.
    """
    results: list[Seen | VideoError] = []
    alone = False  # after a crash, the first file without a result is tried by itself
    with tqdm(total=len(paths), desc=title, unit="video") as progress:
        while len(results) < len(paths):
            batch = paths[len(results) :][: 1 if alone else None]
            try:
                with ProcessPoolExecutor(min(workers, len(batch)), mp_context=get_context("spawn")) as pool:
                    for result in pool.map(partial(_looked, look), batch):
                        results.append(result)
                        progress.update()
                alone = False
            except BrokenProcessPool:
                if alone:
                    results.append(VideoError(batch[0], "the process that decodes it crashed"))
                alone = not alone
    return results


def _looked(look: Callable[[Path], Seen], path: Path) -> Seen | VideoError:
    try:
        return look(path)
    except VideoError as error:
        return error
