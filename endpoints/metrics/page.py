"""One GET of a page of text from a server that is not trusted: 200 or nothing, bounded in time and bytes.

HTTP/1.1 as of RFC 9112, as much of it as an answer to this one question can use.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,12})[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r\n", re.IGNORECASE)
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n")
_MOST_HEAD = 16_384


@dataclass(frozen=True, slots=True)
class Target:
    """Where one replica's page is. host: a literal IP address, the replica's own."""

    name: str
    host: str
    port: int
    path: str


async def page_of(target: Target, limit_s: float, most_bytes: int) -> bytes | None:
    """What it answers; None if that is no whole 200 of at most so many bytes within so many seconds."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bytes | None] = loop.create_future()
    transport = None
    page = None
    try:
        async with asyncio.timeout(limit_s):
            transport, _ = await loop.create_connection(
                lambda: _Reader(answer, most_bytes), target.host, target.port
            )
            transport.write(_question(target))
            page = await answer
    except (OSError, TimeoutError, UnicodeError):
        return None
    finally:
        if transport is not None:
            # A goodbye to one that answered; one that is stuck would keep what it was sent.
            (transport.close if page is not None else transport.abort)()
    return page


def _question(target: Target) -> bytes:
    host = f"[{target.host}]" if ":" in target.host else target.host
    return (
        f"GET {target.path} HTTP/1.1\r\nHost: {host}:{target.port}\r\n"
        "Accept: text/plain;version=0.0.4\r\nConnection: close\r\n\r\n"
    ).encode()


class _Reader(asyncio.Protocol):
    """Collects one answer and judges it as soon as it can be judged."""

    def __init__(self, answer: asyncio.Future[bytes | None], most_bytes: int) -> None:
        self._answer = answer
        self._most = most_bytes
        self._got = bytearray()
        self._body_at = 0  # 0: the head is not complete
        self._length: int | None = None
        self._chunked = False

    def data_received(self, data: bytes) -> None:
        """Some of it."""
        if self._answer.done():
            return
        self._got += data
        if not self._body_at and not self._read_head():
            return
        size = len(self._got) - self._body_at
        # In chunks, what frames them comes on top: it may be as much again, and no more.
        if size > self._most * (2 if self._chunked else 1):
            self._end(None)
        elif self._length is not None and size >= self._length:
            self._end(bytes(self._got[self._body_at : self._body_at + self._length]))

    def connection_lost(self, exc: Exception | None) -> None:
        """The end of an answer that did not say how long it is; of any other, too early."""
        page = None
        if self._body_at and self._length is None and exc is None:
            page = bytes(self._got[self._body_at :])
            page = dechunked(page) if self._chunked else page
        self._end(page if page is not None and len(page) <= self._most else None)

    def _read_head(self) -> bool:
        """False while it is incomplete, and when it ends the matter."""
        end = self._got.find(b"\r\n\r\n", 0, _MOST_HEAD)
        if end < 0:
            if len(self._got) >= _MOST_HEAD:
                self._end(None)
            return False
        head = bytes(self._got[: end + 2])
        self._body_at = end + 4
        if not head.startswith(b"HTTP/1.") or head[8:13] not in (b" 200 ", b" 200\r"):
            self._end(None)
            return False
        length = _LENGTH.search(head)
        self._chunked = _CHUNKED.search(head) is not None
        self._length = int(length[1]) if length and not self._chunked else None
        if self._length is not None and self._length > self._most:
            self._end(None)
            return False
        return True

    def _end(self, page: bytes | None) -> None:
        if not self._answer.done():
            self._answer.set_result(page)
        self._got = bytearray()
        self._body_at = 0


def dechunked(text: bytes) -> bytes | None:
    """The body in it; None if it is not whole. RFC 9112 §7.1."""
    parts: list[bytes] = []
    at = 0
    while size := _SIZE.match(text, at):
        length, at = int(size[1], 16), size.end()
        if not length:
            return b"".join(parts)
        parts.append(text[at : at + length])
        at += length
        if text[at : at + 2] != b"\r\n":
            return None
        at += 2
    return None
