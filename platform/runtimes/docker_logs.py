"""A container's output as the engine sends it, taken apart here.

docker-py reads every line with two small reads of its own and would mix a long line's pieces with the times that
the engine puts before them; a container that prints without end makes both count.

The stream's format: https://docs.docker.com/reference/api/engine/version/v1.41/#tag/Container/operation/ContainerAttach
(8 bytes: which stream, three zeros, the length, big-endian; then that many bytes). With `timestamps`, each frame
begins with its time of fixed width; lines above 16 KiB come in several frames, of which only the last ends in "\\n".
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import docker.errors

from runtimes.contract import LOG_LINE_BYTES, LogLine
from runtimes.docker_client import Client
from runtimes.docker_errors import is_missing

_HEADER = 8
_READ_BYTES = 65536


def follow(client: Client, name: str, *, tail: int, after: str) -> Iterator[LogLine]:
    """See Runtime.follow_logs. Raises what docker-py raises; a container that is gone ends it."""
    answer = _ask(client, name, follow=1, timestamps=1, tail=tail)
    if answer is None:
        return
    with contextlib.closing(answer):
        yield from resumed(lines(frames(_pieces(answer))), tail=tail, after=after)


def whole(client: Client, name: str) -> Iterator[bytes]:
    """See Runtime.whole_log."""
    answer = _ask(client, name, follow=0, timestamps=0, tail="all")
    if answer is None:
        return
    with contextlib.closing(answer):
        yield from frames(_pieces(answer))


def _ask(client: Client, name: str, **params: object) -> Any:
    """The answer, its body not read yet; None if there is no such container."""
    url = client._url("/containers/{0}/logs", name)  # type: ignore[attr-defined]  # the stubs lack it
    params = {"stdout": 1, "stderr": 1, **params}
    try:
        answer = client._get(
            url, params=params, stream=True, timeout=(client.ask_s, client.silence_s or None)
        )
        client._raise_for_status(answer)  # type: ignore[attr-defined]
    except docker.errors.APIError as error:
        if is_missing(error, "container"):
            return None
        raise
    return answer


def _pieces(answer: Any) -> Iterator[bytes]:
    yield from answer.raw.stream(_READ_BYTES, decode_content=False)


def frames(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The frames' contents, however the bytes were cut on their way."""
    pending = b""
    for piece in pieces:
        pending = pending + piece if pending else piece
        at = 0
        while len(pending) - at >= _HEADER:
            (length,) = struct.unpack_from(">I", pending, at + 4)
            if len(pending) - at - _HEADER < length:
                break
            yield pending[at + _HEADER : at + _HEADER + length]
            at += _HEADER + length
        pending = pending[at:]


def lines(contents: Iterable[bytes]) -> Iterator[LogLine]:
    """Frames with times → lines, a long one's frames joined, what is beyond the limit left out."""
    begun: list[bytes] = []
    size, time = 0, ""
    for content in contents:
        stamp, _, text = content.partition(b" ")
        time = stamp.decode("ascii", "replace")
        if size < LOG_LINE_BYTES:
            begun.append(text)
            size += len(text)
        if text.endswith(b"\n"):
            yield _line(begun, time)
            begun, size = [], 0
    if begun:
        yield _line(begun, time)


def _line(parts: list[bytes], time: str) -> LogLine:
    text = b"".join(parts).removesuffix(b"\n")[:LOG_LINE_BYTES]
    return LogLine(text.decode(errors="replace"), mark=time, at=_seconds(time))


def _seconds(time: str) -> float:
    """RFC 3339 with nanoseconds, of fixed width: 2024-05-06T07:08:09.123456789Z."""
    try:
        whole = datetime.strptime(time[:19], "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
        return whole.timestamp() + float(time[19:].rstrip("Z") or 0)
    except ValueError:
        return 0.0


def resumed(found: Iterable[LogLine], *, tail: int, after: str) -> Iterator[LogLine]:
    """What comes behind the line of the mark `after`. The engine gave its last `tail` lines first.

    Marks are times and grow, unless the machine's clock was set back: a smaller one than the line before ends the
    search, and so do `tail` lines without the wanted one.
    """
    searching, seen = bool(after), False
    passed, before = 0, ""
    for line in found:
        if searching:
            if before <= line.mark <= after and passed < max(tail, 1):
                seen |= line.mark == after
                passed, before = passed + 1, line.mark
                continue
            searching = False
            if not seen:
                line = LogLine(line.text, line.mark, line.at, gap=True)
        yield line
