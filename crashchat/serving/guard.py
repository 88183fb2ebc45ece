"""What every request to `crashchat serve` passes before anything else: is this here, who asks,
how much, how fast.
"""

import asyncio
import base64
import ipaddress
import math
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from crashchat.analysis.clip import MEBIBYTE
from crashchat.serving.clip_service import Limits

# Only this server may be asked by its page. Gradio's own code is inline and evaluated.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' "
    "'unsafe-inline'; "
    "img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self' data:; worker-src 'self' blob:; "
    "frame-ancestors 'self'"
)
# What there is. Gradio has some eighty more: files by their path, a proxy, logs, an editor.
READ = re.compile(
    r"/|/api/(health|openapi\.json|jobs/[\w-]+)|/metrics|/v1/models|/clips/[\w-]+|/(assets|static)/[\w@./-]+|/theme\.css|/favicon\.ico"
    r"|/gradio_api/(heartbeat/\w+|upload_progress|queue/data|startup-events)"
)
DELETED = re.compile(r"/api/jobs/[\w-]+|/v1/files/[\w-]+")
TAKES_CLIPS = ("/api/analyze", "/api/jobs", "/v1/files", "/gradio_api/upload")
CHAT = "/v1/chat/completions"
MOST_IN_JSON = 32 * MEBIBYTE  # of a clip inside a chat request, which is in memory as a whole
JOIN = "/gradio_api/queue/join"
MOST_OF_A_JOIN = 2**16  # bytes
FORM = MEBIBYTE  # what a form adds to its file at most


class Guesses:
    """Wrong passwords by client address; after a few, an address must wait,
    longer each time. Others never wait.

    now: seconds of a clock that never goes back.
    """

    FREE, FIRST, LONGEST = 5, 1.0, 60.0  # wrong ones without a wait; seconds
    FORGOTTEN, MOST = 900.0, 4096  # seconds after the last one; addresses

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        # How many, and when the last one was.
        self._wrong: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str) -> float:
        """Seconds for which no password from this address is looked at, right or wrong."""
        count, last = self._wrong.get(_network(address), (0, 0.0))
        if count < self.FREE:
            return 0.0
        return max(
            0.0, last + min(self.LONGEST, self.FIRST * 2.0 ** min(count - self.FREE, 60)) - self._now()
        )

    def add(self, address: str) -> None:
        """One more wrong password from this address."""
        count, _ = self._wrong.pop(network := _network(address), (0, 0.0))
        self._wrong[network] = (count + 1, self._now())
        while (
            len(self._wrong) > self.MOST or next(iter(self._wrong.values()))[1] < self._now() - self.FORGOTTEN
        ):
            self._wrong.popitem(last=False)


def _network(address: str) -> str:
    """An address; of IPv6 the network, as one client has a whole one."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:  # a socket in the file system has none
        return address
    return address if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))


@dataclass(frozen=True)
class Ways:
    """What a server has, and no more: addresses to read, that take a body, to delete; its pages' policy."""

    read: re.Pattern[str] = READ
    takes: tuple[str, ...] = (*TAKES_CLIPS, CHAT, JOIN)
    deleted: re.Pattern[str] = DELETED
    policy: str = POLICY

    def methods(self, path: str) -> list[str]:
        """Those that a path is asked with; none where there is nothing."""
        found = ["GET", "HEAD"] if self.read.fullmatch(path) else []
        found += ["POST"] if path in self.takes else []
        return found + (["DELETE"] if self.deleted.fullmatch(path) else [])


Admits = Callable[[str, str], bool]  # name, password -> whether they are let in


