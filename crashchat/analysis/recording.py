"""A long recording, looked at window by window: several at once, the next ones read meanwhile."""

import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

from pydantic import ValidationError

from crashchat.analysis.again import ask_again
from crashchat.analysis.first_pass import FirstPass
from crashchat.analysis.reading import read_ahead
from crashchat.analysis.results import Window
from crashchat.analysis.watched import Watched
from crashchat.analysis.windows import failed_window, window_of
from crashchat.answering.answerer import in_batches, tokens_at_once
from crashchat.answering.engines import VideoContext
from crashchat.answering.outputs import CascadeOutput
from crashchat.data.journals import PredictionJournal
from crashchat.data.predictions import PredictionError
from crashchat.errors import opening
from crashchat.video.decode import read_clip
from crashchat.video.film_strip import STRIP_FRAMES, film_strip
from crashchat.video.measures import brightness_of
from crashchat.video.source import Source, VideoError
from crashchat.video.tokens import VisualTokens

AT_A_TIME = 64  # windows that a first pass goes ahead of what is looked at: a killed run has findings
Progress = Callable[[float, str], None]  # called with the share that is done and what comes next


def found(output: CascadeOutput, span: tuple[float, float], visual: VisualTokens) -> Window:
    """What was said of a window, and how bright it is."""
    window = window_of(output, span)
    window.brightness = round(brightness_of(visual.pixel_values), 4)
    return window


def look_at_windows(
    clip: Watched,
    spans: list[tuple[float, float]],
    journal: PredictionJournal | None,
    progress: Progress,
) -> list[Window]:
    """The windows' findings, several looked at together; those that the journal holds are not made again.

    A window that cannot be read fails alone.
    """
    first_pass = clip.windows.first_pass and FirstPass(clip, clip.windows.first_pass)
    done = _kept_windows(journal) if journal else {}
    left = [number for number in range(len(spans)) if number not in done]
    part = AT_A_TIME if first_pass else len(spans)
    for numbers in (left[at : at + part] for at in range(0, len(left), part)):
        passed: dict[int, Window] = {}
        if first_pass:
            _tell(progress, numbers[0], len(spans), "first pass")
            passed = first_pass.pass_over({number: spans[number] for number in numbers})
        rest = [number for number in numbers if number not in passed]
        settings = clip.cascade.answerer.settings
        windows = read_ahead(clip.path, clip.source, spans=spans, numbers=rest, settings=settings)
        looked_at = _findings(clip, windows, spans, progress)
        for number, window in chain(passed.items(), looked_at):
            done[number] = window
            if journal:
                journal.append({"data_id": number, "window": window.as_json()})
    return [done[number] for number in range(len(spans))]


def _findings(
    clip: Watched,
    windows: Iterable[tuple[int, VisualTokens | VideoError]],
    spans: list[tuple[float, float]],
    progress: Progress,
) -> Iterator[tuple[int, Window]]:
    """What was said of windows that were read, by their numbers."""
    for together in in_batches(windows, tokens_at_once(clip.cascade.answerer.device)):
        readable = {number: visual for number, visual in together if isinstance(visual, VisualTokens)}
        outputs: dict[int, CascadeOutput] = {}
        if readable:
            context = VideoContext(list(readable.values()))
            tell = partial(_tell, progress, min(readable), len(spans))
            said = clip.cascade.run(context, tell, clip.known)
            said = ask_again(clip, context, said, [spans[number] for number in readable])
            outputs = dict(zip(readable, said, strict=True))
        for number, visual in together:
            if isinstance(visual, VideoError):
                yield number, failed_window(spans[number], visual.cause)
            else:
                yield number, found(outputs[number], spans[number], visual)


def _kept_windows(journal: PredictionJournal) -> dict[int, Window]:
    """The windows that a journal holds, by their numbers. Raises PredictionError for one that is none."""
    try:
        return {record["data_id"]: Window.model_validate(record["window"]) for record in journal.records}
    except (KeyError, ValidationError) as error:
        raise PredictionError(
            f"{journal.path}: holds what is no window ({opening(error)}); delete it to start over"
        ) from error


def _tell(progress: Progress, number: int, count: int, step: str) -> None:
    progress(number / count, f"window {number + 1} of {count}: {step}")


def strip_of(path: Path, source: Source, span: tuple[float, float]) -> bytes | None:
    """The film strip of a stretch of a recording, a JPEG; None, with a warning, where it cannot be drawn."""
    rate = 2 * STRIP_FRAMES / (span[1] - span[0])
    try:
        return film_strip(
            read_clip(path, rate, 2 * STRIP_FRAMES + 1, threads=0, source=source, span=span).frames
        )
    except VideoError as error:
        print(f"warning: no film strip: {error}", file=sys.stderr)
        return None
