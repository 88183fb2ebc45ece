"""A page on which people look at an analysis, clip by clip, and confirm or correct what the model said.

    crashchat review outputs/analysis                                   # http://127.0.0.1:7861, alone
    crashchat review outputs/analysis --add-user anna --role reviewer --password-file FILE
    crashchat review outputs/analysis --host 0.0.0.0                    # for all users, by name and password

Decisions lie in review.sqlite beside the results, which stay as they are; `crashchat export-labels` makes
annotation files of them. Several servers may run on one folder. Roles: a reader looks, a reviewer decides, a
lead also settles what others disagree about. Where nobody has a password, the page is for this machine alone
and decides under --user, as a lead.
"""

import argparse
import getpass
import hashlib
import re
import secrets
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from pydantic import Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from crashchat.command import make_parser
from crashchat.errors import CrashChatError, exit_code
from crashchat.html import TEMPLATES
from crashchat.json_files import Exact
from crashchat.review.folder import Reviewed, read_folder
from crashchat.review.labels import Labels, ReviewError, Verdict
from crashchat.review.service import ReviewService
from crashchat.review.store import LONGEST_COMMENT, ROLES, Store
from crashchat.serving.clip_service import Limits
from crashchat.serving.guard import Admits, RequestGuard, Ways
from crashchat.serving.serve import LOOPBACK, connection_settings, private_folder, read_password

SHARE = 0.2  # of the clips, drawn for estimates
BODY = 2**16  # bytes of a decision at most
WAYS = Ways(
    read=re.compile(
        r"/|/favicon\.ico|/api/(queue|statistics|clips/\d{1,9})|/static/review\.(js|css)|/videos/\d{1,9}"
        r"|/strips/\d{1,9}/\d{1,4}"
    ),
    takes=("/api/decisions", "/api/undo"),
    deleted=re.compile("(?!)"),  # nothing
    policy="default-src 'self'; frame-ancestors 'none'",
)
FILES = {"review.js": "text/javascript", "review.css": "text/css"}


class DecisionBody(Exact):
    """What the page sends of a decision."""

    clip: int
    verdict: Verdict
    labels: Labels
    comment: Annotated[str, Field(max_length=LONGEST_COMMENT)] = ""


def create_app(service: ReviewService, alone: str | None, hosts: list[str] | None = None) -> FastAPI:
    """The page and what it asks. alone: who decides where nobody signs in; None: people do, by password."""
    app = FastAPI(title="CrashChat review", openapi_url=None)
    app.include_router(_files(service))
    app.include_router(_answers(service, alone))
    app.add_exception_handler(CrashChatError, _told)
    admits = remembered(service.store) if alone is None else None
    limits = Limits(max_bytes=BODY)
    app.add_middleware(RequestGuard, limits=limits, password=None, admits=admits, ways=WAYS)
    if hosts is not None:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    return app


async def _told(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 409)


def _files(service: ReviewService) -> APIRouter:
    router = APIRouter()

    @router.get("/")
    def page() -> HTMLResponse:
        name = service.folder.resolve().name
        return HTMLResponse(TEMPLATES.get_template("review.html").render(folder=name))

    @router.get("/favicon.ico")
    def icon() -> Response:
        return Response(status_code=204)  # there is none; browsers ask all the same

    @router.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in FILES:
            raise HTTPException(404)
        return Response(TEMPLATES.get_template(name).render(), media_type=FILES[name])

    @router.get("/videos/{number}")
    def video(number: int) -> FileResponse:
        return FileResponse(service.video(number))

    @router.get("/strips/{number}/{index}")
    def strip(number: int, index: int) -> FileResponse:
        return FileResponse(service.strip(number, index))

    return router


def _answers(service: ReviewService, alone: str | None) -> APIRouter:
    router = APIRouter()
    basic = HTTPBasic(auto_error=False)

    def user_of(given: Annotated[HTTPBasicCredentials | None, Depends(basic)]) -> str:
        if alone is not None:
            return alone
        if given is None:
            raise HTTPException(401)
        return given.username

    user = Annotated[str, Depends(user_of)]

    @router.get("/api/queue")
    def queue(user: user) -> dict:
        return service.queue(user)

    @router.get("/api/statistics")
    def statistics() -> dict:
        return service.statistics()

    @router.get("/api/clips/{number}")
    def clip(number: int, user: user) -> dict:
        return service.clip(number, user)

    @router.post("/api/decisions")
    def decide(body: DecisionBody, user: user) -> dict:
        decided = service.decide(body.clip, user, body.verdict, body.labels, comment=body.comment)
        return {"decision": decided}

    @router.post("/api/undo")
    def undo(user: user) -> dict:
        return service.undo(user)

    return router


