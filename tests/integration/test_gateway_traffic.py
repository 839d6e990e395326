"""What passes through the gateway, and what happens when a replica fails under it. Real Envoy, real sockets."""

from __future__ import annotations

import asyncio
import http.client
import queue
import socket
import threading
from collections.abc import Iterator

import pytest
import websockets.sync.client
import websockets.sync.server

from gateway.targets import ReplicaTarget
from tests.support_gateway import World, endpoint, until
from tests.support_replica import Exchange, Replica
from tests.support_tokens import bearer

pytestmark = pytest.mark.envoy

ECHO, STREAM, OTHER = (f"me-00000000-0000-4000-8000-0000000001{n:02}" for n in range(3))
EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.plane.publish(endpoint(ECHO, world.replica()))
        world.gateway.ready()
        yield world
    finally:
        world.close()


class Script:
    """A replica that does what the test says, when it says it: each exchange is handed to the test."""

    def __init__(self) -> None:
        self.exchanges: queue.Queue[Exchange] = queue.Queue()
        self.replica = Replica(self._hold, "script")
        self._done = threading.Event()

    def _hold(self, exchange: Exchange) -> None:
        self.exchanges.put(exchange)
        self._done.wait(60)

    def next(self) -> Exchange:
        return self.exchanges.get(timeout=15)

    def close(self) -> None:
        self._done.set()
        self.replica.close()


@pytest.fixture
def script() -> Iterator[Script]:
    script = Script()
    yield script
    script.close()


def open_stream(
    world: World, name: str, method: str = "POST", body: bytes = b"{}"
) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=20)
    connection.request(method, f"/v1/{name}/v1/chat/completions", body, bearer(world.key.token()))
    return connection


# --- streams ----------------------------------------------------------------------------------------------


def test_events_pass_one_by_one(world: World, script: Script) -> None:
    """Each event is read from the gateway before the replica sends the next one: nothing is held back."""
    world.gateway.publish(endpoint(ECHO, world.replica()), endpoint(STREAM, script.replica))
    connection = open_stream(world, STREAM)
    exchange = script.next()
    exchange.send(EVENTS)
    answer = connection.getresponse()  # the head comes before the first event
    assert answer.getheader("content-type") == "text/event-stream"
    for number in range(20):
        event = f'data: {{"n": {number}}}\n\n'.encode()
        exchange.chunk(event)
        assert answer.read(len(event)) == event
    exchange.send(b"0\r\n\r\n")
    assert answer.read() == b""
    connection.close()


def test_a_client_that_leaves_ends_the_replicas_stream(world: World, script: Script) -> None:
    world.gateway.publish(endpoint(STREAM, script.replica))
    connection = open_stream(world, STREAM)
    exchange = script.next()
    exchange.send(EVENTS)
    connection.getresponse()
    connection.close()
    exchange.connection.settimeout(10)
    list(exchange.body())
    assert exchange.reader.read1(1) == b""  # closed by the gateway


def test_a_stream_survives_every_change_of_its_route(world: World, script: Script) -> None:
    """Replicas come and go, keys turn, the endpoint itself is removed: who is served is served to the end."""
    plain = endpoint(STREAM, script.replica)
    world.gateway.publish(plain)
    connection = open_stream(world, STREAM)
    exchange = script.next()
    exchange.send(EVENTS)
    answer = connection.getresponse()
    changes = [
        endpoint(STREAM, script.replica, world.replica()),
        endpoint(STREAM, world.replica()),
        endpoint(STREAM, status="UPDATING"),
        endpoint(OTHER, world.replica()),
        plain,
    ]
    for number, change in enumerate(changes):
        world.gateway.publish(change)
        event = f"data: {number}\n\n".encode()
        exchange.chunk(event)
        assert answer.read(len(event)) == event
    exchange.send(b"0\r\n\r\n")
    assert answer.read() == b""
    connection.close()


def test_a_stream_whose_replica_dies_ends_with_an_error(world: World, script: Script) -> None:
    spare = world.replica()
    world.gateway.publish(endpoint(STREAM, script.replica))
    connection = open_stream(world, STREAM)
    exchange = script.next()
    exchange.send(EVENTS)
    answer = connection.getresponse()
    exchange.chunk(b"data: 1\n\n")
    assert answer.read(9) == b"data: 1\n\n"
    world.gateway.publish(endpoint(STREAM, script.replica, spare))
    script.replica.close()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    assert spare.seen == []  # half an answer is never followed by another one's beginning
    connection.close()


