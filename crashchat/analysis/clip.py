"""One clip through the cascade (cascade.py), a long recording window by window (windows.py),
and what the result says of it.
"""

import contextlib
import os
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import interpolate, pad

from crashchat.analysis.likeness import unlike_training
from crashchat.analysis.results import FAILED, ClipResult, ModelIdentity, Sampling, Window
from crashchat.analysis.windows import WindowSettings, failed_window, find_events, plan, status_of, window_of
from crashchat.answering.answerer import MAX_VIDEOS, in_batches, tokens_at_once
from crashchat.answering.cascade import Cascade
from crashchat.answering.engines import VideoContext
from crashchat.answering.outputs import CascadeOutput
from crashchat.checkpoints.model_card import warnings_of
from crashchat.data.journals import PredictionJournal
from crashchat.data.predictions import PredictionError
from crashchat.errors import opening
from crashchat.provenance import versions
from crashchat.video.decode import REMEDY, Clip, read_clip
from crashchat.video.film_strip import STRIP_FRAMES, STRIP_HEIGHT, film_strip
from crashchat.video.measures import brightness_of
from crashchat.video.reading import read_span
from crashchat.video.source import Source, VideoError, probe
from crashchat.video.tokens import VideoSettings, VisualTokens, resize_frames, tokens_of_clip

MEBIBYTE = 2**20

Progress = Callable[[float, str], None]  # called with the share that is done and what comes next


@dataclass
class Analysis:
    """What came out for one clip.

    strips: a JPEG for the clip, or for each event of a recording; None where it could not
    be drawn. context: the clip as the model has it, where it was not cut into windows; for further questions.
    """

    result: ClipResult
    strips: list[bytes | None] = field(default_factory=list)
    context: VideoContext | None = None


def window_settings(
    cascade: Cascade, length: float | None = None, stride: float | None = None, **others
) -> WindowSettings:
    """Windows as long as the model's frames reach at its full rate, half a window apart,
    where nothing else is said.
    """
    length = (
        cascade.answerer.settings.max_frames / cascade.answerer.settings.fps if length is None else length
    )
    return WindowSettings(length, length / 2 if stride is None else stride, **others)


def _sampling(cascade: Cascade, windows: WindowSettings) -> Sampling:
    answerer = cascade.answerer
    return Sampling(
        fps=answerer.settings.fps,
        max_frames=answerer.settings.max_frames,
        token_compression=answerer.settings.token_compression,
        vision=asdict(answerer.settings.vision),
        windows=asdict(windows),
        decode=answerer.decode,
        max_new_tokens=answerer.max_new_tokens,
    )


def as_text(path: str | Path) -> str:
    """A path, or a message with one in it, as text that can be written:
    bytes that are no UTF-8 are replaced.
    """
    return os.fsencode(path).decode("utf-8", "replace")


