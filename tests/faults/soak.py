"""A server for an hour: good and broken clips, jobs, questions, clients that are slow or leave,
on a disk that is full for some seconds of every minute, killed three times in the first third.

The disk is a tmpfs in a mount namespace of its own, in which the server is started anew whenever it was
killed. Clients ask again after a 503 and after a lost connection, as one would; what counts is that each
request that ought to has the answer it would have alone, and that memory stays as it was.
"""

import base64
import contextlib
import itertools
import json
import os
import random
import signal
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import httpx

from crashchat.serving.refusals import FULL_DISK
from tests.faults.bench import Bench, Row, drawing
from tests.faults.running import Running
from tests.faults.uploads import TRACES, server_words
from tests.helpers.flashes import frames, write_video
from tests.helpers.forks import free_port

# Arguments: the disk, the folder for what is told about it, seconds between two full disks, command.
SCRIPT = """
disk=$1 folder=$2 pause=$3; shift 3
mount -t tmpfs -o size=48m tmpfs "$disk" || exit 90
(while kill -0 $$ 2>/dev/null; do
    sleep "$pause"
    compgen -G "$disk/crashchat-*" > "$folder/own" || continue
    touch "$folder/full"; echo full >> "$folder/fills"; head -c 1G /dev/zero > "$disk/fill" 2>/dev/null
    sleep 5
    rm -f "$disk/fill" "$folder/full"
done) &
while [[ ! -e "$folder/stop" ]]; do
    "$@" & echo $! > "$folder/pid"
    wait $!; echo $? >> "$folder/codes"
done
ls -A "$disk" | grep -v -x fill > "$folder/left"
"""
KILLS = (0.1, 0.2, 0.3)  # of the whole time
PATIENCE = 180.0  # seconds after which a request that was always refused is lost
SETTLED = 300.0  # seconds, a shorter run says nothing of memory
GROWN = 1.1  # memory in the last quarter of the time against the first after the kills
PADDING = 200_000
QUESTION = "What happens in this video?"


def _unexpected(answer: httpx.Response, status: int) -> str:
    """What is wrong with an answer of another status."""
    return "" if answer.status_code == status else f"answered {answer.status_code}: {answer.text[:200]}"


