"""A server that speaks as OpenAI-compatible ones do, whose verdicts follow a rule."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Rule = Callable[[str], str]  # prompt -> reply


def parts(prompt: str) -> tuple[set[str], set[str]]:
    """The numbers in a prompt's reference, and in its answer."""
    found = re.search(r"<reference>\n(.*)\n</reference>\s*<answer>\n(.*)\n</answer>", prompt, re.DOTALL)
    assert found, prompt
    return set(re.findall(r"\d+", found[1])), set(re.findall(r"\d+", found[2]))


def erring(missed: int, passed: int) -> Rule:
    """Right is an answer with the reference's numbers; so many in a hundred right ones are called wrong, and
    wrong ones right. Which, the prompt decides.
    """

    def rule(prompt: str) -> str:
        reference, answer = parts(prompt)
        lot = int(sha256(prompt.encode()).hexdigest(), 16) % 100
        right = reference == answer
        return "CORRECT" if (lot >= missed if right else lot < passed) else "INCORRECT"

    return rule


def gullible(prompt: str) -> str:
    """Right is also what says everything."""
    reference, answer = parts(prompt)
    return "CORRECT" if reference <= answer else "INCORRECT"


class Server:
    """rule: of its verdicts. answered: the prompts it has answered; headers: of the last request. failures:
    (status, body, headers) to reply with first. silent_at: after so many requests it says nothing more, until
    `speak` is set.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule, self.answered, self.requests = rule, [], 0
        self.failures: list[tuple[int, bytes, dict[str, str]]] = []
        self.silent_at: int | None = None
        self.silent, self.speak = threading.Event(), threading.Event()
        self.headers: dict[str, str] = {}
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self) -> None:
                server.answer(self)

            def log_message(self, *_) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.http.server_port}/v1"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        self.requests += 1
        self.headers = dict(request.headers)
        if self.silent_at is not None and self.requests > self.silent_at:
            self.silent.set()
            self.speak.wait()
            request.close_connection = True
            return None
        if request.path != "/v1/chat/completions":
            return self._reply(request, 404, b"nothing here", {})
        assert body["temperature"] == 0 and body["model"] == "ruled"
        if self.failures:
            return self._reply(request, *self.failures.pop(0))
        (message,) = body["messages"]
        self.answered.append(message["content"])
        words = {"role": "assistant", "content": self.rule(message["content"])}
        self._reply(request, 200, json.dumps({"choices": [{"index": 0, "message": words}]}).encode(), {})

    def _reply(self, request, status: int, data: bytes, headers: dict[str, str]) -> None:
        request.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(data))}).items():
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(data)


@contextmanager
def serving(rule: Rule) -> Iterator[Server]:
    """A running server."""
    server = Server(rule)
    thread = threading.Thread(target=server.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.speak.set()
        server.http.shutdown()
        server.http.server_close()
