"""A long recording, looked at window by window: several at once, the next ones read meanwhile."""

import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from crashchat.analysis.results import Window
from crashchat.analysis.windows import failed_window, window_of
from crashchat.answering.answerer import MAX_VIDEOS, in_batches, tokens_at_once
from crashchat.answering.cascade import Cascade
from crashchat.answering.engines import VideoContext
from crashchat.answering.outputs import CascadeOutput
from crashchat.data.journals import PredictionJournal
from crashchat.data.predictions import PredictionError
from crashchat.errors import opening
from crashchat.video.decode import read_clip
from crashchat.video.film_strip import STRIP_FRAMES, film_strip
from crashchat.video.measures import brightness_of
from crashchat.video.reading import read_span
from crashchat.video.source import Source, VideoError
from crashchat.video.tokens import VideoSettings, VisualTokens

Progress = Callable[[float, str], None]  # called with the share that is done and what comes next


def found(output: CascadeOutput, span: tuple[float, float], visual: VisualTokens) -> Window:
    """What was said of a window, and how bright it is."""
    window = window_of(output, span)
    window.brightness = round(brightness_of(visual.pixel_values), 4)
    return window


def look_at_windows(
    cascade: Cascade,
    path: Path,
    source: Source,
    spans: list[tuple[float, float]],
    journal: PredictionJournal | None,
    progress: Progress,
    known: Mapping[str, str],
) -> list[Window]:
    """The windows' findings, several looked at together; those that the journal holds are not made again.

    A window that cannot be read fails alone.
    """
    done = _kept_windows(journal) if journal else {}
    left = [number for number in range(len(spans)) if number not in done]
    windows = _read_ahead(path, source, spans=spans, numbers=left, settings=cascade.answerer.settings)
    for together in in_batches(windows, tokens_at_once(cascade.answerer.device)):
        readable = {number: visual for number, visual in together if isinstance(visual, VisualTokens)}
        if readable:
            outputs = cascade.run(
                VideoContext(list(readable.values())),
                partial(_tell, progress, min(readable), len(spans)),
                known,
            )
            for number, output in zip(readable, outputs, strict=True):
                done[number] = found(output, spans[number], readable[number])
        for number, visual in together:
            if isinstance(visual, VideoError):
                done[number] = failed_window(spans[number], visual.cause)
            if journal:
                journal.append({"data_id": number, "window": done[number].as_json()})
    return [done[number] for number in range(len(spans))]


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


def _read_ahead(
    path: Path, source: Source, spans: list[tuple[float, float]], numbers: list[int], settings: VideoSettings
) -> Iterator[tuple[int, VisualTokens | VideoError]]:
    """Some of the windows, by their numbers; the next ones are read while the model looks at those before."""

    def read(number: int) -> VisualTokens | VideoError:
        try:
            return read_span(path, settings, spans[number], source)
        except VideoError as error:
            return error

    with ThreadPoolExecutor(1) as reader:
        waiting: deque[tuple[int, Future]] = deque()
        try:
            for number in numbers:
                waiting.append((number, reader.submit(read, number)))
                if len(waiting) > MAX_VIDEOS:
                    first, reading = waiting.popleft()
                    yield first, reading.result()
            for first, reading in waiting:
                yield first, reading.result()
        finally:
            reader.shutdown(cancel_futures=True)


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