class Soak:
    """The server, its clients, and what came of it."""

    def __init__(self, bench: Bench, seed: int, minutes: float, kills: Sequence[float] = KILLS):
        """kills: when, of the whole time."""
        self.folder, self.seed, self.seconds = bench.folder / "soak", seed, 60.0 * minutes
        self.kills, self.refused_full = kills, 0
        (self.folder / "disk").mkdir(parents=True)
        port = free_port()
        self.url, self.row = f"http://127.0.0.1:{port}", Row(f"{minutes:g} minutes of a server")
        self.small = write_video(self.folder / "good.mp4", frames(90, 12, (5, 8))).read_bytes()
        # An atom that says nothing: a full disk has room for some more bytes.
        self.good = self.small + struct.pack(">I4s", 8 + PADDING, b"free") + bytes(PADDING)
        pause = max(1, min(55, int(self.seconds / 12)))
        words = [self.folder / "disk", self.folder, pause, *server_words(port, 4)]
        self.running = Running(
            ["unshare", "-rm", "bash", "-c", SCRIPT, "soak", *words],
            self.folder / "log",
            TMPDIR=str(self.folder / "disk"),
        )
        self.lock, self.numbers = threading.Lock(), itertools.count()
        self.memory: list[tuple[float, int]] = []  # (seconds since the start, bytes)
        self.expected: dict[str, object] = {}

    @property
    def pid(self) -> int:
        """The server's process."""
        return int((self.folder / "pid").read_text())

    def until_answered(self, ask: Callable[[], httpx.Response]) -> httpx.Response:
        """The first answer that is none of a server that is full, ending or away. Raises TimeoutError."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                answer = ask()
                if answer.status_code not in (429, 503):
                    return answer
                self.refused_full += FULL_DISK in answer.text
            time.sleep(0.5)
        raise TimeoutError(f"refused for {PATIENCE:.0f} s")

    def _upload(self, path: str, data: bytes) -> httpx.Response:
        return self.until_answered(
            lambda: httpx.post(f"{self.url}{path}", files={"file": ("clip.mp4", data)}, timeout=PATIENCE)
        )

    def analyze(self, draw: random.Random) -> str:
        """A good clip: its windows as alone."""
        del draw
        answer = self._upload("/api/analyze", self.good)
        return _unexpected(answer, 200) or self._as_alone("windows", answer.json()["windows"])

    def _as_alone(self, what: str, value: object) -> str:
        """What is wrong with an answer that ought to be as the first of its kind was."""
        with self.lock:
            expected = self.expected.setdefault(what, value)
        return "" if value == expected else f"{what}: {value}, alone {expected}"

    def broken(self, draw: random.Random) -> str:
        """Bytes that are no clip, or the beginning of one."""
        data = draw.choice((draw.randbytes(draw.randrange(5000)), self.small[: len(self.small) // 3]))
        answer = self._upload("/api/analyze", data)
        if loss := _unexpected(answer, 422):
            return f"a broken clip: {loss}"
        return "the answer to a broken clip holds a trace" if TRACES.search(answer.text) else ""

    def job(self, draw: random.Random) -> str:
        """A job, asked about until it has ended; begun again where the server that had it was killed."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            begun = self._upload("/api/jobs", self.good)
            if loss := _unexpected(begun, 202):
                return f"a job: {loss}"
            ended = self._ended(f"{self.url}/api/jobs/{begun.json()['id']}", draw)
            if ended.status_code == 200:
                return self._as_alone("windows", ended.json()["result"]["windows"])
        return "a job: forgotten again and again"

    def _ended(self, job: str, draw: random.Random) -> httpx.Response:
        """What is said of a job when it has ended, or is not known any more."""
        while True:
            answer = self.until_answered(lambda: httpx.get(job, timeout=PATIENCE))
            if answer.status_code != 200 or answer.json()["status"] not in ("queued", "running"):
                return answer
            time.sleep(0.2 + draw.random())

    def question(self, draw: random.Random) -> str:
        """A program's question, whole or streamed; the words are the same."""
        video = {"url": f"data:video/mp4;base64,{base64.b64encode(self.good).decode()}"}
        parts = [{"type": "video_url", "video_url": video}, {"type": "text", "text": QUESTION}]
        streamed = draw.random() < 0.5
        model = self.until_answered(lambda: httpx.get(f"{self.url}/v1/models", timeout=PATIENCE))
        body = {
            "model": model.json()["data"][0]["id"],
            "messages": [{"role": "user", "content": parts}],
            "stream": streamed,
        }

        def ask() -> httpx.Response:
            answer = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=PATIENCE)
            if streamed and answer.status_code == 200 and "data: [DONE]" not in answer.text:
                raise httpx.ReadError("the stream ended early")
            return answer

        answer = self.until_answered(ask)
        if loss := _unexpected(answer, 200):
            return f"a question: {loss}"
        if not streamed:
            return self._as_alone("answer", answer.json()["choices"][0]["message"]["content"])
        lines = (line.removeprefix("data: ") for line in answer.text.splitlines() if line)
        deltas = (json.loads(line)["choices"][0]["delta"] for line in lines if line != "[DONE]")
        return self._as_alone("answer", "".join(delta.get("content") or "" for delta in deltas))

    def leave(self, draw: random.Random) -> str:
        """A client that sends part of a clip, slowly or at once, and goes away."""
        head = (
            f"POST /api/analyze HTTP/1.1\r\nHost: {self.url.removeprefix('http://')}\r\n"
            f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {len(self.good) + 200}\r\n\r\n"
            '--b\r\nContent-Disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'
        )
        address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        with contextlib.suppress(OSError), socket.create_connection(address, timeout=10) as link:
            link.sendall(head.encode())
            if draw.random() < 0.5:
                link.sendall(self.good[: draw.randrange(len(self.good))])
                return ""
            for byte in self.good[: draw.randrange(2, 20)]:
                link.sendall(bytes([byte]))
                time.sleep(1)
        return ""

    def client(self, does: Callable[[random.Random], str], end: float) -> None:
        """One client, until the end, with pauses."""
        while time.monotonic() < end:
            number = next(self.numbers)
            draw = drawing("soak", self.seed, number)
            try:
                loss = does(draw)
            except Exception as error:  # whatever it is, the request has no answer
                loss = f"{does.__name__}: {type(error).__name__}: {error}"
            with self.lock:
                self.row.add(number, does.__name__, loss)
            time.sleep(draw.uniform(0.5, 3))

    def resident(self) -> int:
        """Bytes that the server holds now; 0 while it is away."""
        with contextlib.suppress(OSError, ValueError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        return 0

    def run(self) -> Row:
        """All of it."""
        answer = self.until_answered(lambda: httpx.get(f"{self.url}/api/health", timeout=30))
        assert answer.status_code == 200, answer.text
        began = time.monotonic()
        does = (self.analyze, self.analyze, self.broken, self.job, self.question, self.leave)
        clients = [threading.Thread(target=self.client, args=(one, began + self.seconds)) for one in does]
        for client in clients:
            client.start()
        kills = [share * self.seconds for share in self.kills]
        while any(client.is_alive() for client in clients):
            time.sleep(1)
            passed = time.monotonic() - began
            # Not on a full disk: a server that starts there takes another folder for temporary files.
            if kills and passed > kills[0] and not (self.folder / "full").exists():
                kills.pop(0)
                os.kill(self.pid, signal.SIGKILL)
            self.memory.append((passed, self.resident()))
        wrong = self._stop()
        if wrong:
            self.row.losses.append((None, wrong))
        fills = len((self.folder / "fills").read_text().splitlines())
        self.row.what += (
            f" that was killed {len(self.kills)} times and had a full disk {fills} times, of which it told "
            f"{self.refused_full} times"
        )
        if not self.refused_full:
            self.row.losses.append((None, "no request met a full disk"))
        if self.seconds >= SETTLED:
            self._compare_memory()
        return self.row

    def _compare_memory(self) -> None:
        """Tell how much the server held half-way and at the end; a loss where that grew."""
        first, last = (self._held(*part) for part in ((0.5, 0.625), (0.875, 1.0)))
        told = f"{first / 1e9:.2f} GB half-way, {last / 1e9:.2f} GB at the end"
        self.row.what += f"; it held {told}"
        if last > GROWN * first:
            self.row.losses.append((None, f"memory grew: {told}"))

    def _held(self, begin: float, end: float) -> float:
        """The median of the bytes held in a part of the time, of which memory was looked at every second."""
        return statistics.median(
            held for passed, held in self.memory if begin <= passed / self.seconds <= end
        )

    def _stop(self) -> str:
        """Tell the server to end; what is wrong then."""
        (self.folder / "stop").touch()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGTERM)
        wrong = self.running.wait(120)
        if self.running.code == 90:
            return f"the disk could not be mounted: {self.running.output().strip()}"
        codes = list(map(int, (self.folder / "codes").read_text().split()))
        if codes != [128 + signal.SIGKILL] * len(self.kills) + [0]:
            wrong = wrong or f"exit codes {codes}, expected one of 137 a kill and then 0"
        left = (self.folder / "left").read_text().split()
        wrong = wrong or (f"left behind: {left[:5]}" if left else "")
        return wrong or ("the log holds a traceback" if "Traceback" in self.running.output() else "")


def run(bench: Bench, seed: int, numbers: Iterable[int]) -> Row:
    """As many minutes as there are numbers."""
    return Soak(bench, seed, len(list(numbers))).run()
