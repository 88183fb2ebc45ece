"""A page and an HTTP endpoint for clips, on this machine: drop a clip, see its card, ask about it (page.py draws the page).

    python -m crashchat serve                                  # http://127.0.0.1:7860
    curl -F file=@clip.mp4 http://127.0.0.1:7860/api/analyze   # the same JSON as <name>.json of analyze

Without --model the model is the demo's, as for analyze. The server is reached from this machine alone unless --host says
otherwise; then a password is needed (--password-file, or CRASHCHAT_PASSWORD), asked for by HTTP's basic scheme with any user
name: put a TLS proxy in front. Uploads lie in a private temporary folder: those to the endpoint until they are answered, those
of the page until it is closed. Nothing is asked of, or told to, any other host.
"""

import argparse
import base64
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.responses import FileResponse, PlainTextResponse
from filelock import FileLock, Timeout
from starlette.middleware.trustedhost import TrustedHostMiddleware

from crashchat.analysis import MEBIBYTE, Analysis, Progress, analyze_clip
from crashchat.analyze import VIDEO_SUFFIXES, AnalyzeError, add_model_options, cascade_of
from crashchat.batches import read_span
from crashchat.cascade import Cascade, Look
from crashchat.errors import CrashChatError, error_line
from crashchat.windows import FAILED, WindowSettings

LOOPBACK = ("127.0.0.1", "localhost")
PASSWORD = "CRASHCHAT_PASSWORD"
PREFIX, IN_USE = "crashchat-", "in_use.lock"  # of private folders, and the file in them that a running server holds locked
# Only this server may be asked by its page. Gradio's own code is inline and evaluated.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; frame-ancestors 'self'"
)


class Busy(Exception):
    """More clips are waiting than the queue holds."""


@dataclass(frozen=True)
class Limits:
    """What the server takes in.

    max_bytes, max_seconds: of an upload. queue: clips and questions waiting or in work. kept: clips open in pages.
    """

    max_bytes: int = 512 * MEBIBYTE
    max_seconds: float = 600.0
    queue: int = 16
    kept: int = 8


@dataclass
class Open:
    """A clip that a page has open."""

    token: str
    path: Path
    analysis: Analysis


class Desk:
    """Takes clips in, has them looked at, keeps what pages have open. Threads share it.

    folder: private; everything in it is the server's own.
    """

    def __init__(self, cascade: Cascade, windows: WindowSettings, folder: Path, limits: Limits):
        self.cascade, self.windows, self.folder, self.limits = cascade, windows, folder, limits
        self._inside = 0
        self._lock = threading.Lock()
        self._open: OrderedDict[str, Open] = OrderedDict()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A place in the queue; the model itself takes one clip at a time. Raises Busy where none is left."""
        with self._lock:
            if self._inside >= self.limits.queue:
                raise Busy(f"{self._inside} clips are waiting already; try again later")
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1

    def place(self, name: str) -> Path:
        """A new file in the private folder for an upload of this name."""
        suffix = Path(name).suffix.lower()
        return self.folder / f"{secrets.token_urlsafe(16)}{suffix if suffix in VIDEO_SUFFIXES else '.video'}"

    def look_at(self, path: Path, name: str, progress: Progress = lambda share, step: None, draw: bool = True) -> Analysis:
        """Analyze an upload under the name it came with. Raises Busy."""
        with self.turn():
            analysis = analyze_clip(
                self.cascade, path, self.windows, Path(name).stem[:200] or "clip", None, progress, draw, self.limits.max_seconds
            )
        analysis.result["path"] = Path(name).name[:200]  # where it lies here is nobody's business
        return analysis

    def keep(self, session: str, path: Path, analysis: Analysis) -> Open:
        """Keep a clip for its page; the page's last one, and the longest unused where there are too many, are dropped."""
        self.drop(session)
        opened = Open(secrets.token_urlsafe(16), path, analysis)
        with self._lock:
            self._open[session] = opened
            oldest = next(iter(self._open)) if len(self._open) > self.limits.kept else None
        if oldest is not None:
            self.drop(oldest)
        return opened

    def drop(self, session: str | None) -> None:
        """Forget a page's clip and delete its file."""
        with self._lock:
            opened = self._open.pop(session, None)
        if opened:
            opened.path.unlink(missing_ok=True)

    def opened(self, session: str | None) -> Open | None:
        """The clip that a page has open."""
        with self._lock:
            if session in self._open:
                self._open.move_to_end(session)
            return self._open.get(session)

    def file(self, token: str) -> Path | None:
        """The file of an open clip, by its token."""
        with self._lock:
            return next((opened.path for opened in self._open.values() if secrets.compare_digest(opened.token, token)), None)

    def subject(self, opened: Open) -> tuple[float, float]:
        """What free questions are about: the clip, or of a recording the window of its surest event."""
        result = opened.analysis.result
        best = max(result["events"], key=lambda event: event["crash_probability"], default=None)
        window = result["windows"][best["window"] if best else 0]
        return window["start"], window["end"]

    def ask(self, opened: Open, question: str, voice: str | None) -> str:
        """The answer to a free question on an open clip; its prefix is computed for the first one alone. Raises Busy."""
        with self.turn():
            look = opened.analysis.look
            if look is None:  # a recording: its windows were let go
                look = opened.analysis.look = Look([read_span(opened.path, self.cascade.settings, self.subject(opened))])
            return self.cascade.ask(look, question, voice)


