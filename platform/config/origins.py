"""Sockets are opened by the console's own pages and by nobody else's.

A browser sends cookies along with any page's socket and lets that page read it; what it says in `Origin` (RFC 6454)
is the only thing that tells them apart. Compared whole: Channels' own validator takes it to pieces, and ends with an
error where there are none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from gateway.targets import origin_of

App = Callable[[Any, Any, Any], Awaitable[None]]


class OneOrigin:
    """Around the sockets: 403 for every origin but that of `url`, and for none."""

    def __init__(self, app: App, url: str) -> None:
        self.app = app
        self.origin = origin_of(url).encode()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass on or refuse, before the socket is accepted."""
        if [value for name, value in scope["headers"] if name == b"origin"] == [self.origin]:
            await self.app(scope, receive, send)
            return
        await receive()
        await send({"type": "websocket.close", "code": 1008})
