"""What `crashchat serve` counts, for Prometheus: /metrics; and a line of JSON a request,
where it is asked for.
"""

import json
import re
import secrets
import sys
import time
from datetime import UTC, datetime

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from crashchat.serving.clip_service import ClipService

# What is counted by name; all else of the page is one.
COUNTED = re.compile(r"/api/(health|analyze|jobs)|/v1/(models|files|chat/completions)|/metrics")
ID = b"x-request-id"
SECONDS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)


class _Now(Collector):
    """What is so at this moment."""

    def __init__(self, service: ClipService):
        self.service = service

    def collect(self):
        """See Collector."""
        inside = GaugeMetricFamily("crashchat_in_work", "Clips and questions waiting or in work")
        inside.add_metric([], self.service.inside)
        jobs = GaugeMetricFamily("crashchat_jobs", "Jobs that are told of, by status", labels=["status"])
        for status, count in self.service.jobs.counts().items():
            jobs.add_metric([status], count)
        yield from (inside, jobs)


class Metrics:
    """Counts requests, as a layer around the app. Plain ASGI.

    log: write a line of JSON to standard error when a request is answered. Its id is the answer's header
    x-request-id; names of clips, questions and answers are not in it.
    """

    def __init__(self, app, service: ClipService, log: bool = False):
        self.app, self.log, self.registry = app, log, CollectorRegistry()
        self.requests = Counter(
            "crashchat_requests", "Requests answered", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "crashchat_request_seconds",
            "From a request's first byte to its answer's last",
            ["path"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.service = service
        self.registry.register(_Now(service))
        service.told = lambda: generate_latest(self.registry)

    async def __call__(self, scope, receive, send):
        """Let the request through, and count it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        found = COUNTED.match(scope["path"])
        path, status, started = found[0] if found else "page", 0, time.monotonic()
        name, received, sent = secrets.token_hex(8), 0, 0

        async def heard():
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            return message

        async def watched(message):
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), (ID, name.encode())]}
            sent += len(message.get("body", b""))
            await send(message)

        try:
            return await self.app(scope, heard, watched)
        finally:
            seconds = time.monotonic() - started
            self.requests.labels(path, str(status)).inc()
            self.seconds.labels(path).observe(seconds)
            if self.log:
                line = {
                    "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                    "id": name,
                    "client": (scope.get("client") or [None])[0],
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "seconds": round(seconds, 3),
                    "received_bytes": received,
                    "sent_bytes": sent,
                    "in_work": self.service.inside,
                }
                print(json.dumps(line), file=sys.stderr, flush=True)
