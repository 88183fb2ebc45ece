"""Uploads: twenty clients at once at a real server, good clips,
broken ones and requests that are not meant well.
"""

import re
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx

from tests.faults.bench import ROOT, TINY_BASE, Bench, Row, drawing
from tests.faults.running import SLOWEST, Running, peak
from tests.helpers.flashes import frames, write_video
from tests.helpers.forks import free_port

CLIENTS = 20
MOST_MEMORY = 2.5e9  # bytes that the server may take
NAMES = ("../../../etc/cron.d/x.mp4", '<script>".mp4', "a\\..\\b.mp4", "é" * 300 + ".mp4", "x.sh", "%00.mp4")
ORIGINS = ("http://[evil", "http://example.org", "null", "//", "http://[::1")
HOSTS = ("example.org", "127.0.0.1.example.org", "[", "localhost@x")
TRACES = re.compile(
    rf"Traceback|File \"|{re.escape(str(ROOT))}|crashchat-[a-z0-9_]{{6}}"
)  # nothing of these in an answer


def server_words(port: int, mebibytes: int) -> list[object]:
    """The command line of a server that takes uploads of so many MiB and is quick with them."""
    small = f"--fps 1 --max-frames 8 --max-new-tokens 4 --max-seconds 60 --max-mebibytes {mebibytes}"
    words = [sys.executable, "-m", "crashchat", "serve", "--port", port, "--model", TINY_BASE]
    return [*words, *small.split()]


class Crowd:
    """A server and the clips that are sent to it."""

    def __init__(self, folder: Path):
        (folder / "tmp").mkdir(parents=True)
        self.folder, self.url = folder, f"http://127.0.0.1:{free_port()}"
        self.good = write_video(folder / "good.mp4", frames(90, 12, (5, 8))).read_bytes()
        words = server_words(int(self.url.rpartition(":")[2]), 1)
        self.server = Running(words, folder / "server.log", TMPDIR=str(folder / "tmp"))
        end = time.monotonic() + SLOWEST
        while not self._answers():
            if self.server.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server did not start\n{self.server.output()[-3000:]}")
            time.sleep(0.2)
        self.expected = self._post(self.good, "good.mp4", {}).json()["windows"]

    def _answers(self) -> bool:
        try:
            return httpx.get(f"{self.url}/api/health", timeout=30).status_code == 200
        except httpx.TransportError:
            return False

    def _post(self, data: bytes, name: str, headers: dict[str, str]) -> httpx.Response:
        return httpx.post(
            f"{self.url}/api/analyze", files={"file": (name, data)}, headers=headers, timeout=SLOWEST
        )

    def send(self, seed: int, number: int) -> tuple[str, str]:
        """One upload, asked again as long as the server is full: how it was answered, and what is wrong."""
        draw = drawing("uploads", seed, number)
        data, name, headers, status = self.good, "good.mp4", {}, (200,)
        match draw.randrange(10):
            case 0:
                data, status = draw.randbytes(draw.randrange(5000)), (422,)
            case 1:
                data, status = data[: draw.randrange(len(data) // 2)], (422,)
            case 2:
                name = draw.choice(NAMES)
            case 3:
                headers, status = {"Origin": draw.choice(ORIGINS)}, (400, 403)
            case 4:
                headers, status = {"Host": draw.choice(HOSTS)}, (400,)
            case 5:
                data, status = bytes(3 * 2**20), (413,)
        end = time.monotonic() + SLOWEST
        while True:
            try:
                answer = self._post(data, name, headers)
            except httpx.TransportError as error:
                return "", f"{name!r}, {headers}: {type(error).__name__}: {error}"
            if answer.status_code != 503:
                break
            if time.monotonic() > end:
                return "", f"told 503 for {SLOWEST:.0f} s"
            time.sleep(0.2 + 0.5 * draw.random())
        wrong = ""
        if answer.status_code not in status:
            wrong = f"answered {answer.status_code}, expected {status}"
        elif TRACES.search(answer.text):
            wrong = f"the answer holds {TRACES.search(answer.text)[0]!r}"
        elif answer.status_code == 200 and answer.json()["windows"] != self.expected:
            wrong = "the answer is another than alone"
        return (
            f"answered {answer.status_code}",
            wrong and f"{len(data):,} bytes as {name[:40]!r}, {headers}: {wrong}",
        )

    def stop(self) -> str:
        """Stop the server; returns what it left, or how it ended."""
        left = [path.name for path in self.folder.glob("tmp/**/*") if path.suffix in (".mp4", ".video")]
        self.server.process.terminate()
        wrong = self.server.wait(120) or (f"clips are left: {left[:5]}" if left else "")
        folders = [path.name for path in (self.folder / "tmp").iterdir()]
        wrong = wrong or (f"folders are left: {folders[:5]}" if folders else "")
        wrong = wrong or ("the log holds a traceback" if "Traceback" in self.server.output() else "")
        return wrong or (f"exit code {self.server.code}" if self.server.code else "")


def run(bench: Bench, seed: int, numbers: Iterable[int]) -> Row:
    """All of them from CLIENTS clients; then the server must have little memory, no clip, and an end."""
    crowd, numbers = Crowd(bench.folder / "uploads"), list(numbers)
    row, taken = Row(f"uploads from {CLIENTS} clients, asked again after a 503"), 0
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            for number, (kind, loss) in zip(
                numbers, pool.map(lambda number: crowd.send(seed, number), numbers), strict=True
            ):
                row.add(number, kind, loss)
        taken = peak(crowd.server.process.pid)
    finally:
        wrong = crowd.stop()
    if wrong or taken > MOST_MEMORY:
        row.losses.append((None, f"the server afterwards: {wrong or f'took {taken / 1e9:.1f} GB'}"))
    row.what += f"; the server took {taken / 1e9:.1f} GB"
    return row
