"""What a real Envoy still holds to a replica that was taken out of its cluster, as its agent reports it."""

from __future__ import annotations

import http.client
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import websockets.sync.client
import websockets.sync.server

from gateway.leaving import GatewayReport, Leaving, Sample, leaving
from gateway.snapshot import build
from gateway.targets import EndpointTarget, ReplicaTarget, Serving, address_text
from tests.support_gateway import World, endpoint, until
from tests.support_replica import Exchange
from tests.support_tokens import bearer

pytestmark = pytest.mark.envoy

NAME = "me-00000000-0000-4000-8000-000000000300"
OTHER = "me-00000000-0000-4000-8000-000000000301"
SOON_S = 2.0  # below the 4 s after which Envoy closes an idle connection of a host that stays
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Watched:
    """A world whose polls are read as the control plane reads them."""

    def __init__(self) -> None:
        self.world = World()
        self.routed: dict[str, frozenset[str]] = {}

    def publish(self, *endpoints: EndpointTarget) -> None:
        """Publish and wait until it is applied."""
        self.remember(*endpoints)
        self.world.gateway.publish(*endpoints)

    def remember(self, *endpoints: EndpointTarget) -> None:
        self.world.plane.publish(*endpoints)
        built = build(self.world.plane.targets)
        self.routed[built.version] = built.addresses

    def leaving(self, target: ReplicaTarget, since: int = 0) -> Leaving:
        """From the polls since number `since`."""
        polls = [p for p in self.world.plane.polls[since:] if p.gateway == "gw-1"]
        if not polls:
            return Leaving(False, None)
        samples = [Sample(p.applied, p.report.streams) for p in reversed(polls) if p.report.counted]
        last = polls[-1]
        report = GatewayReport("gw-1", last.applied, "", live=True, samples=tuple(samples[:2]))
        return leaving([report], self.routed, address_text(target.host, target.port))

    def is_out(self, target: ReplicaTarget) -> bool:
        return self.leaving(target) == Leaving(True, 0)

    def stays_for(self, seconds: float, target: ReplicaTarget, streams: int) -> None:
        """Fails if one word of the gateway in that time lets the replica be stopped."""
        until(lambda: self.leaving(target) == Leaving(True, streams), what=f"{streams} streams are reported")
        end, words = time.monotonic() + seconds, len(self.world.plane.polls)
        while time.monotonic() < end:
            assert self.leaving(target) == Leaving(True, streams)
            time.sleep(0.01)
        assert len(self.world.plane.polls) >= words + 3


@pytest.fixture
def watched() -> Iterator[Watched]:
    watched = Watched()
    try:
        yield watched
    finally:
        watched.world.close()


class Held:
    """A replica that takes a request and goes on with it until it is told to end."""

    def __init__(self, world: World) -> None:
        self.taken, self.end = threading.Semaphore(0), threading.Event()
        self.replica = world.replica(self._serve, "held")
        self.target = self.replica.target()

    def _serve(self, exchange: Exchange) -> None:
        if exchange.header("x-hold") is None:
            return self.replica.echo(exchange)
        exchange.send(HEAD)
        exchange.chunk(b"data: first\n\n")
        self.taken.release()
        self.end.wait(60)
        exchange.chunk(b"data: last\n\n")
        return exchange.send(b"0\r\n\r\n")


@contextmanager
def stream(watched: Watched, held: Held) -> Iterator[Callable[[], None]]:
    connection = http.client.HTTPConnection("127.0.0.1", watched.world.gateway.port, timeout=30)
    headers = {**bearer(watched.world.key.token()), "x-hold": "1"}
    connection.request("POST", f"/v1/{NAME}/x", b"{}", headers)
    assert held.taken.acquire(timeout=10)
    answer = connection.getresponse()

    def finish() -> None:
        held.end.set()
        assert answer.read() == b"data: first\n\ndata: last\n\n"

    try:
        yield finish
    finally:
        connection.close()


def start(watched: Watched) -> Held:
    held = Held(watched.world)
    watched.remember(endpoint(NAME, held.replica))
    watched.world.gateway.ready()
    return held


def test_a_stream_is_reported_until_it_has_ended(watched: Watched) -> None:
    held = start(watched)
    fresh = watched.world.replica()
    with stream(watched, held) as finish:
        watched.publish(endpoint(NAME, fresh))
        watched.stays_for(3, held.target, 1)
        finish()
        until(lambda: watched.is_out(held.target), SOON_S, "the stream has ended")


