"""How large requests and answers may be at the gateway. Real Envoy, real sockets."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.support_gateway import World, endpoint, until
from tests.support_replica import Exchange, Replica

pytestmark = pytest.mark.envoy

ECHO, STREAM, OTHER = (f"me-00000000-0000-4000-8000-0000000001{n:02}" for n in range(3))
MIB = 1024 * 1024
LIMIT = 100 * MIB


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with closing(World()) as world:
        world.plane.publish(endpoint(ECHO, world.replica()))
        world.gateway.ready()
        yield world


def test_an_answer_of_50_mb_passes(world: World) -> None:
    block = bytes(range(256)) * 4096

    def big(exchange: Exchange) -> None:
        list(exchange.body())
        exchange.send(
            f"HTTP/1.1 200 OK\r\ncontent-length: {50 * MIB}\r\ncontent-type: application/json\r\n\r\n".encode()
        )
        for _ in range(50):
            exchange.send(block)

    world.gateway.publish(endpoint(STREAM, world.replica(big)))
    answer = world.gateway.get(f"/v1/{STREAM}/x", world.key.token())
    assert answer.status == 200
    assert answer.body == block * 50


def envoy_memory(world: World) -> int:
    pid = world.gateway.envoy_pid()
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) * 1024


def upload(world: World, size: int, *, chunked: bool) -> bytes:
    """What the gateway answered to a body of `size` zeros, sent for as long as it takes any."""
    token = world.key.token()
    framing = "transfer-encoding: chunked" if chunked else f"content-length: {size}"
    head = f"POST /v1/{ECHO}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {token}\r\n{framing}\r\n\r\n"
    block = bytes(MIB)
    with world.gateway.raw() as client:
        client.sendall(head.encode())
        try:
            for start in range(0, size, MIB):
                data = block[: min(MIB, size - start)]
                client.sendall(f"{len(data):x}\r\n".encode() + data + b"\r\n" if chunked else data)
            if chunked:
                client.sendall(b"0\r\n\r\n")
        except OSError:
            pass  # cut off; what was answered before may still be there
        try:
            return client.recv(65536)
        except OSError:
            return b""


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_of_100_mib_passes_without_being_held_in_memory(world: World, chunked: bool) -> None:
    replica = world.replica()
    world.gateway.publish(endpoint(ECHO, replica))
    before = envoy_memory(world)
    answer = upload(world, LIMIT, chunked=chunked)
    assert answer.startswith(b"HTTP/1.1 200")
    assert f'"body_bytes": {LIMIT}'.encode() in answer
    assert envoy_memory(world) - before < 30 * MIB


def test_a_longer_body_is_refused_by_its_content_length(world: World) -> None:
    replica = world.replica()
    world.gateway.publish(endpoint(ECHO, replica))
    with world.gateway.raw() as client:
        head = f"POST /v1/{ECHO}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {world.key.token()}\r\n"
        client.sendall(f"{head}content-length: {LIMIT + 1}\r\n\r\n".encode())
        answer = client.recv(65536)  # before a byte of the body was sent
    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code": "request_too_large"' in answer
    assert replica.seen == []


def test_a_longer_chunked_body_is_cut_off(world: World) -> None:
    got: list[int] = []
    broken = threading.Event()

    def count(exchange: Exchange) -> None:
        try:
            for data in exchange.body():
                got.append(len(data))
        except (ConnectionError, OSError):
            broken.set()
            raise OSError("cut off") from None
        exchange.answer(b"{}")

    world.gateway.publish(endpoint(ECHO, world.replica(count)))
    answer = upload(world, LIMIT + 8 * MIB, chunked=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 413")
    assert broken.wait(10)  # the replica never takes the beginning for the whole
    assert sum(got) <= LIMIT


def test_the_limit_can_be_changed_while_running(world: World) -> None:
    world.gateway.publish(endpoint(ECHO, world.replica()), max_request_bytes=1000)
    try:
        token = world.key.token()
        assert world.gateway.call("POST", f"/v1/{ECHO}/x", token=token, body=bytes(1000)).status == 200
        answer = world.gateway.call("POST", f"/v1/{ECHO}/x", token=token, body=bytes(1001))
        assert (answer.status, answer.code) == (413, "request_too_large")
    finally:
        world.gateway.publish(endpoint(ECHO, world.replica()), max_request_bytes=LIMIT)


@pytest.mark.parametrize("letters", ["websocket", "WebSocket"])
def test_the_limit_is_none_of_websockets(world: World, letters: str) -> None:
    got: list[int] = []

    def take(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"
        )
        got.append(len(exchange.reader.read(3000)))

    world.gateway.publish(endpoint(OTHER, world.replica(take)), max_request_bytes=1000)
    try:
        with world.gateway.raw() as client:
            head = f"GET /v1/{OTHER}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {world.key.token()}\r\n"
            client.sendall(f"{head}connection: upgrade\r\nupgrade: {letters}\r\n\r\n".encode())
            assert client.recv(100).startswith(b"HTTP/1.1 101")
            client.sendall(bytes(3000))
            until(lambda: got, what="the replica has read all of it")
        assert got == [3000]
    finally:
        world.gateway.publish(endpoint(ECHO, world.replica()), max_request_bytes=LIMIT)


def test_a_body_too_large_to_repeat_is_an_error_and_not_half_a_request(world: World) -> None:
    def die(exchange: Exchange) -> None:
        for count, _ in enumerate(exchange.body()):
            if count > 100:
                break
        Replica.reset(exchange.connection)

    killer = world.replica(die)
    world.gateway.publish(endpoint(ECHO, killer))
    answer = upload(world, 20 * MIB, chunked=False)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 503")
