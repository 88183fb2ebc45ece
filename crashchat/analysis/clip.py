"""One clip through the cascade (cascade.py), a long recording window by window (recording.py),
and what the result says of it.
"""

import contextlib
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType

from crashchat.analysis.again import ask_again
from crashchat.analysis.likeness import unlike_training
from crashchat.analysis.reading import Reading, read_and_show, seconds_of, spans_of
from crashchat.analysis.recording import Progress, found, look_at_windows, strip_of
from crashchat.analysis.results import FAILED, ClipResult, ModelIdentity, Sampling
from crashchat.analysis.watched import Watched
from crashchat.analysis.windows import WindowSettings, find_events, status_of
from crashchat.answering.cascade import Cascade
from crashchat.answering.engines import VideoContext
from crashchat.checkpoints.model_card import warnings_of
from crashchat.data.journals import PredictionJournal
from crashchat.data.predictions import PredictionError
from crashchat.provenance import versions
from crashchat.video.decode import REMEDY
from crashchat.video.film_strip import film_strip
from crashchat.video.source import VideoError, probe

MEBIBYTE = 2**20


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
    answerer, cut = cascade.answerer, asdict(windows)
    return Sampling(
        first_pass=cut.pop("first_pass"),
        around=cut.pop("around"),
        heads=heads.sha256 if (heads := cut.pop("heads")) else None,
        fps=answerer.settings.fps,
        max_frames=answerer.settings.max_frames,
        token_compression=answerer.settings.token_compression,
        vision=asdict(answerer.settings.vision),
        windows=cut,
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
        seconds = seconds_of(source)
        if seconds is not None and max_seconds is not None and seconds > max_seconds:
            raise VideoError(path, f"lasts {seconds:.0f} s, the limit is {max_seconds:.0f} s")
        if source.timeline is None and (max_seconds is not None or (seconds or 0) > windows.whole_up_to):
            raise VideoError(path, f"its frames carry no times; {REMEDY}")
        spans, clip = spans_of(source, windows), Watched(cascade, path, source, windows=windows, known=known)
        if seconds is not None and len(spans) > 1:
            result.seconds = round(seconds, 3)
            own = {"path", "bytes", "model", "sampling", *(["context"] if known else [])}
            settings = result.model_dump(mode="json", include=own)
            with PredictionJournal(journal, settings) if journal else contextlib.nullcontext() as kept:
                result.windows = look_at_windows(clip, spans, kept, progress)
        else:
            shown = reading.shown if reading else None
            visual, pictures = shown or read_and_show(path, cascade.answerer.settings, source)
            result.seconds = round(seconds or cascade.answerer.settings.end_of(visual), 3)
            analysis.context = VideoContext([visual])
            said = cascade.run(analysis.context, lambda step: progress(0.1, step), known)
            (output,) = ask_again(clip, analysis.context, said, [(0.0, result.seconds)])
            result.windows = [found(output, (0.0, result.seconds), visual)]
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
            analysis.strips = [strip_of(path, source, event.shown) for event in result.events]
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
