"""What `crashchat serve` counts, for Prometheus: /metrics."""

import re
import time

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from crashchat.serving.clip_service import ClipService

# What is counted by name; all else of the page is one.
COUNTED = re.compile(r"/api/(health|analyze|jobs)|/v1/(models|files|chat/completions)|/metrics")
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
    """Counts requests, as a layer around the app. Plain ASGI."""

    def __init__(self, app, service: ClipService):
        self.app, self.registry = app, CollectorRegistry()
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
        self.registry.register(_Now(service))
        service.told = lambda: generate_latest(self.registry)

    async def __call__(self, scope, receive, send):
        """Let the request through, and count it."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        found = COUNTED.match(scope["path"])
        path, status, started = found[0] if found else "page", 0, time.monotonic()

        async def watched(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            return await self.app(scope, receive, watched)
        finally:
            self.requests.labels(path, str(status)).inc()
            self.seconds.labels(path).observe(time.monotonic() - started)
