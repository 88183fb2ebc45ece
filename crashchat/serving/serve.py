"""A page and an HTTP endpoint for clips, on this machine: drop a clip, see its card, ask about it
(page.py draws the page).

    crashchat serve                                  # http://127.0.0.1:7860
    curl -F file=@clip.mp4 http://127.0.0.1:7860/api/analyze   # the same JSON as <name>.json of analyze
    crashchat serve --review outputs/analysis        # with crashchat review's page beside it, at /review/

Without --model the model is the demo's, as for analyze. The server is reached from this machine alone unless
--host says otherwise; then a password is needed (--password-file, or CRASHCHAT_PASSWORD), asked for by HTTP's
basic scheme with any user name: put a TLS proxy in front. Uploads lie in a private temporary folder: those
to the endpoint until they are answered, those of the page until it is closed. Nothing is asked of, or told
to, any other host.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import FileResponse
from filelock import FileLock, Timeout
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp

import crashchat
from crashchat.analysis.clip import MEBIBYTE
from crashchat.analysis.options import AnalyzeError, add_model_options, cascade_of
from crashchat.command import make_parser, with_task_set
from crashchat.errors import CrashChatError, error_line
from crashchat.serving.api import add_api, add_chat
from crashchat.serving.clip_service import ClipService, Limits
from crashchat.serving.connections import Connection
from crashchat.serving.guard import RequestGuard
from crashchat.serving.metrics import Metrics
from crashchat.serving.programs import Programs

REVIEW = "/review/"
LOOPBACK = ("127.0.0.1", "localhost")
PASSWORD = "CRASHCHAT_PASSWORD"
PREFIX, IN_USE = (
    "crashchat-",
    "in_use.lock",
)  # of private folders, and the file in them that a running server holds locked


def create_app(
    service: ClipService,
    password: str | None = None,
    hosts: list[str] | None = None,
    review: ASGIApp | None = None,
    log_requests: bool = False,
) -> FastAPI:
    """The endpoint and the page.

    hosts: names the server is called by (None: any), against pages that borrow its address. review: an
    analysis' page, below REVIEW. log_requests: see Metrics.
    """
    from crashchat.serving.page import build_page, mount

    app = FastAPI(
        title="CrashChat",
        version=crashchat.__version__,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    add_api(app, service)
    add_chat(app, Programs(service))

    @app.get("/clips/{token}", include_in_schema=False)
    def clip_of_page(token: str) -> FileResponse:
        path = service.playable(token)
        if path is None:
            raise HTTPException(404, "no such clip is open")
        return FileResponse(path)

    app = mount(app, build_page(service, review is not None), service)
    app.add_middleware(Metrics, service=service, log=log_requests)
    app.add_middleware(RequestGuard, limits=service.limits, password=password)
    if review is not None:
        app.add_middleware(Beside, other=review)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


class Beside:
    """Another app beside an app, below REVIEW, with a guard of its own. Plain ASGI."""

    def __init__(self, app: ASGIApp, other: ASGIApp):
        self.app, self.other = app, other

    async def __call__(self, scope, receive, send):
        """Hand the request to the one that it is for."""
        path = scope.get("path", "")
        if scope["type"] == "http" and path.startswith(REVIEW):
            await self.other(scope | {"path": path[len(REVIEW) - 1 :]}, receive, send)
        else:
            await self.app(scope, receive, send)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command line of `serve`."""
    limits = Limits()
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine alone)"
    )
    parser.add_argument("--port", type=int, default=7860, help="(default %(default)s)")
    parser.add_argument(
        "--password-file", type=Path, metavar="FILE", help=f"holds the password; or set {PASSWORD}"
    )
    parser.add_argument(
        "--max-mebibytes",
        type=float,
        default=limits.max_bytes / MEBIBYTE,
        help="of an upload (default %(default)s)",
    )
    parser.add_argument(
        "--max-seconds",
        type=float,
        default=limits.max_seconds,
        help="of an uploaded video (default %(default)s)",
    )
    parser.add_argument(
        "--queue",
        type=int,
        default=limits.queue,
        help="clips waiting or in work at most (default %(default)s)",
    )
    parser.add_argument(
        "--drain-seconds",
        type=float,
        default=30.0,
        help="told to end by SIGTERM, finish what was taken in for so long (default %(default)s)",
    )
    parser.add_argument(
        "--log-requests",
        action="store_true",
        help="write a line of JSON a request to standard error: its id, path, status, seconds, bytes",
    )
    parser.add_argument(
        "--review",
        type=Path,
        metavar="DIR",
        help="an analysis to review beside the page, on this machine alone",
    )
    add_model_options(parser)


