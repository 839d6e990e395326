"""What a slow or greedy client may take of the web process, which may face the network itself.

Uvicorn bounds neither a request's headers nor the time until they, or its body, have come; Django writes a body of any
length to the disk before anybody looks at the request. `LimitedProtocol` is uvicorn's own HTTP protocol with the
clocks and counts (`uvicorn --http config.web_limits:LimitedProtocol`), `BodyLimit` stands around the application.
Answers have no clock, and WebSockets, once they are open, are left to their own pings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEADER_BYTES = 64 * 1024  # the request line and all headers
HEADERS_S = 15.0
BODY_S = 120.0
BODY_BYTES = 4 * 1024 * 1024
# What gateways ship; they have a token, and are asked for it before anything is kept.
INTERNAL_BODY_BYTES = 64 * 1024 * 1024

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Any, Any, Any], Awaitable[None]]

_TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class LimitedProtocol(HttpToolsProtocol):
    """One connection."""

    _clock: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request's headers are due."""
        super().connection_made(transport)
        self._wind(HEADERS_S)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._wind(0)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Count what belongs to headers that have no end yet."""
        if self._in_head:
            if self._clock is None:  # the first bytes of a further request
                self._wind(HEADERS_S)
            self._head_bytes += len(data)
        before = self._head_bytes
        super().data_received(data)
        if self._in_head and before == self._head_bytes > HEADER_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        """The body is due, unless this becomes a WebSocket."""
        self._in_head, self._head_bytes = False, 0
        self._wind(0 if self.parser.should_upgrade() else BODY_S)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is here. The next one may take as long to begin as the kept connection lasts."""
        self._in_head = True
        self._wind(0)
        super().on_message_complete()

    def _wind(self, seconds: float) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = self.loop.call_later(seconds, self._too_slow) if seconds else None

    def _too_slow(self) -> None:
        self._clock = None
        if not self.transport.is_closing():
            self.transport.abort()


class BodyLimit:
    """Around the application: 413 by Content-Length, and for a longer body without one where it passes the limit."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Pass the request on, counting."""
        internal = scope["path"].startswith("/internal/")
        limit = INTERNAL_BODY_BYTES if internal else BODY_BYTES
        if _announced(scope) > limit:
            await _refuse(send)
            return
        taken, answered = 0, False

        async def counted() -> Message:
            nonlocal taken
            message: Message = {"type": "http.disconnect"} if taken > limit else await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
            return {"type": "http.disconnect"} if taken > limit else message

        async def noted(message: Message) -> None:
            nonlocal answered
            answered = True
            await send(message)

        await self.app(scope, counted, noted)
        if taken > limit and not answered:
            await _refuse(send)


def _announced(scope: Any) -> int:
    text = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(text) if text.isdigit() else 0


async def _refuse(send: Send) -> None:
    body = json.dumps(
        {
            "type": "urn:berth:problem:request-too-large",
            "title": "Content Too Large",
            "status": 413,
            "detail": "The request's body is larger than anything that is asked for here.",
        }
    ).encode()
    headers = [
        (b"content-type", b"application/problem+json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})
