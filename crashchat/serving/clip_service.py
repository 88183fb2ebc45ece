"""What `crashchat serve` does with clips: takes them in, has them looked at,
keeps what pages have open; no HTTP here.
"""

import secrets
import shutil
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from crashchat.analysis.clip import MEBIBYTE, Analysis, analyze_clip
from crashchat.analysis.contexts import NOTHING, Known
from crashchat.analysis.options import VIDEO_SUFFIXES
from crashchat.analysis.recording import Progress
from crashchat.analysis.results import ClipResult
from crashchat.analysis.windows import WindowSettings
from crashchat.answering.cascade import Cascade
from crashchat.answering.engines import VideoContext
from crashchat.serving.jobs import Jobs, JobState
from crashchat.video.playable import is_playable, write_playable
from crashchat.video.reading import read_span
from crashchat.video.source import probe


class Busy(Exception):
    """More clips are waiting than the queue holds."""


@dataclass(frozen=True)
class Limits:
    """What the server takes in.

    max_bytes, max_seconds: of an upload. queue: clips and questions waiting or in work. kept: clips open in
    pages.
    connections: open at once. header_seconds: from a request's first byte to its body. body_seconds,
    body_rate: how long a body may be waited for, so many seconds and one more for each so many bytes that
    came.
    """

    max_bytes: int = 512 * MEBIBYTE
    max_seconds: float = 600.0
    queue: int = 16
    kept: int = 8
    connections: int = 256
    header_seconds: float = 20.0
    body_seconds: float = 30.0
    body_rate: int = 16 * 1024


class Gone(Exception):
    """Somebody names an upload that is not here."""


MESSAGES = 200  # of a clip's chat that are kept


@dataclass
class OpenClip:
    """A clip that a page has open.

    said: who and what, question and answer in turn; the page is sent it, and never asked for it.
    """

    token: str
    path: Path
    analysis: Analysis
    said: deque[tuple[str, str]] = field(default_factory=lambda: deque(maxlen=MESSAGES))


