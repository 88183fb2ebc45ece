"""The gate and the connections of `crashchat serve`, a real server around a small app,
with limits that a test can wait for.
"""

import asyncio
import base64
import http.client
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace

import httpx
import pytest
import uvicorn
from fastapi import FastAPI, Request

from crashchat.serving.clip_service import Limits
from crashchat.serving.guard import Guesses, RequestGuard
from crashchat.serving.serve import connection_settings
from tests.helpers.web import web

LIMITS = Limits(max_bytes=2**20)
PATIENCE = 120  # seconds; only a test that fails waits so long


@contextmanager
def serving(limits: Limits = LIMITS, password: str | None = None):
    """A server whose clips are only counted, byte by byte. Yields its address and the uvicorn server."""
    app = FastAPI(openapi_url=None)

    @app.get("/api/health")
    def health() -> str:
        return "ok"

    @app.get("/clips/forever")
    async def forever() -> None:
        await asyncio.Event().wait()

    @app.post("/api/analyze")
    async def count(request: Request) -> int:
        return len(await request.body())

    app.add_middleware(RequestGuard, limits=limits, password=password)
    settings = connection_settings(limits) | {"timeout_graceful_shutdown": 1}
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", **settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}", server
        finally:
            server.should_exit = True
            thread.join()


def connect(url: str, words: bytes = b"") -> socket.socket:
    opened = socket.create_connection((httpx.URL(url).host, httpx.URL(url).port), timeout=PATIENCE)
    opened.sendall(words)
    return opened


def dribble(opened: socket.socket) -> bytes:
    """Send a byte now and then until the server has had enough; returns what it said."""
    opened.settimeout(0.05)
    said, deadline = b"", time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        try:
            opened.sendall(b"x")
            if not (block := opened.recv(4096)):
                return said
            said += block
        except TimeoutError:
            continue
        except OSError:  # closed between two bytes
            return said
    raise AssertionError("the connection was never closed")


POST = b"POST /api/analyze HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"


def test_slow_bodies_and_headers_without_end_are_closed():
    quick = replace(LIMITS, body_seconds=1, header_seconds=1)
    with serving(quick) as (url, _):
        assert b" 408 " in dribble(connect(url, POST % 10_000))
        for start in (b"", b"GET /api/health HTTP/1.1\r\nHost: ", b"\r\n", POST % 3 + b"abc" + POST[:20]):
            said = dribble(connect(url, start))
            assert b" 408 " not in said and (b"200" in said) == start.startswith(b"POST")
        with connect(url) as silent:
            assert silent.recv(1) == b""
        body = bytes(1_000_000)
        assert web.post(f"{url}/api/analyze", content=body).text == str(len(body))
        # A client that was answered may ask again on the same connection.
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            assert [client.get("/api/health").status_code for _ in range(3)] == [200] * 3