def size_on_disk(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        return os.path.getsize(path) if os.path.isfile(path) else None
    except OSError:
        return None  # removed just now: reading will say what is wrong


def blank_result(
    name: str,
    path: Path,
    cascade: Cascade,
    windows: WindowSettings,
    known: Mapping[str, str] = MappingProxyType({}),
) -> ClipResult:
    """What a result holds before anything is found. known: see analyze_clip."""
    return ClipResult(
        name=name,
        path=as_text(path),
        bytes=size_on_disk(path),
        context=dict(known),
        warnings=warnings_of(cascade.cards.values()),
        model=ModelIdentity.model_validate(cascade.identity),
        sampling=_sampling(cascade, windows),
        versions=versions(),
    )


@dataclass
class Reading:
    """A clip that was read before the model is free for it.

    shown: what read_and_show gives; None of a recording, which is read window by window. error: why it
    cannot be read.
    """

    source: Source | None = None
    shown: tuple[VisualTokens, Tensor] | None = None
    error: VideoError | None = None


def read_before(path: Path, settings: VideoSettings, windows: WindowSettings) -> Reading:
    """Read a clip; never raises a VideoError."""
    reading = Reading()
    try:
        reading.source = probe(path)
        if len(_spans(reading.source, windows)) == 1:
            reading.shown = read_and_show(path, settings, reading.source)
    except VideoError as error:
        reading.error = error
    return reading


def _spans(source: Source, windows: WindowSettings) -> list[tuple[float, float]]:
    """The windows of a clip; one where it is not cut."""
    seconds = _seconds(source)
    frames = source.timeline.pts if source.timeline else []
    return [(0.0, 0.0)] if seconds is None else plan(round(seconds, 3), windows, frames)


def _seconds(source: Source) -> float | None:
    return source.timeline.end if source.timeline else source.promised_seconds


def analyze_clip(
    cascade: Cascade,
    path: Path,
    windows: WindowSettings,
    name: str | None = None,
    journal: Path | None = None,
    progress: Progress = lambda share, step: None,
    draw: bool = True,
    max_seconds: float | None = None,
    reading: Reading | None = None,
    known: Mapping[str, str] = MappingProxyType({}),
) -> Analysis:
    """Look at one clip, or at a recording window by window; only a few windows are in memory at a time.

    journal: windows that are done are kept there as they are made, and taken from there. draw: whether to
    draw film strips. reading: what read_before gave, where the clip was read already.
    known: what is told of the clip with the questions, {column of the task set's context: its value}.
    Never raises: status `failed` and `error` tell of a clip that cannot be read, of a journal that cannot be
    written or is of another run, and an unexpected fault is printed with its trace besides. A clip longer
    than max_seconds fails.
    """
    started = time.monotonic()
    result = blank_result(name or as_text(path.stem), path, cascade, windows, known=known)
    analysis = Analysis(result)
    try:
        progress(0.0, "reading the file")
        if reading and reading.error:
            raise reading.error
        source = reading.source if reading and reading.source else probe(path)
        seconds = _seconds(source)
        if seconds is not None and max_seconds is not None and seconds > max_seconds:
            raise VideoError(path, f"lasts {seconds:.0f} s, the limit is {max_seconds:.0f} s")
        if source.timeline is None and (max_seconds is not None or (seconds or 0) > windows.whole_up_to):
            raise VideoError(path, f"its frames carry no times; {REMEDY}")
        spans = _spans(source, windows)
        if seconds is not None and len(spans) > 1:
            result.seconds = round(seconds, 3)
            own = {"path", "bytes", "model", "sampling", *(["context"] if known else [])}
            settings = result.model_dump(mode="json", include=own)
            with PredictionJournal(journal, settings) if journal else contextlib.nullcontext() as kept:
                result.windows = _look_at_windows(
                    cascade, path, source=source, spans=spans, journal=kept, progress=progress, known=known
                )
        else:
            shown = reading.shown if reading else None
            visual, pictures = shown or read_and_show(path, cascade.answerer.settings, source)
            result.seconds = round(seconds or cascade.answerer.settings.end_of(visual), 3)
            analysis.context = VideoContext([visual])
            (output,) = cascade.run(analysis.context, lambda step: progress(0.1, step), known)
            result.windows = [_found(output, (0.0, result.seconds), visual)]
            analysis.strips = [film_strip(pictures)] if draw else []
        result.unlike_training = unlike_training(source, result.windows, cascade.cards)
        result.status = status_of(result.windows)
        if result.status == FAILED:
            result.error = result.windows[0].error
        likely = [
            window.crash_probability for window in result.windows if window.crash_probability is not None
        ]
        result.crash_probability = max(likely, default=None)
        result.events = find_events(result.windows, result.seconds, windows)
        if draw and len(result.windows) > 1:
            progress(1.0, "drawing")
            analysis.strips = [_strip_of(path, source, event.shown) for event in result.events]
    except VideoError as error:
        result.error = error.cause
    except PredictionError as error:
        result.error = as_text(str(error))
    except OSError as error:  # of the video they are VideoErrors
        result.error = as_text(f"{error.filename or journal}: can't be read or written ({error.strerror})")
    except Exception as error:
        # A clip that trips something unforeseen must not end the run of a folder or the server; its result
        # says so, and the traceback is printed here.
        traceback.print_exc()
        result.error = as_text(f"{type(error).__name__}: {error}")
    if result.error is not None:
        result.status, result.events = FAILED, []
    result.took_seconds = round(time.monotonic() - started, 3)
    return analysis


def _found(output: CascadeOutput, span: tuple[float, float], visual: VisualTokens) -> Window:
    window = window_of(output, span)
    window.brightness = round(brightness_of(visual.pixel_values), 4)
    return window


def read_and_show(path: Path, settings: VideoSettings, source: Source) -> tuple[VisualTokens, Tensor]:
    """A clip as the model takes it in, and its frames as uint8[T, 3, STRIP_HEIGHT, ·] to show to people.

    Frames are decoded once and never held in full size: each is resized twice as it comes, and the one result
    travels below the other in a common picture. Raises VideoError.
    """
    sizes: dict[str, tuple[int, int]] = {}

    def resize(frames: Tensor, num_frames: int) -> Tensor:
        model = resize_frames(frames, num_frames, settings.vision)
        width = max(1, round(frames.shape[3] * STRIP_HEIGHT / frames.shape[2]))
        shown = interpolate(frames, size=(STRIP_HEIGHT, width), mode="bilinear", antialias=True)
        for name, part in (("model", model), ("shown", shown)):
            sizes[name] = (part.shape[2], part.shape[3])
        widest = max(model.shape[3], width)
        return torch.cat([pad(part, (0, widest - part.shape[3])) for part in (model, shown)], dim=2)

    clip = read_clip(path, settings.fps, settings.max_frames, threads=0, resize=resize, source=source)
    (height, width), (_, shown_width) = sizes["model"], sizes["shown"]
    visual = tokens_of_clip(Clip(clip.path, clip.frames[:, :, :height, :width], clip.seconds), settings)
    return visual, clip.frames[:, :, height:, :shown_width]


def _look_at_windows(
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
                done[number] = _found(output, spans[number], readable[number])
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


def _strip_of(path: Path, source: Source, span: tuple[float, float]) -> bytes | None:
    rate = 2 * STRIP_FRAMES / (span[1] - span[0])
    try:
        return film_strip(
            read_clip(path, rate, 2 * STRIP_FRAMES + 1, threads=0, source=source, span=span).frames
        )
    except VideoError as error:
        print(f"warning: no film strip: {error}", file=sys.stderr)
        return None