def remembered(store: Store) -> Admits:
    """store.admits, which takes its time, asked once for each name and password that are right."""
    key = secrets.token_bytes(32)
    right: set[bytes] = set()

    def admits(name: str, password: str) -> bool:
        mark = hashlib.blake2b(f"{name}:{password}".encode(), key=key).digest()
        if mark not in right and store.admits(name, password):
            right.add(mark)
        return mark in right

    return admits


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = make_parser("review", __doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="what crashchat analyze wrote")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this one alone)")
    parser.add_argument("--port", type=int, default=7861, help="(default %(default)s)")
    parser.add_argument("--user", help="who decides where nobody has a password (default: your login's name)")
    parser.add_argument("--videos", type=Path, metavar="FOLDER", help="where relative paths of clips start")
    parser.add_argument("--share", type=float, default=SHARE, help="random share of the clips (default 0.2)")
    parser.add_argument("--seed", type=int, default=0, help="of the random share (default 0)")
    parser.add_argument("--add-user", metavar="NAME", help="add a user or change one, and end")
    parser.add_argument("--role", choices=ROLES, default="reviewer", help="of --add-user (default reviewer)")
    parser.add_argument("--password-file", type=Path, metavar="FILE", help="holds the password of --add-user")
    arguments = parser.parse_args(argv)
    return exit_code(lambda: _run(arguments), failed=2)


@dataclass
class Review:
    """An analysis that was opened for review. alone: who decides where nobody signs in; None: people do."""

    folder: Path
    clips: dict[str, Reviewed]
    store: Store
    seed: int
    alone: str | None = None

    def app(self, copies: Path, hosts: list[str] | None = None) -> FastAPI:
        """Its page. copies: a private folder for videos as browsers play them."""
        service = ReviewService(self.folder, self.store, clips=self.clips, copies=copies, seed=self.seed)
        return create_app(service, self.alone, hosts)

    def work_alone(self, user: str | None = None) -> None:
        """Have one person decide without signing in: `user`, or who is logged in here.

        Raises ReviewError where people have passwords.
        """
        if self.store.roles(with_password=True):
            raise ReviewError(f"{self.folder}: people sign in by password here; use crashchat review")
        self.alone = user or getpass.getuser()
        self.store.add_user(self.alone, "lead", None)


def open_review(folder: Path) -> Review:
    """An analysis, to be reviewed by who is logged in on this machine. Raises ReviewError."""
    review = _opened(folder, videos=None, share=SHARE, seed=0)
    review.work_alone()
    return review


def _opened(folder: Path, videos: Path | None, share: float, seed: int) -> Review:
    clips = read_folder(folder, videos)
    store = Store(folder)
    store.sync(clips, share, seed)
    for clip in clips.values():
        if reason := clip.missing():
            print(f"warning: {reason}", file=sys.stderr)
    return Review(folder, clips, store=store, seed=seed)


def _run(arguments: argparse.Namespace) -> None:
    import uvicorn

    if not 0 <= arguments.share <= 1:
        raise ReviewError(f"--share {arguments.share}: expected 0 to 1")
    review = _opened(arguments.folder, videos=arguments.videos, share=arguments.share, seed=arguments.seed)
    store = review.store
    if arguments.add_user:
        password = read_password(argparse.Namespace(password_file=arguments.password_file, host=LOOPBACK[0]))
        if not password:
            raise ReviewError(f"--add-user {arguments.add_user}: give --password-file FILE")
        store.add_user(arguments.add_user, arguments.role, password)
        print(f"{arguments.add_user}: {arguments.role} of {arguments.folder}")
        return
    if not store.roles(with_password=True):
        if arguments.host not in LOOPBACK:
            raise ReviewError(f"--host {arguments.host} lets others in: add users first (--add-user NAME)")
        review.work_alone(arguments.user)
    elif arguments.user:
        raise ReviewError(f"--user {arguments.user}: people sign in by password here; leave it out")
    with private_folder() as folder:
        app = review.app(folder, list(LOOPBACK) if arguments.host in LOOPBACK else None)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        print(f"http://{arguments.host}:{arguments.port}  (Ctrl-C stops)", flush=True)
        settings = connection_settings(Limits(max_bytes=BODY))
        uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", **settings)
