"""What the health watch costs, and what it says of servers that drip, flood, refuse and stay silent."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from uuid import uuid4

import pytest

from endpoints.models import Replica, ReplicaState
from endpoints.watching import health
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

FLEET = 3000
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

SERVER = """
import asyncio

class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")
        self.transport.close()

async def main():
    server = await asyncio.get_running_loop().create_server(Answer, "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def port() -> Iterator[int]:
    """A server in a process of its own: its time must not be taken for the watch's."""
    process = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


@pytest.mark.django_db
def test_a_round_of_three_thousand(
    port: int, editor_actor: Actor, django_assert_max_num_queries: Any
) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    Replica.objects.bulk_create(
        Replica(
            endpoint=endpoint,
            revision=endpoint.revision,
            slot=number,
            name=f"r{number}",
            state=ReplicaState.READY,
            host="127.0.0.1",
            port=port,
        )
        for number in range(FLEET)
    )
    watch = health.HealthWatch()
    watch.round()
    cpu, began = time.process_time(), time.monotonic()
    with django_assert_max_num_queries(1):
        watch.round()
    cost, took = time.process_time() - cpu, time.monotonic() - began
    print(f"\na round of {FLEET} replicas: {cost:.2f} s of processor time, {took:.2f} s")
    assert not Replica.objects.exclude(unhealthy_since=None).exists()
    assert cost <= 1


@asynccontextmanager
async def serving(handler: Handler) -> Any:
    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.CancelledError):  # it is still at it when the test is over
            await handler(reader, writer)

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


def saying(answer: bytes, *, then: float = 0) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await asyncio.sleep(then)
        writer.close()

    return handle


async def drip(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for byte in b"HTTP/1.1 200 OK\r\n\r\n":
        writer.write(bytes([byte]))
        await asyncio.sleep(0.1)
    writer.close()


async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
    except ConnectionError:
        writer.close()


@pytest.mark.parametrize(
    ("handler", "good"),
    [
        (saying(b"HTTP/1.1 200 OK\r\n\r\n"), True),
        (saying(b"HTTP/1.0 204 No Content\r\n\r\n"), True),
        (flood, True),
        (saying(b"HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), False),
        (saying(b"HTTP/1.1 500 Oh\r\n\r\n"), False),
        (saying(b"SSH-2.0-OpenSSH_9 2\r\n"), False),
        (saying(b"", then=0), False),
        (saying(b"", then=3), False),
        (drip, False),
    ],
    ids=["ok", "no content", "flood", "redirect", "error", "no http", "closed", "silent", "drip"],
)
async def test_what_counts_as_an_answer(
    handler: Handler, good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "LIMIT_S", 0.7)
    key = uuid4()
    async with serving(handler) as port:
        began = time.monotonic()
        found = await health.answering({key: ("127.0.0.1", port, "/health")})
        assert time.monotonic() - began < 2.5
    assert (key in found) is good


async def test_nobody_there_is_no_answer() -> None:
    key, other = uuid4(), uuid4()
    assert await health.answering({key: ("127.0.0.1", 1, "/"), other: ("not an address", 80, "/")}) == set()
    assert await health.answering({}) == set()
