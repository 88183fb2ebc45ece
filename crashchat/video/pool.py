"""One look at each of many video files, in processes side by side."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from threading import Thread
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
    # The processes begin as copies of one that has imported what they need, which takes longer than a look.
    context = get_context("forkserver")
    context.set_forkserver_preload(["crashchat.video.decode", look.__module__])
    results: list[Seen | VideoError] = []
    alone = False  # after a crash, the first file without a result is tried by itself
    with tqdm(total=len(paths), desc=title, unit="video") as progress:
        while len(results) < len(paths):
            batch = paths[len(results) :][: 1 if alone else None]
            try:
                with ProcessPoolExecutor(min(workers, len(batch)), context, _end_with_parent) as pool:
                    for result in pool.map(partial(_looked, look), batch):
                        results.append(result)
                        progress.update()
                alone = False
            except BrokenProcessPool:
                if alone:
                    results.append(VideoError(batch[0], "the process that decodes it crashed"))
                alone = not alone
    return results


def _end_with_parent() -> None:
    """Have this process end when the one that began the pool does. Where that is killed, it would wait for
    work for ever.
    """
    parent = parent_process()
    assert parent is not None, "a process of a pool"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def _looked(look: Callable[[Path], Seen], path: Path) -> Seen | VideoError:
    try:
        return look(path)
    except VideoError as error:
        return error
