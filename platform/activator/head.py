"""The head of a request as a gateway sends it: read, and written again for a replica without what is ours."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gateway import names

LIMIT = 96 * 1024  # bytes; more than Envoy lets through (60 KiB)
_END = b"\r\n\r\n"
_STREAMING_PATHS = ("/completions", "/responses")
_OURS = (names.ENDPOINT_HEADER, names.SECRET_HEADER)


class NotHttp(ValueError):
    """What came is no request."""


@dataclass(frozen=True, slots=True)
class Head:
    """A request's first line and headers, in their order; names as they were sent."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        """The first value of a header, "" if there is none. name: in lower case."""
        return next((value for key, value in self.headers if key.lower() == name), "")

    def written(self, *, instead: Sequence[tuple[str, str]] = ()) -> bytes:
        """For a replica: as received, but for our own headers, and on a connection that ends with the answer.
        instead: headers that replace their namesakes."""
        if not self.get("upgrade"):
            instead = (*instead, ("connection", "close"))
        dropped = {*_OURS, *(name for name, _ in instead)}
        kept = [(name, value) for name, value in self.headers if name.lower() not in dropped]
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in (*kept, *instead)]
        return "\r\n".join(lines).encode("latin-1") + _END

    @property
    def may_ask_for_stream(self) -> bool:
        """Whether it could be an OpenAI request for a stream: the body tells."""
        kind = self.get("content-type").partition(";")[0].strip().lower()
        return (
            self.method == "POST"
            and kind in ("application/json", "")
            and self.target.partition("?")[0].endswith(_STREAMING_PATHS)
            and not self.get("content-encoding")
        )


def read(data: bytearray) -> Head | None:
    """Take the head off the beginning of `data`; None if it is not whole yet. Raises NotHttp."""
    end = data.find(_END)
    if end < 0:
        if len(data) > LIMIT:
            raise NotHttp("a head without end")
        return None
    first, *lines = data[:end].decode("latin-1").split("\r\n")
    method, _, rest = first.partition(" ")
    target, _, version = rest.partition(" ")
    if not method or not target or version != "HTTP/1.1":
        raise NotHttp("no HTTP/1.1 request")
    headers = []
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise NotHttp("no header")
        headers.append((name, value.strip()))
    del data[: end + len(_END)]
    return Head(method, target, tuple(headers))


def body_of(head: Head, data: bytes) -> bytes | None:
    """The whole body, decoded, if `data` holds it; None if some of it is missing. Raises NotHttp."""
    if "chunked" in head.get("transfer-encoding").lower():
        return _dechunked(data)
    try:
        length = int(head.get("content-length") or 0)
    except ValueError as error:
        raise NotHttp("no content-length") from error
    return data[:length] if len(data) >= length else None


def _dechunked(data: bytes) -> bytes | None:
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        try:
            size = int(data[at:end].partition(b";")[0], 16)
        except ValueError as error:
            raise NotHttp("no chunk") from error
        if not size:
            # After the last chunk come trailers, if any, and an empty line.
            return b"".join(parts) if data.endswith(b"\r\n\r\n") else None
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 2 + size + 2
        if at > len(data):
            return None


def asks_for_stream(body: bytes) -> bool:
    """Whether this JSON says "stream": true."""
    if b'"stream"' not in body:
        return False
    try:
        found: Any = json.loads(body)
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("stream") is True