def test_there_is_an_end_to_the_connections():
    with serving(replace(LIMITS, connections=4)) as (url, _):
        held = [connect(url) for _ in range(4)]
        with connect(url, b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n") as more:
            assert more.recv(4096).startswith(b"HTTP/1.1 503 ")
        for one in held:
            one.close()
        deadline = time.monotonic() + PATIENCE
        while web.get(f"{url}/api/health").status_code != 200:
            assert time.monotonic() < deadline


def test_work_that_the_stopping_server_gives_up_is_told():
    with serving() as (url, server):
        with connect(url, b"GET /clips/forever HTTP/1.1\r\nHost: x\r\n\r\n") as waiting:
            deadline = time.monotonic() + PATIENCE
            while not server.server_state.tasks:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            server.should_exit = True
            assert waiting.recv(4096).startswith(b"HTTP/1.1 503 ")


def test_guessing_a_password_is_slowed_for_the_guesser_alone():
    def ask(url: str, password: str, address: str = "127.0.0.1", **headers: str) -> httpx.Response:
        with httpx.Client(transport=httpx.HTTPTransport(local_address=address), timeout=PATIENCE) as client:
            return client.get(f"{url}/api/health", auth=("", password), headers=headers)

    with serving(password="right") as (url, _):
        assert {web.get(f"{url}/api/health").status_code for _ in range(20)} == {
            401
        }  # who says none has not guessed
        assert ask(url, "right").status_code == 200
        answers = [
            ask(url, f"guess {number}", **{"X-Forwarded-For": f"10.0.0.{number}"}) for number in range(8)
        ]
        assert [answer.status_code for answer in answers[:5]] == [401] * 5 and answers[7].status_code == 429
        assert int(answers[7].headers["Retry-After"]) >= 1
        assert ask(url, "right", "127.0.0.2").status_code == 200
        deadline = time.monotonic() + PATIENCE
        while (answer := ask(url, "right")).status_code == 429:  # else the answer would tell a right one
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert answer.status_code == 200


def test_waits_grow_and_are_forgotten():
    clock = [0.0]
    guesses, waits = Guesses(lambda: clock[0]), []
    for _ in range(20):
        guesses.add("1.2.3.4")
        waits.append(guesses.wait("1.2.3.4"))
        clock[0] += waits[-1]
    assert waits[:9] == [0, 0, 0, 0, 1, 2, 4, 8, 16] and waits[-1] == Guesses.LONGEST
    guesses.add("2001:db8::1")
    for number in range(4):
        guesses.add(f"2001:db8::{number:x}:5")  # another address of the same client
    assert guesses.wait("2001:db8::9") > 0 and guesses.wait("2001:db9::9") == 0
    for number in range(3 * Guesses.MOST):
        guesses.add(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(guesses._wrong) == Guesses.MOST
    clock[0] += 2 * Guesses.FORGOTTEN
    guesses.add("1.1.1.1")
    assert len(guesses._wrong) == 1


def test_websockets_stay_outside():
    told = []

    async def send(message):
        told.append(message)

    async def inside(*_):
        raise AssertionError("the gate let it through")

    scope = {"type": "websocket", "path": "/", "headers": [], "client": ("127.0.0.1", 1)}
    # In a thread of its own: where a browser was started before, this one has a loop that runs already.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, RequestGuard(inside, LIMITS, "right")(scope, None, send)).result()
    assert [message["type"] for message in told] == ["websocket.close"]
    handshake = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    handshake["Sec-WebSocket-Key"] = base64.b64encode(bytes(16)).decode()
    with serving(password="right") as (url, _):
        assert web.get(f"{url}/api/health", headers=handshake).status_code == 401
        assert web.get(f"{url}/api/health", headers=handshake, auth=("", "right")).status_code == 200


@pytest.mark.parametrize(
    "method, path, headers, status",
    [
        ("POST", "/api/analyze", {"Origin": "http://[evil"}, 400),
        ("POST", "/api/analyze", {"Origin": "http://example.org"}, 403),
        ("POST", "/api/analyze", {"Origin": ""}, 403),
        ("POST", "/api/analyze", {"Origin": "null"}, 403),
        ("POST", "/api/analyze", {"Content-Length": str(2**21 + 1)}, 413),
        ("POST", "/gradio_api/queue/join", {"Content-Length": str(2**16 + 1)}, 413),
        ("POST", "/api/analyze", {"Transfer-Encoding": "chunked"}, 411),
        ("POST", "/gradio_api/component_server", {"Content-Length": "0"}, 404),
        ("DELETE", "/api/health", {}, 405),
        ("OPTIONS", "/api/health", {}, 405),
        ("GET", "/clips/../api/health", {}, 404),
        ("GET", "/assets/\n", {}, 404),
    ],
)
def test_what_the_gate_refuses(gate, method, path, headers, status):
    asking = http.client.HTTPConnection("127.0.0.1", httpx.URL(gate).port, timeout=PATIENCE)
    asking.putrequest(method, path.replace("\n", "%0A"))
    for name, value in headers.items():
        asking.putheader(name, value)
    asking.endheaders()
    answer = asking.getresponse()
    assert answer.status == status and b"Traceback" not in answer.read()
    asking.close()


@pytest.fixture(scope="module")
def gate():
    with serving() as (url, _):
        yield url
