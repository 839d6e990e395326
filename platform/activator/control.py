"""The conversation with the control plane: one question, one answer, on a connection that is kept.

POST /internal/activator   {"activator", "instance", "waiting", "connections", "gone"}
→ {"endpoints": {endpoint id: …}}, see lines.Word
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import h11

PATH = "/internal/activator"
TIMEOUT_S = 5.0
_ANSWER_LIMIT = 8 * 1024 * 1024


class ControlAway(Exception):
    """The control plane gave no usable answer; who waits goes on waiting."""


class Control:
    """One question at a time."""

    def __init__(self, url: str, token_file: Path) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"--control must be an http(s) URL, not {url!r}")
        self._host, self._tls = parts.hostname, parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/") + PATH
        self._token_file = token_file
        self._open: tuple[h11.Connection, asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def token(self) -> str:
        """What it has in common with gateways and control plane. Raises OSError."""
        return self._token_file.read_text().strip()

    async def ask(self, said: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to `said`. Raises ControlAway."""
        body = json.dumps(said, separators=(",", ":")).encode()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                status, data = await self._asked(body)
            if status != 200:
                raise ControlAway(f"answered {status}")
            found = json.loads(data)
            if not isinstance(found, dict):
                raise ValueError("no object")
            return found
        except (OSError, TimeoutError, ValueError, h11.RemoteProtocolError) as error:
            self.close()
            raise ControlAway(str(error) or type(error).__name__) from error

    async def _asked(self, body: bytes) -> tuple[int, bytes]:
        if self._open is not None:
            try:  # a kept connection may have been closed by the other side just now
                return await self._exchange(body)
            except (OSError, h11.RemoteProtocolError):
                self.close()
        return await self._exchange(body)

    async def _exchange(self, body: bytes) -> tuple[int, bytes]:
        if self._open is None:
            reader, writer = await asyncio.open_connection(self._host, self._port, ssl=self._tls or None)
            self._open = h11.Connection(h11.CLIENT), reader, writer
        talk, reader, writer = self._open
        host = f"[{self._host}]" if ":" in self._host else self._host
        headers = [
            ("host", f"{host}:{self._port}"),
            ("authorization", f"Bearer {self.token()}"),
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
        ]
        request = h11.Request(method="POST", target=self._path, headers=headers)
        for event in (request, h11.Data(data=body), h11.EndOfMessage()):
            writer.write(talk.send(event) or b"")
        await writer.drain()
        status, data = await self._answer(talk, reader)
        if talk.our_state is h11.MUST_CLOSE or talk.their_state is h11.MUST_CLOSE:
            self.close()
        else:
            talk.start_next_cycle()
        return status, data

    async def _answer(self, talk: h11.Connection, reader: asyncio.StreamReader) -> tuple[int, bytes]:
        status, data = 0, bytearray()
        while True:
            event = talk.next_event()
            if event is h11.NEED_DATA:
                talk.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                data += event.data
                if len(data) > _ANSWER_LIMIT:
                    raise ValueError("an answer without end")
            elif isinstance(event, h11.EndOfMessage):
                return status, bytes(data)
            elif isinstance(event, h11.ConnectionClosed):
                raise ConnectionResetError("closed before it answered")

    def close(self) -> None:
        """Forget the connection."""
        if self._open is not None:
            self._open[2].close()
            self._open = None