class ClipService:
    """Takes clips in, has them looked at, keeps what pages have open. Threads share it.

    folder: private; everything in it is the server's own.
    """

    def __init__(self, cascade: Cascade, windows: WindowSettings, folder: Path, limits: Limits):
        self.cascade, self.windows, self.folder, self.limits = cascade, windows, folder, limits
        self._inside = 0
        self._lock = threading.Lock()
        self._open: OrderedDict[str, OpenClip] = OrderedDict()
        # {file: folder} of each upload that no page has claimed.
        self._waiting: OrderedDict[str, Path] = OrderedDict()
        self._copying = threading.Lock()
        self.jobs, self.draining = Jobs(8 * limits.queue), False
        self.told: Callable[[], bytes] = lambda: b""  # what /metrics says

    @property
    def inside(self) -> int:
        """Clips and questions waiting or in work."""
        return self._inside

    @contextmanager
    def slot(self) -> Iterator[None]:
        """A place in the queue; the model itself takes one clip at a time. Raises Busy where none is left."""
        self._take_slot()
        try:
            yield
        finally:
            self._give_slot()

    def _take_slot(self) -> None:
        with self._lock:
            if self.draining:
                raise Busy("the server is being stopped; ask another, or try again later")
            if self._inside >= self.limits.queue:
                raise Busy(f"{self._inside} clips are waiting already; try again later")
            self._inside += 1

    def _give_slot(self) -> None:
        with self._lock:
            self._inside -= 1

    def start_job(self, path: Path, name: str, known: Known = NOTHING) -> JobState:
        """Have an upload looked at while nobody waits; its file is deleted afterwards. Raises Busy."""
        self._take_slot()

        def look(progress: Progress) -> ClipResult:
            return self._look(path, name, progress, draw=False, known=known).result

        return self.jobs.start(path, look, self._give_slot)

    def drain(self, seconds: float) -> None:
        """Take nothing new, and return when all that was taken is done and told, or `seconds` are over."""
        self.draining = True
        self.jobs.forgo()
        end = time.monotonic() + seconds
        while (self._inside or not self.jobs.settled()) and time.monotonic() < end:
            time.sleep(0.05)

    def place(self, name: str) -> Path:
        """A new file in the private folder for an upload of this name."""
        suffix = Path(name).suffix.lower()
        return self.folder / f"{secrets.token_urlsafe(16)}{suffix if suffix in VIDEO_SUFFIXES else '.video'}"

    def new_folder(self) -> Path:
        """A place for a page's upload.

        Only the page that is given its name can claim what is put there: nobody guesses it.
        """
        return self.folder / secrets.token_urlsafe(16)

    def expect(self, folder: Path, path: Path) -> None:
        """`path` in a new_folder was uploaded and will be claimed; where too many wait,
        the oldest is deleted.
        """
        with self._lock:
            self._waiting[str(path)] = folder
            too_many = len(self._waiting) > 2 * self.limits.queue
            oldest = self._waiting.popitem(last=False)[1] if too_many else None
        if oldest is not None:
            shutil.rmtree(oldest)

    def expects(self, path: object) -> bool:
        """Whether an upload of this name waits to be claimed."""
        with self._lock:
            return isinstance(path, str) and path in self._waiting

    def claim(self, path: str) -> Path:
        """Move an upload to a place of its own, once.

        Raises Gone for anything else that a client may name.
        """
        with self._lock:
            folder = self._waiting.pop(path, None)
        # Where no page asks for an upload, Gradio deletes it after a while.
        if folder is None or not Path(path).is_file():
            raise Gone("this clip is no longer here; drop it once more")
        own = self.place(path)
        Path(path).rename(own)
        shutil.rmtree(folder)
        return own

    def look_at(
        self,
        path: Path,
        name: str,
        progress: Progress = lambda share, step: None,
        draw: bool = True,
        known: Known = NOTHING,
    ) -> Analysis:
        """Analyze an upload under the name it came with, told what is known of it. Raises Busy."""
        with self.slot():
            return self._look(path, name, progress, draw=draw, known=known)

    def _look(self, path: Path, name: str, progress: Progress, *, draw: bool, known: Known) -> Analysis:
        analysis = analyze_clip(
            self.cascade,
            path,
            windows=self.windows,
            name=Path(name).stem[:200] or "clip",
            journal=None,
            progress=progress,
            draw=draw,
            max_seconds=self.limits.max_seconds,
            known=known,
        )
        analysis.result.path = Path(name).name[:200]  # where it lies here is nobody's business
        return analysis

    def keep(self, session: str, path: Path, analysis: Analysis) -> OpenClip:
        """Keep a clip for its page; the page's last one,
        and the longest unused where there are too many, are dropped.
        """
        self.drop(session)
        opened = OpenClip(secrets.token_urlsafe(16), path, analysis)
        with self._lock:
            self._open[session] = opened
            oldest = next(iter(self._open)) if len(self._open) > self.limits.kept else None
        if oldest is not None:
            self.drop(oldest)
        return opened

    def drop(self, session: str) -> None:
        """Forget a page's clip and delete its file."""
        with self._lock:
            opened = self._open.pop(session, None)
        if opened:
            opened.path.unlink(missing_ok=True)
            _copy_of(opened.path).unlink(missing_ok=True)

    def opened(self, session: str) -> OpenClip | None:
        """The clip that a page has open."""
        with self._lock:
            if session in self._open:
                self._open.move_to_end(session)
            return self._open.get(session)

    def file(self, token: str) -> Path | None:
        """The file of an open clip, by its token."""
        with self._lock:
            return next(
                (
                    opened.path
                    for opened in self._open.values()
                    if secrets.compare_digest(opened.token, token)
                ),
                None,
            )

    def playable(self, token: str) -> Path | None:
        """The file of an open clip as a browser plays it: itself, or a copy, made for the first who asks.

        Raises VideoError where it cannot be read.
        """
        path = self.file(token)
        if path is None or is_playable(probe(path)):
            return path
        copy = _copy_of(path)
        with self._copying:
            if not copy.is_file():
                write_playable(path, copy)
        return copy

    def subject(self, opened: OpenClip) -> tuple[float, float]:
        """What free questions are about: the clip, or of a recording the window of its surest event."""
        result = opened.analysis.result
        best = max(result.events, key=lambda event: event.crash_probability or 0.0, default=None)
        window = result.windows[best.window if best else 0]
        return window.start, window.end

    def ask(self, opened: OpenClip, question: str, adapter: str | None) -> str:
        """The answer to a free question on an open clip; its prefix is computed for the first one alone.

        Raises Busy.
        """
        with self.slot():
            context = opened.analysis.context
            if context is None:  # a recording: its windows were let go
                context = opened.analysis.context = VideoContext(
                    [read_span(opened.path, self.cascade.answerer.settings, self.subject(opened))]
                )
            return self.cascade.ask(context, question, adapter)


def _copy_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.playable.mp4")
