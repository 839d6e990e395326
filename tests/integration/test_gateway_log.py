"""What the access log's columns hold, whoever writes into them: a line a request, and nobody else's words before the
last column."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import datetime

import pytest

from gateway.log_columns import COLUMNS, TAB
from gateway.request_line import lines_of, parse, used_in
from tests.support_gateway import World, endpoint, until
from tests.support_http2 import END, HEADERS, PREFACE, SETTINGS, fields, frame
from tests.support_replica import Exchange

pytestmark = pytest.mark.envoy

NAME = "me-00000000-0000-4000-8000-000000000106"
# What would be a line's first columns, or a line of its own, if it stood where the caller wants it.
FORGED = f"1700000000\t{NAME}\tsa-victim\t200\t999999 0 0\t\t"
ENDS = ["\t", "\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x1f", "\x7f", "\x85", "\u2028", "\xa0"]
ODD = [f"{end}{FORGED}{end}x" for end in ENDS]
# Each column but the last.
FORMS = {
    "ended": r"\d{10}",
    "endpoint": rf"{NAME}|[a-z-]+",
    "sub": r"sa-1|-",
    "status": r"\d{1,3}",
    "usage": r"9 4 0|-",
    "": r"",
    "time": r"[0-9-]{10}T[0-9:]{8}\.\d{3}Z",
    "duration_ms": r"\d+",
    "first_byte_ms": r"\d+|-",
    "bytes_in": r"\d+",
    "bytes_out": r"\d+",
    "client": r"127\.0\.0\.1",
    "replica": r"127\.0\.0\.1:\d+|-",
    "attempts": r"\d",
    "flags": r"[A-Z,]+|-",
    "details": r"[^\s]+",
    "request_id": r"[0-9a-f-]{36}|-",
}
ANSWER = b'{"usage":{"prompt_tokens":9,"completion_tokens":4}}'
BAD = f"HTTP/1.1 200 a{ODD[0]}\r\nx a{ODD[0]}: b\r\ncontent-type: {ODD[0]}\r\n\r\n".encode()
LYING = b'{"usage":{"prompt_tokens":9,"completion_tokens":"4\\t5","completion_tokens":4}}'


def answer(exchange: Exchange) -> None:
    """A model server; under /bad one that writes what Envoy cannot read, under /lying one that writes tabs, under
    /slow one that takes its time."""
    for _ in exchange.body():
        pass
    if "/bad" in exchange.target:
        exchange.send(BAD)
        return
    if "/slow" in exchange.target:
        time.sleep(1.1)  # longer than the unit
    body = LYING if "/lying" in exchange.target else ANSWER
    kind = f"application/json;{ODD[0]}".encode() if body is LYING else b"application/json"
    head = b"HTTP/1.1 200 a\tb\r\ncontent-type: %s\r\nx-request-id: a\tb\r\ncontent-length: %d\r\n\r\n"
    exchange.send(head % (kind, len(body)) + body)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with closing(World()) as world:
        world.plane.publish(endpoint(NAME, world.replica(answer)))
        world.gateway.ready()
        yield world


def log(world: World) -> list[str]:
    file = world.gateway.home / "access.log"
    return lines_of(file.read_bytes()) if file.exists() else []


def logged(world: World, requests: Sequence[bytes]) -> list[dict[str, str]]:
    """What they leave, each sent on a connection of its own: one line each, whose columns are what they should be."""
    before = len(log(world))
    with ExitStack() as stack:
        for request in requests:
            stack.enter_context(world.gateway.raw()).sendall(request)
        until(lambda: len(log(world)) >= before + len(requests), what="a line for each request")
    lines = log(world)[before:]
    assert len(lines) == len(requests)
    return [checked(line) for line in lines]


def checked(line: str) -> dict[str, str]:
    """Its columns."""
    columns = dict(zip(COLUMNS, line.split(TAB, len(COLUMNS) - 1), strict=True))
    for name, form in FORMS.items():
        assert re.fullmatch(form, columns[name]), (name, columns)
    counted = parse(line)
    assert counted is None or counted.subject in ("sa-1", "")
    assert [used.subject for used in used_in(line.encode())] in ([], ["sa-1"])
    return columns


def request(token: str, path: str, *, where: str = "", odd: str = "") -> bytes:
    """One with something odd somewhere."""

    def here(name: str) -> str:
        return odd if name == where else ""

    return (
        f"POST{here('method')} /v1/{NAME}{here('id')}/{path}{here('path')}?q=secret{here('query')} "
        f"HTTP/1.1{here('version')}\r\nhost: x{here('host')}\r\nx-request-id: 7{here('x-request-id')}\r\n"
        f"x-berth-subject{here('name')}: sa-victim\r\nauthorization: Bearer {token}\r\ncontent-length: 0\r\n\r\n"
    ).encode()


ANYWHERE = ["path", "query", "method", "version", "id", "host", "x-request-id", "name"]


@pytest.mark.parametrize("where", ANYWHERE)
def test_callers_of_http_1_write_into_the_last_column_alone(world: World, where: str) -> None:
    token = world.key.token()
    found = logged(world, [request(token, "x", where=where, odd=odd) for odd in ODD])
    assert not any("secret" in text for columns in found for text in columns.values())


@pytest.mark.parametrize("where", [":path", ":method", ":authority", "x-request-id", ":berth-subject"])
def test_callers_of_http_2_write_into_the_last_column_alone(world: World, where: str) -> None:
    token, requests = world.key.token(), []
    for odd in ODD:
        said = {":method": "GET", ":scheme": "http", ":authority": "x", ":path": f"/v1/{NAME}/x"}
        said |= {"authorization": f"Bearer {token}", where: said.get(where, "7") + odd}
        head = fields((name.encode(), value.encode()) for name, value in sorted(said.items()))
        requests.append(PREFACE + frame(SETTINGS, 0, 0, b"") + frame(HEADERS, END, 1, head))
    logged(world, requests)


def test_model_servers_write_into_no_column(world: World) -> None:
    token = world.key.token()
    found = logged(world, [request(token, path) for path in ("bad", "lying", "good")])
    said = {columns["request"]: columns for columns in found}
    assert said["POST /bad"]["status"] == "503"
    assert "protocol_error" in said["POST /bad"]["details"]
    assert [said[f"POST /{path}"]["usage"] for path in ("lying", "good")] == ["9 4 0", "9 4 0"]


def test_a_line_says_when_its_request_ended(world: World) -> None:
    """By the clock on the wall, not when it began."""
    (columns,) = logged(world, [request(world.key.token(), "slow")])
    began = datetime.fromisoformat(columns["time"]).timestamp()
    took = int(columns["duration_ms"]) / 1000
    assert took >= 1.1
    assert -0.1 < began + took - int(columns["ended"]) < 1.1
    assert abs(time.time() - began - took) < 10
