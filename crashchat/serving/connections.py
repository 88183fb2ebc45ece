"""Connections to `crashchat serve`: there is an end to how many,
and to how long a client may take to say what it wants.
"""

import asyncio
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from crashchat.serving.clip_service import Limits

FULL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 10\r\nConnection: close\r\n\r\n"
)


class Connection(H11Protocol):
    """Uvicorn's, closed where a request's headers are not there in time,
    answered at once where there are too many.

    Uvicorn itself ends only a connection that says nothing after an answer.
    """

    def __init__(self, *, limits: Limits, **settings):
        super().__init__(**settings)
        self.limits = limits
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for the first request."""
        # What a server's connection comes over can be written to, which asyncio's own type leaves open.
        super().connection_made(cast(asyncio.Transport, transport))
        if len(self.connections) > self.limits.connections:
            self.transport.write(FULL)
            self.transport.close()
        else:
            self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in what the client says."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, error: Exception | None) -> None:
        """Stop to wait."""
        super().connection_lost(error)
        self._forget()

    def _watch(self) -> None:
        """Wait where headers are to come, and no longer than from their first byte on;
        not while a request is in work.
        """
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.limits.header_seconds, self._close)

    def _forget(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close(self) -> None:
        self._deadline = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