class Gate:
    """What every request passes before anything else: password, body size, origin. Plain ASGI."""

    def __init__(self, app, max_bytes: int, password: str | None):
        self.app, self.max_bytes, self.password = app, max_bytes, password

    async def __call__(self, scope, receive, send):
        """Let the request through, or answer it with what is wrong."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope["method"], headers)
        if refusal:
            return await refusal(scope, receive, send)

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message = message | {"headers": [*message["headers"], (b"content-security-policy", POLICY.encode())]}
            await send(message)

        await self.app(scope, receive, send_with_policy)

    def _refusal(self, method: str, headers: dict[str, str]) -> PlainTextResponse | None:
        if self.password and not self._knows_password(headers.get("authorization", "")):
            challenge = {"WWW-Authenticate": 'Basic realm="CrashChat", charset="UTF-8"'}
            return PlainTextResponse("a password is needed\n", 401, challenge)
        if method in ("GET", "HEAD", "OPTIONS"):
            return None
        # Another site's page must not use the server through its reader's browser.
        origin = headers.get("origin")
        if origin and urlsplit(origin).netloc != headers.get("host"):
            return PlainTextResponse("requests from other sites' pages are refused\n", 403)
        length = headers.get("content-length")
        if length is None and "transfer-encoding" in headers:
            return PlainTextResponse("send the body with a Content-Length\n", 411)
        if length is not None and int(length) > self.max_bytes + MEBIBYTE:  # what a form adds to its file
            most = self.max_bytes / MEBIBYTE
            return PlainTextResponse(f"the clip has {int(length) / MEBIBYTE:.0f} MiB, the limit is {most:.0f} MiB\n", 413)
        return None

    def _knows_password(self, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        try:
            given = base64.b64decode(value, validate=True).partition(b":")[2]
        except ValueError:
            return False
        return scheme.lower() == "basic" and secrets.compare_digest(given, self.password.encode())


def create_app(desk: Desk, password: str | None = None, hosts: list[str] | None = None) -> FastAPI:
    """The endpoint and the page. hosts: names the server is called by (None: any), against pages that borrow its address."""
    from crashchat.page import build_page, mount

    # FastAPI's own documentation pages load their scripts from another host.
    app = FastAPI(title="CrashChat", docs_url=None, redoc_url=None)

    @app.get("/api/health")
    def health() -> dict:
        return {"status": "ok", "model": desk.cascade.identity}

    @app.post("/api/analyze")
    def analyze_upload(file: UploadFile) -> dict:
        name = file.filename or "clip"
        path = desk.place(name)
        try:
            with open(path, "wb") as target:
                while block := file.file.read(MEBIBYTE):
                    target.write(block)
            result = desk.look_at(path, name, draw=False).result
        except Busy as busy:
            raise HTTPException(503, str(busy), {"Retry-After": "10"}) from busy
        finally:
            path.unlink(missing_ok=True)
        if result["status"] == FAILED:
            raise HTTPException(422, result)
        return result

    @app.get("/clips/{token}")
    def clip_of_page(token: str) -> FileResponse:
        path = desk.file(token)
        if path is None:
            raise HTTPException(404, "no such clip is open")
        return FileResponse(path)

    app = mount(app, build_page(desk), desk)
    app.add_middleware(Gate, max_bytes=desk.limits.max_bytes, password=password)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `serve`."""
    limits = Limits()
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="(default %(default)s)")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help=f"holds the password; or set {PASSWORD}")
    parser.add_argument(
        "--max-mebibytes", type=float, default=limits.max_bytes / MEBIBYTE, help="of an upload (default %(default)s)"
    )
    parser.add_argument(
        "--max-seconds", type=float, default=limits.max_seconds, help="of an uploaded video (default %(default)s)"
    )
    parser.add_argument("--queue", type=int, default=limits.queue, help="clips waiting or in work at most (default %(default)s)")
    add_model_options(parser)


