"""A browser's WebSocket to the ASGI application, without a server in between."""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote

from asgiref.testing import ApplicationCommunicator


class Socket(ApplicationCommunicator):
    """Channels has one of these, behind an import of a server that we do not use."""

    def __init__(self, application: Any, path: str, headers: list[tuple[bytes, bytes]]) -> None:
        plain, _, query = path.partition("?")
        self.scope = {
            "type": "websocket",
            "path": unquote(plain),
            "query_string": query.encode(),
            "headers": headers,
            "subprotocols": [],
        }
        super().__init__(application, self.scope)

    async def connect(self, within: float = 2.0) -> bool:
        """Whether the application accepted."""
        await self.send_input({"type": "websocket.connect"})
        message = await self.receive_output(within)
        return bool(message["type"] == "websocket.accept")

    async def receive(self, within: float) -> str:
        """The next text frame."""
        message = await self.receive_output(within)
        assert message["type"] == "websocket.send", message
        return str(message["text"])

    async def disconnect(self, within: float = 2.0) -> None:
        """As a browser that leaves the page."""
        await self.send_input({"type": "websocket.disconnect", "code": 1001})
        await self.wait(within)
