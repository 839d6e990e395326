"""Where a socket comes from: what OriginMiddleware is for requests."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from iam.addresses import address_of, is_trusted
from iam.origin import HEADER, Origin, acting_from, request_id_of

App = Callable[[Any, Any, Any], Awaitable[None]]


class SocketOrigin:
    """Around the sockets: what a consumer does and logs, in threads and tasks of its own too, names its connection."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """One connection, from its start to its end."""
        peer = (scope.get("client") or ("",))[0]
        headers = {name.lower(): value.decode("latin-1") for name, value in scope.get("headers", ())}
        request_id = request_id_of(headers.get(HEADER.lower().encode()), trusted=is_trusted(peer))
        address = address_of(peer, headers.get(b"x-forwarded-for", ""))
        with acting_from(Origin(address, request_id)):
            await self._app(scope, receive, send)
