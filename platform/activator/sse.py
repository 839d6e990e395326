"""A streamed answer that begins before there is anybody to answer: Server-Sent Events, HTML Standard §9.2.

Until the model server speaks, comment lines keep the caller informed; readers of event streams skip them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

HEAD = (
    b"HTTP/1.1 200 OK\r\n"
    b"content-type: text/event-stream; charset=utf-8\r\n"
    b"cache-control: no-cache\r\n"
    b"x-accel-buffering: no\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)
LAST = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """As a chunk of the body (RFC 9112 §7.1). Empty data is no chunk: that would end the body."""
    return f"{len(data):x}\r\n".encode() + data + b"\r\n" if data else b""


def comment(text: str) -> bytes:
    """One line that nobody takes for an event."""
    return chunk(f": {' '.join(text.split())}\n\n".encode())


def waking(phase: str, left: str) -> bytes:
    """How far the wake is. phase: what happens now; left: how long it will take, "" if nobody knows."""
    return comment(", ".join(part for part in (f"waking: {phase or 'starting a replica'}", left) if part))


def error(fields: Mapping[str, Any]) -> bytes:
    """The last event: what went wrong, as OpenAI's streams say it. Ends the body."""
    return chunk(f"data: {json.dumps({'error': dict(fields)})}\n\n".encode()) + LAST
