"""A real `crashchat serve` for tests, and a client that says to its page's queue whatever it likes."""

import json
import re
import time
from pathlib import Path

import httpx

from tests.helpers.forks import begin, free_port
from tests.helpers.web import web


class Server:
    """`crashchat serve` in a process of its own. tmp: the folder in which it makes its private one."""

    def __init__(self, tmp: Path, *words: str, **environment: str):
        self.port, self.tmp = free_port(), tmp
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = tmp / "stderr"
        command = ["serve", "--port", str(self.port), *words]
        with open(self.log, "ab") as log:
            self.process = begin(command, log, environment={"TMPDIR": str(tmp)} | environment)
        deadline = time.monotonic() + 120
        while True:
            try:
                web.get(f"{self.url}/api/health", timeout=5)
                return
            except httpx.TransportError:
                assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.2)

    def private_folder(self) -> Path:
        (folder,) = self.tmp.glob("crashchat-*")
        return folder

    def clips(self) -> list[Path]:
        """Video files in its private folder, wherever in it."""
        return [path for path in self.private_folder().rglob("*") if path.suffix in (".mp4", ".video")]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(30)

    def analyze(self, clip: Path, **options) -> httpx.Response:
        return web.post(
            f"{self.url}/api/analyze", files={"file": (clip.name, clip.read_bytes())}, timeout=120, **options
        )

    def events(self) -> list[dict]:
        """What the page can ask of the server: id, inputs and outputs of each event."""
        text = web.get(self.url).text
        return json.JSONDecoder().raw_decode(text, re.search(r"window.gradio_config = ", text).end())[0][
            "dependencies"
        ]

    def upload(self, clip: Path) -> str:
        """Upload a clip as the page does; returns the path under which it waits."""
        answer = web.post(f"{self.url}/gradio_api/upload", files={"files": (clip.name, clip.read_bytes())})
        assert answer.status_code == 200, answer.text
        return answer.json()[0]

    def send(self, event: int, data: list, session: str) -> dict:
        """Send data to an event of the page; returns the message that ends it: success, output."""
        body = {"fn_index": event, "session_hash": session, "data": data}
        joined = web.post(f"{self.url}/gradio_api/queue/join", json=body)
        assert joined.status_code == 200, joined.text
        address = f"{self.url}/gradio_api/queue/data?session_hash={session}"
        with web.stream("GET", address, timeout=120) as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") in ("process_completed", "unexpected_error"):
                    return message
        raise AssertionError(f"the server said nothing of event {event}")
