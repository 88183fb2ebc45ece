"""A stand-in for the hub's HTTP interface on this machine."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34


class Hub:
    """A hub with one repository of `files`; those longer than 100 bytes are LFS files.

    Keeps a log of its requests.
    """

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        self.repo, self.files = repo, files
        self.sizes: dict[str, int] = {}  # what the listing claims, where it is not the truth
        self.sent: dict[str, bytes] = {}  # what is sent, where it is not what the listing's checksum says
        self.cut_after: int | None = None  # bytes of the next large answer after which the connection breaks
        self.stall_after: int | None = None  # … after which nothing more comes
        self.stalled, self.release = threading.Event(), threading.Event()
        self.paths: list[str] = []
        self.gets: list[tuple[str, str | None]] = []  # file and Range header
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *_) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def entry(self, name: str) -> dict:
        """One row of the tree listing."""
        data = self.files[name]
        size = self.sizes.get(name, len(data))
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        row = {"type": "file", "path": name, "size": size, "oid": blob}
        if len(data) > 100:
            row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": size, "pointerSize": 134}
        return row

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """Listing, commit and files; 404 with the hub's error code for everything else."""
        path = unquote(urlsplit(request.path).path)
        self.paths.append(path)
        for kind, files_at in (("models", ""), ("datasets", "/datasets")):
            if path.startswith(f"/api/{kind}/{self.repo}/revision/"):
                return self.send(
                    request, json.dumps({"id": self.repo, "sha": COMMIT, "siblings": []}).encode()
                )
            if path == f"/api/{kind}/{self.repo}/tree/{COMMIT}":
                return self.send(request, json.dumps([self.entry(name) for name in self.files]).encode())
            if path.startswith(start := f"{files_at}/{self.repo}/resolve/{COMMIT}/"):
                return self.send_file(request, path.removeprefix(start))
        self.send(request, b"", 404, {"X-Error-Code": "RepoNotFound"})

    def send(
        self,
        request,
        body: bytes,
        status: int = 200,
        headers: dict[str, str] | None = None,
        length: int | None = None,
    ):
        request.send_response(status)
        for name, value in {
            "Content-Length": str(length or len(body)),
            "X-Repo-Commit": COMMIT,
            **(headers or {}),
        }.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command == "GET":
            request.wfile.write(body)

    def send_file(self, request, name: str) -> None:
        data, wanted = self.sent.get(name, self.files[name]), request.headers.get("Range")
        self.gets.append((name, wanted))
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        headers = {"ETag": f'"{self.entry(name)["oid"]}"'}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        body, stop = data[start:], self.cut_after or self.stall_after
        if stop and len(body) > stop:
            self.send(request, body[:stop], 206 if wanted else 200, headers, length=len(body))
            if self.stall_after:
                request.wfile.flush()
                self.stalled.set()
                self.release.wait(20)
            self.cut_after = self.stall_after = None
            request.close_connection = True
        else:
            self.send(request, body, 206 if wanted else 200, headers)
