"""Clips analyzed by many processes: on a Ray cluster (fleet.py), or on one machine under torchrun.

Results, their order and their content are those of one process; only how long each took is its own. With Ray
the process that was started writes all results; the others need the videos under the same paths, and `out`
too for the windows of recordings.
"""

import argparse
import traceback
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch.distributed as dist

from crashchat.analysis.clip import Analysis, analyze_clip, as_text, blank_result, size_on_disk
from crashchat.analysis.contexts import Known, contexts_of
from crashchat.analysis.options import cascade_of
from crashchat.analysis.reading import Reading, read_before
from crashchat.analysis.result_files import finished, journal_path, kept, name_clips
from crashchat.analysis.results import ClipResult
from crashchat.analysis.windows import WindowSettings
from crashchat.answering.cascade import Cascade
from crashchat.fleet import Fleet, Lost
from crashchat.processes import Claims, join_processes, rank
from crashchat.tasks import TASKS, TaskSet, read_task_set, use
from crashchat.video.tokens import VideoSettings

Clip = tuple[str, Path]  # its name and where it lies


class ClipReader:
    """Reads clips, in a process of its own."""

    def __init__(self, settings: VideoSettings, windows: WindowSettings):
        self.settings, self.windows = settings, windows

    def read(self, clip: Clip) -> tuple[int, Reading | None]:
        """(1, the clip as it was read); None for who answers to try, and to name what is wrong."""
        try:
            return 1, read_before(clip[1], self.settings, self.windows)
        except Exception:  # as analyze_clip, which meets the same
            traceback.print_exc()
            return 1, None


class ClipAnswerer:
    """Looks at clips that were read, in a process of its own. The model is loaded when it is first needed.

    arguments: the command line's. out: where recordings' windows are kept. asking: the task set's file, and
    what is known of clips, by their files' names.
    """

    def __init__(
        self, arguments: argparse.Namespace, out: Path | None, asking: tuple[Path, dict[str, Known]]
    ):
        task_set, self.contexts = asking
        use(TaskSet(task_set))
        self.arguments, self.out = arguments, out
        self._loaded: tuple[Cascade, WindowSettings] | None = None

    def _model(self) -> tuple[Cascade, WindowSettings]:
        self._loaded = self._loaded or cascade_of(self.arguments)
        return self._loaded

    def describe(self) -> tuple[ClipResult, VideoSettings, WindowSettings]:
        """(what every result holds, how clips are read, how recordings are cut)"""
        cascade, windows = self._model()
        return blank_result("clip", Path("clip"), cascade, windows), cascade.answerer.settings, windows

    def answer(self, clips: list[Clip], reading: Reading | None) -> list[Analysis]:
        """The analysis of the one clip."""
        ((name, path),) = clips
        cascade, windows = self._model()
        analysis = analyze_clip(
            cascade,
            path,
            windows,
            name=name,
            journal=journal_path(self.out, name) if self.out else None,
            draw=self.out is not None,
            reading=reading,
            known=self.contexts.get(path.name, {}),
        )
        analysis.context = None  # its tensors are nobody's any more
        return [analysis]


def analyze_on_ray(
    arguments: argparse.Namespace,
    paths: list[Path],
    out: Path | None,
    *,
    tell: Callable[[ClipResult], None],
    begin: Callable[[], None],
) -> list[ClipResult]:
    """As analyze_clips, by the processes of the cluster that --ray names; a clip whose processes die fails
    alone.

    Raises FleetError, and what loading the model raises.
    """
    names = name_clips(paths)
    results: list[ClipResult | None] = [None] * len(paths)
    told = 0
    if arguments.task_set is None:
        use(read_task_set(None, arguments.linguistic, arguments.model))
    contexts = contexts_of(arguments.context, paths)
    with Fleet(arguments.ray) as fleet:
        answerers = fleet.open_answerers(ClipAnswerer, arguments, out, (TASKS.task_set.path, contexts))
        described, settings, windows = fleet.ask(answerers, "describe")
        begin()
        print(fleet)

        def blank(path: Path) -> ClipResult:
            own: dict = {"name": names[path], "path": as_text(path), "bytes": size_on_disk(path)}
            own["context"] = contexts.get(path.name, {})
            return described.model_copy(update=own, deep=True)

        left = []
        for number, path in enumerate(paths):
            results[number] = finished(out, blank(path)) if out and arguments.resume else None
            if results[number] is None:
                left.append(number)
                if out and not arguments.resume:
                    journal_path(out, names[path]).unlink(missing_ok=True)
        clips = [(names[paths[number]], paths[number]) for number in left]
        rounds = fleet.spread(clips, (ClipReader, settings, windows), answerers)
        while told < len(paths):
            if (result := results[told]) is not None:
                tell(result)
                told += 1
                continue
            (place,), answers = next(rounds)
            failed = blank(paths[left[place]])
            if isinstance(answers, Lost):
                analysis = Analysis(failed.model_copy(update={"error": str(answers)}))
            else:
                (analysis,) = answers
            results[left[place]] = kept(out, failed, partial(_made, analysis), resume=True)
    return [result for result in results if result is not None]


def _made(analysis: Analysis, journal: Path | None) -> Analysis:
    """An analysis that was made by another process, which kept the windows in the journal itself."""
    del journal
    return analysis


def share_clips(
    look: Callable[[Iterable[int]], dict[int, ClipResult]], count: int
) -> dict[int, ClipResult] | None:
    """{clip's number: result} of all clips, by the processes that torchrun started, each of which takes the
    next clip when it is done; None in all but the first.

    look: analyzes the clips whose numbers it is given, one after the other.
    """
    store = join_processes()
    own = look(Claims(count, store))
    if store is None:
        return own
    found: list[dict[int, ClipResult]] = [{} for _ in range(dist.get_world_size())]
    dist.gather_object(own, found if rank() == 0 else None)
    return {number: result for part in found for number, result in part.items()} if rank() == 0 else None