def read_password(arguments: argparse.Namespace) -> str | None:
    """The password of the command line or the environment.

    Raises AnalyzeError where one is needed and there is none.
    """
    password = os.environ.get(PASSWORD)
    if arguments.password_file:
        try:
            password = arguments.password_file.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise AnalyzeError(f"{arguments.password_file}: cannot be read: {error.strerror}") from error
        if not password:
            raise AnalyzeError(f"{arguments.password_file}: is empty, expected a password")
    if arguments.host not in LOOPBACK and not password:
        raise AnalyzeError(
            f"--host {arguments.host} lets others in: give --password-file FILE or set {PASSWORD}"
        )
    return password or None


@with_task_set
def main(argv: list[str]) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("serve", __doc__)
    add_arguments(parser)
    return run(parser.parse_intermixed_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Serve until stopped; returns the exit code."""
    from crashchat.serving.review_page import open_review

    try:
        password = read_password(arguments)
        if arguments.review and (password or arguments.host not in LOOPBACK):
            raise AnalyzeError(
                f"--review {arguments.review}: is for this machine alone, without a password; crashchat "
                "review knows users and their passwords"
            )
        reviewed = open_review(arguments.review) if arguments.review else None
        cascade, windows = cascade_of(arguments)
    except (CrashChatError, OSError) as error:
        print(f"error: {error_line(error)}", file=sys.stderr)
        return 2
    limits = Limits(int(arguments.max_mebibytes * MEBIBYTE), arguments.max_seconds, arguments.queue)
    with private_folder() as folder:
        hosts = list(LOOPBACK) if arguments.host in LOOPBACK else None
        service = ClipService(cascade, windows, folder, limits)
        review = reviewed.app(folder) if reviewed else None
        app = create_app(service, password, hosts=hosts, review=review, log_requests=arguments.log_requests)
        # Uvicorn ends by the signal that stopped it; as an exception it lets the private folder be deleted.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"http://{arguments.host}:{arguments.port}  (Ctrl-C stops)", flush=True)
        config = uvicorn.Config(
            app, host=arguments.host, port=arguments.port, log_level="warning", **connection_settings(limits)
        )
        DrainingServer(config, service, arguments.drain_seconds).run()
    return 0


class DrainingServer(uvicorn.Server):
    """Uvicorn's; told to end (SIGTERM), it first answers what it has taken in, and takes nothing new."""

    def __init__(self, config: uvicorn.Config, service: ClipService, seconds: float):
        super().__init__(config)
        self.service, self.seconds = service, seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """At the first SIGTERM begin to drain; at a second one, or Ctrl-C, end."""
        if sig != signal.SIGTERM or self.service.draining:
            return super().handle_exit(sig, frame)

        def drain() -> None:
            self.service.drain(self.seconds)
            super(DrainingServer, self).handle_exit(sig, None)

        threading.Thread(target=drain, daemon=True).start()


def connection_settings(limits: Limits) -> dict:
    """Uvicorn's settings."""
    return {
        "http": partial(Connection, limits=limits),
        "ws": "none",
        # What a proxy says of the client's address is believed only where uvicorn is told which proxy
        # (FORWARDED_ALLOW_IPS).
        "proxy_headers": "FORWARDED_ALLOW_IPS" in os.environ,
        "timeout_graceful_shutdown": 3,
    }


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder for everything temporary of this process, uploads in the making too,
    deleted at the end; Gradio tells nobody.
    """
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder, FileLock(Path(folder) / IN_USE):
        variables = {
            "GRADIO_TEMP_DIR": folder,
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
        }
        before = {name: os.environ.pop(name, None) for name in variables}
        os.environ.update(variables)
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = None
            for name, value in before.items():
                del os.environ[name]
                if value is not None:
                    os.environ[name] = value


def _sweep(place: Path) -> None:
    """Delete the private folders in `place` of this user's servers that were killed:
    nobody holds their locks any more.
    """
    for folder in place.glob(f"{PREFIX}*"):
        try:
            own = (
                folder.lstat().st_uid == os.getuid()
                and not folder.is_symlink()
                and (folder / IN_USE).is_file()
            )
            if own:
                with FileLock(folder / IN_USE, timeout=0):
                    shutil.rmtree(folder)
                print(f"deleted {folder}, left by a server that was killed", file=sys.stderr)
        except Timeout:  # a server that runs
            continue
        except OSError as error:
            print(
                f"warning: {folder} is left by a server that was killed and cannot be deleted: {error}",
                file=sys.stderr,
            )