class RequestGuard:
    """Answers what must not get through, and puts the page's policy on what does. Plain ASGI.

    password: asked for with any name. admits: in its place, asks for a name and its password.
    """

    def __init__(
        self, app, limits: Limits, password: str | None, admits: Admits | None = None, ways: Ways = Ways()
    ):
        self.app, self.limits, self.ways = app, limits, ways
        self.admits = admits or (_any_name(password) if password else None)
        self.guesses, self._chats = Guesses(), 0
        self.token = password  # as OpenAI's clients send it

    async def __call__(self, scope, receive, send):
        """Let the request through, or answer it with what is wrong."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":  # a websocket: nothing here speaks it
            return await send({"type": "websocket.close"})
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        client = scope["client"][0] if scope["client"] else ""
        refusal = self._who(client, headers.get("authorization")) or self._what(
            scope["method"], scope["path"], headers
        )
        if refusal:
            return await refusal(scope, receive, send)
        if scope["path"] == CHAT and self._chats >= self.limits.queue:
            return await _refuse(429, "too many questions at once", **{"Retry-After": "10"})(
                scope, receive, send
            )
        body, started = _Body(receive, self.limits), False

        async def send_with_policy(message):
            nonlocal started
            if body.too_slow and not started:
                return
            if message["type"] == "http.response.start":
                started = True
                message = message | {
                    "headers": [*message["headers"], (b"content-security-policy", self.ways.policy.encode())]
                }
            await send(message)

        self._chats += scope["path"] == CHAT  # their bodies are in memory
        try:
            await self.app(scope, body.receive, send_with_policy)
        except asyncio.CancelledError:  # the server stops, and has waited for some seconds
            if not started:
                await _refuse(503, "the server is being stopped", Connection="close")(scope, receive, send)
        except ClientDisconnect:  # in the middle of its body; or it was too slow
            pass
        finally:
            self._chats -= scope["path"] == CHAT
        if body.too_slow and not started:
            await _refuse(408, "the body came too slowly", Connection="close")(scope, receive, send)

    def _who(self, client: str, authorization: str | None) -> PlainTextResponse | None:
        if self.admits is None:
            return None
        if authorization is not None:
            if wait := math.ceil(self.guesses.wait(client)):
                return _refuse(
                    429, f"too many wrong passwords; try again in {wait} s", **{"Retry-After": str(wait)}
                )
            if _gives(authorization, self.admits, self.token):
                return None
            self.guesses.add(client)
        return _refuse(
            401, "a password is needed", **{"WWW-Authenticate": 'Basic realm="CrashChat", charset="UTF-8"'}
        )

    def _what(self, method: str, path: str, headers: dict[str, str]) -> PlainTextResponse | None:
        allowed = self.ways.methods(path)
        if not allowed:
            return _refuse(404, "there is nothing here")
        if method not in allowed:
            return _refuse(405, "this path is asked in another way", Allow=", ".join(allowed))
        if method in ("GET", "HEAD"):
            return None
        # Another site's page must not use the server through its reader's browser.
        try:
            origin = urlsplit(headers.get("origin", ""))
        except ValueError:
            return _refuse(400, "the Origin is no address")
        if "origin" in headers and origin.netloc != headers.get("host"):
            return _refuse(403, "requests from other sites' pages are refused")
        if method == "DELETE":
            return None
        if "transfer-encoding" in headers or "content-length" not in headers:
            return _refuse(411, "send the body with a Content-Length")
        length, most = int(headers["content-length"]), self.limits.max_bytes
        if path == CHAT and length > (in_json := min(most, MOST_IN_JSON)) * 4 // 3 + FORM:
            return _refuse(
                413,
                f"the request has {length / MEBIBYTE:.0f} MiB, a clip inside it may have "
                f"{in_json / MEBIBYTE:.0f} MiB; upload it to /v1/files first",
            )
        if path == JOIN and length > MOST_OF_A_JOIN:
            return _refuse(413, f"the event has {length} bytes, the limit is {MOST_OF_A_JOIN}")
        if length > most + FORM:
            return _refuse(
                413, f"the clip has {length / MEBIBYTE:.0f} MiB, the limit is {most / MEBIBYTE:.0f} MiB"
            )
        return None


def _any_name(password: str) -> Admits:
    return lambda name, given: secrets.compare_digest(given.encode(), password.encode())


def _gives(authorization: str, admits: Admits, token: str | None) -> bool:
    """Whether an Authorization header holds a name and password that are let in, or, as a bearer's, the
    token, where there is one.
    """
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return token is not None and secrets.compare_digest(
            value.encode("utf-8", "surrogatepass"), token.encode()
        )
    try:
        name, _, given = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return False
    return scheme.lower() == "basic" and admits(name, given)


def _refuse(status: int, text: str, **headers: str) -> PlainTextResponse:
    return PlainTextResponse(f"{text}\n", status, headers)


class _Body:
    """A request's body, which must come faster than the limits say;
    a slow one ends as if the client had gone.
    """

    def __init__(self, receive, limits: Limits):
        self._receive, self.limits = receive, limits
        self.too_slow = self._whole = False
        self._bytes, self._waited = 0, 0.0

    async def receive(self):
        """The next message of the body; behind it, when the client goes."""
        if self.too_slow:
            return {"type": "http.disconnect"}
        if self._whole:
            return await self._receive()
        allowed = self.limits.body_seconds + self._bytes / self.limits.body_rate
        asked = time.monotonic()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, allowed - self._waited))
        except TimeoutError:
            self.too_slow = True
            return {"type": "http.disconnect"}
        self._waited += time.monotonic() - asked
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        return message