@pytest.mark.parametrize("what", ["the endpoint is unavailable", "the endpoint is gone"])
def test_a_stream_outlives_its_cluster(watched: Watched, what: str) -> None:
    held = start(watched)
    with stream(watched, held) as finish:
        rest = [endpoint(OTHER, watched.world.replica())]
        watched.publish(*rest, *([endpoint(NAME)] if "unavailable" in what else []))
        watched.stays_for(1, held.target, 1)
        finish()
        until(lambda: watched.is_out(held.target), SOON_S, "the stream has ended")


def test_idle_connections_count_for_nothing(watched: Watched) -> None:
    held = start(watched)
    for _ in range(20):
        assert watched.world.gateway.get(f"/v1/{NAME}/x", watched.world.key.token()).status == 200
    began = time.monotonic()
    watched.publish(endpoint(NAME, watched.world.replica()))
    until(lambda: watched.is_out(held.target), SOON_S, "idle connections are closed")
    assert time.monotonic() - began < SOON_S


def test_a_websocket_is_reported_until_it_is_closed(watched: Watched) -> None:
    def echo(connection: websockets.sync.server.ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    with websockets.sync.server.serve(echo, "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        target = ReplicaTarget("ws", "127.0.0.1", server.socket.getsockname()[1])
        watched.remember(EndpointTarget(NAME, "p1", True, Serving.READY, "ACTIVE", replicas=(target,)))
        watched.world.gateway.ready()
        address = f"ws://127.0.0.1:{watched.world.gateway.port}/v1/{NAME}/x"
        headers = bearer(watched.world.key.token())
        with websockets.sync.client.connect(address, additional_headers=headers) as client:
            client.send("a")
            assert client.recv(5) == "a"
            watched.publish(endpoint(NAME, watched.world.replica()))
            watched.stays_for(1, target, 1)
            client.send("b")
            assert client.recv(5) == "b"
        until(lambda: watched.is_out(target), SOON_S, "the WebSocket is closed")
        server.shutdown()


def test_an_upload_is_reported_until_it_is_answered(watched: Watched) -> None:
    held = start(watched)
    connection = http.client.HTTPConnection("127.0.0.1", watched.world.gateway.port, timeout=30)
    connection.putrequest("POST", f"/v1/{NAME}/x")
    for name, value in bearer(watched.world.key.token()).items():
        connection.putheader(name, value)
    connection.putheader("content-length", "10")
    connection.endheaders(b"12345")
    until(lambda: held.replica.seen, what="the replica has the request")
    watched.publish(endpoint(NAME, watched.world.replica()))
    watched.stays_for(1, held.target, 1)
    connection.send(b"67890")
    answer = connection.getresponse()
    assert (answer.status, b'"body_bytes": 10' in answer.read()) == (200, True)
    until(lambda: watched.is_out(held.target), SOON_S, "the upload is answered")
    connection.close()


def test_an_agent_that_comes_back_knows_of_streams_from_before(watched: Watched) -> None:
    held = start(watched)
    with stream(watched, held) as finish:
        watched.publish(endpoint(NAME, watched.world.replica()))
        watched.stays_for(1.5, held.target, 1)
        watched.world.gateway.signal(signal.SIGKILL)
        since = len(watched.world.plane.polls)
        watched.world.gateway.start()
        until(lambda: watched.leaving(held.target, since) == Leaving(True, 1), what="it is reported again")
        assert not any(
            watched.leaving(held.target, number).streams == 0
            for number in range(since, len(watched.world.plane.polls))
        )
        watched.stays_for(1.5, held.target, 1)
        finish()
        until(lambda: watched.is_out(held.target), SOON_S, "the stream has ended")


def test_two_streams_to_two_replicas_are_told_apart(watched: Watched) -> None:
    first = start(watched)
    with stream(watched, first) as finish_first:
        second = Held(watched.world)
        watched.publish(endpoint(NAME, second.replica))
        with stream(watched, second) as finish_second:
            watched.publish(endpoint(NAME, watched.world.replica()))
            watched.stays_for(1.5, second.target, 1)
            finish_first()
            until(lambda: watched.is_out(first.target), SOON_S, "the first stream has ended")
            assert watched.leaving(second.target) == Leaving(True, 1)
            finish_second()
            until(lambda: watched.is_out(second.target), SOON_S, "the second stream has ended")