def read_password(arguments: argparse.Namespace) -> str | None:
    """The password of the command line or the environment. Raises AnalyzeError where one is needed and there is none."""
    password = os.environ.get(PASSWORD)
    if arguments.password_file:
        try:
            password = arguments.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AnalyzeError(f"{arguments.password_file}: cannot be read: {error.strerror}") from error
        if not password:
            raise AnalyzeError(f"{arguments.password_file}: is empty, expected a password")
    if arguments.host not in LOOPBACK and not password:
        raise AnalyzeError(f"--host {arguments.host} lets others in: give --password-file FILE or set {PASSWORD}")
    return password or None


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped; returns the exit code."""
    import uvicorn

    try:
        password = read_password(arguments)
        cascade, windows = cascade_of(arguments)
    except (CrashChatError, OSError) as error:
        print(f"error: {error_line(error)}", file=sys.stderr)
        return 2
    limits = Limits(int(arguments.max_mebibytes * MEBIBYTE), arguments.max_seconds, arguments.queue)
    with private_folder() as folder:
        hosts = list(LOOPBACK) if arguments.host in LOOPBACK else None
        app = create_app(Desk(cascade, windows, folder, limits), password, hosts)
        # Uvicorn ends by the signal that stopped it; as an exception it lets the private folder be deleted.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"http://{arguments.host}:{arguments.port}  (Ctrl-C stops)", flush=True)
        uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", timeout_graceful_shutdown=3)
    return 0


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for everything temporary of this process, uploads in the making too, deleted at the end; Gradio tells nobody."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, FileLock(Path(folder) / IN_USE):
        tempfile.tempdir = folder
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False")
        os.environ.update(HF_HUB_DISABLE_TELEMETRY="1", HF_HUB_OFFLINE="1")
        yield Path(folder)


def _sweep(place: Path) -> None:
    """Delete the private folders in `place` of this user's servers that were killed: nobody holds their locks any more."""
    for folder in place.glob(f"{PREFIX}*"):
        try:
            own = folder.lstat().st_uid == os.getuid() and not folder.is_symlink() and (folder / IN_USE).is_file()
            if own:
                with FileLock(folder / IN_USE, timeout=0):
                    shutil.rmtree(folder)
                print(f"deleted {folder}, left by a server that was killed", file=sys.stderr)
        except Timeout:  # a server that runs
            continue
        except OSError as error:
            print(f"warning: {folder} is left by a server that was killed and cannot be deleted: {error}", file=sys.stderr)