def test_websockets_pass(world: World) -> None:
    def echo(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websockets.sync.server.serve(echo, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        port = server.socket.getsockname()[1]
        target = endpoint(OTHER, world.replica(), replicas=(ReplicaTarget("ws", "127.0.0.1", port),))
        world.gateway.publish(target)
        address = f"ws://127.0.0.1:{world.gateway.port}/v1/{OTHER}/v1/realtime"
        with pytest.raises(websockets.InvalidStatus) as refused:
            websockets.sync.client.connect(address)
        assert refused.value.response.status_code == 401
        headers = bearer(world.key.token())
        with websockets.sync.client.connect(address, additional_headers=headers, max_size=None) as client:
            for message in ("hello", b"\x00\xff", "x" * 1024 * 1024):
                client.send(message)
                assert client.recv() == message
        server.shutdown()
        thread.join(10)


def test_trailers_pass_both_ways(world: World, script: Script) -> None:
    world.gateway.publish(endpoint(STREAM, script.replica))
    with world.gateway.raw() as client:
        head = f"POST /v1/{STREAM}/x HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {world.key.token()}\r\n"
        client.sendall(
            f"{head}te: trailers\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nx-sum: 1\r\n\r\n".encode()
        )
        exchange = script.next()
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            received += exchange.reader.readline()
        assert b"x-sum: 1" in received
        exchange.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-usage\r\n\r\n")
        exchange.send(b"2\r\nok\r\n0\r\nx-usage: 7\r\n\r\n")
        answer = b""
        while not answer.endswith(b"x-usage: 7\r\n\r\n"):
            data = client.recv(65536)
            assert data, answer
            answer += data


# --- replicas that fail -----------------------------------------------------------------------------------


def test_requests_spread_over_the_replicas(world: World) -> None:
    replicas = [world.replica(name=f"r{n}") for n in range(3)]
    world.gateway.publish(endpoint(ECHO, *replicas))
    token = world.key.token()
    for _ in range(60):
        assert world.gateway.get(f"/v1/{ECHO}/x", token).status == 200
    assert all(len(r.seen) >= 5 for r in replicas)


def test_a_replica_that_is_gone_is_passed_over(world: World) -> None:
    alive, gone = world.replica(), world.replica()
    world.gateway.publish(endpoint(ECHO, alive, gone))
    gone.close()
    token = world.key.token()
    assert [
        world.gateway.call("POST", f"/v1/{ECHO}/x", token=token, body=b"{}").status for _ in range(40)
    ] == [200] * 40
    assert len(alive.seen) == 40


def test_a_request_whose_replica_dies_before_answering_is_done_again(world: World) -> None:
    """With its body, on the other replica, and once only: what kills one replica must not kill them all."""
    died: list[Exchange] = []

    def die(exchange: Exchange) -> None:
        list(exchange.body())
        died.append(exchange)
        Replica.reset(exchange.connection)

    killers = [world.replica(die) for _ in range(3)]
    token, body = world.key.token(), b"x" * 100_000
    for _ in range(10):
        good = world.replica()
        world.gateway.publish(endpoint(ECHO, killers[0], good))
        answer = world.gateway.call("POST", f"/v1/{ECHO}/x", token=token, body=body)
        assert (answer.status, answer.json()["body_bytes"]) == (200, len(body))
        if died:
            break
    assert died, "the dying replica was never chosen"
    died.clear()
    world.gateway.publish(endpoint(ECHO, *killers))
    answer = world.gateway.call("POST", f"/v1/{ECHO}/x", token=token, body=body)
    assert (answer.status, answer.code) == (503, "replica_unavailable")
    assert len(died) == 2


def test_nonsense_from_a_replica_is_an_error_of_ours(world: World) -> None:
    world.gateway.publish(endpoint(ECHO, world.replica(lambda x: x.send(b"this is not HTTP\r\n\r\n"))))
    answer = world.gateway.get(f"/v1/{ECHO}/x", world.key.token())
    assert (answer.status, answer.code) == (503, "replica_unavailable")


def test_a_replicas_own_errors_pass_unchanged_and_do_not_eject_it(world: World) -> None:
    body = b'{"detail": "model says no"}'
    replica = world.replica(lambda x: x.answer(body, "503 Service Unavailable"))
    world.gateway.publish(endpoint(ECHO, replica))
    for _ in range(20):
        answer = world.gateway.get(f"/v1/{ECHO}/x", world.key.token())
        assert (answer.status, answer.body) == (503, body)
    assert len(replica.seen) == 20


def test_a_replicas_own_401_and_404_pass_unchanged(world: World) -> None:
    for status in ("401 Unauthorized", "404 Not Found", "413 Too Large", "500 Oops"):
        world.gateway.publish(endpoint(ECHO, world.replica(lambda x, s=status: x.answer(b"mine", s))))
        answer = world.gateway.get(f"/v1/{ECHO}/x", world.key.token())
        assert (answer.status, answer.body) == (int(status[:3]), b"mine")


def test_a_replica_cannot_set_the_consoles_cookie_or_open_it_to_others(world: World) -> None:
    def greedy(exchange: Exchange) -> None:
        exchange.send(
            b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nset-cookie: sessionid=evil\r\nserver: evil\r\n"
            b"access-control-allow-origin: *\r\naccess-control-allow-credentials: true\r\n\r\n"
        )

    world.gateway.publish(endpoint(ECHO, world.replica(greedy)))
    answer = world.gateway.get(f"/v1/{ECHO}/x", world.key.token())
    assert answer.status == 200
    assert answer.header("set-cookie") is None
    assert answer.header("server") == "berth"
    assert answer.header("access-control-allow-credentials") is None
    assert "*" not in (answer.header("access-control-allow-origin") or "")


def test_the_control_plane_away_is_a_clean_503(world: World) -> None:
    world.plane.stop()
    try:
        answer = world.gateway.call("POST", "/accounts-api/v2/auth/token", body=b"{}")
        assert (answer.status, answer.code) == (503, "control_plane_unavailable")
    finally:
        world.plane.start()
        until(
            lambda: world.gateway.get("/.well-known/x").status == 200, what="the control plane answers again"
        )


# --- keys -------------------------------------------------------------------------------------------------


async def test_keys_turn_under_load_without_a_refused_request(world: World, script: Script) -> None:
    """Old, both, new: tokens of a published key always pass, streams go on, the old key is refused in the end."""
    from tests.support_gateway import Key, jwks

    def turn(*keys: Key) -> None:
        tokens = world.plane.targets.tokens
        world.gateway.publish(
            tokens=type(tokens)(tokens.issuer, tokens.audience, jwks(*keys), tokens.invoke_roles)
        )

    old, new = world.key, Key("k2")
    current = [old]
    world.gateway.publish(endpoint(ECHO, world.replica()), endpoint(STREAM, script.replica))
    connection = open_stream(world, STREAM)
    exchange = script.next()
    exchange.send(EVENTS)
    stream = connection.getresponse()
    statuses: list[int] = []
    stop = threading.Event()

    def load() -> None:
        while not stop.is_set():
            statuses.append(world.gateway.get(f"/v1/{ECHO}/x", current[0].token()).status)

    workers = [threading.Thread(target=load) for _ in range(3)]
    for worker in workers:
        worker.start()
    try:
        await asyncio.to_thread(turn, old, new)
        current[0] = new
        await asyncio.to_thread(turn, new)
        count = len(statuses)
        await asyncio.to_thread(until, lambda: len(statuses) > count + 20)
        assert world.gateway.get(f"/v1/{ECHO}/x", old.token()).status == 401
        assert world.gateway.get(f"/v1/{ECHO}/x", new.token()).status == 200
    finally:
        stop.set()
        for worker in workers:
            worker.join(10)
        turn(old)
    # A worker may have read the old key just before it was withdrawn; nothing else may ever be refused.
    assert set(statuses) <= {200, 401}
    assert statuses.count(401) <= len(workers)
    exchange.chunk(b"data: 1\n\n")
    assert stream.read(9) == b"data: 1\n\n"
    connection.close()


def test_an_idle_connection_is_not_closed_under_the_client(world: World) -> None:
    """Keep-alive: a hundred requests on one connection, with a change of the routes in between."""
    world.gateway.publish(endpoint(ECHO, world.replica()))
    connection = http.client.HTTPConnection("127.0.0.1", world.gateway.port, timeout=20)
    connection.connect()
    local = connection.sock.getsockname() if isinstance(connection.sock, socket.socket) else None
    for number in range(100):
        if number == 50:
            world.gateway.publish(endpoint(ECHO, world.replica(), world.replica()))
        connection.request("GET", f"/v1/{ECHO}/x", headers=bearer(world.key.token()))
        answer = connection.getresponse()
        assert answer.status == 200
        answer.read()
    assert connection.sock.getsockname() == local
    connection.close()
