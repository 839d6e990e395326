"""What gateways tell of each endpoint, against what went through a real Envoy."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from gateway.figures import EndpointFigures, add_bins, bin_of, quantile
from tests.support_gateway import World, endpoint, until
from tests.support_replica import Exchange
from tests.support_tokens import bearer

pytestmark = pytest.mark.envoy

NAME = "me-00000000-0000-4000-8000-000000000300"
DOWN = "me-00000000-0000-4000-8000-000000000301"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DELAY_S = 0.2


def behave(exchange: Exchange) -> None:
    """A replica that does what the path says."""
    for _ in exchange.body():
        pass
    kind = exchange.target.split("?")[0].strip("/")
    if kind in ("hang", "begun"):
        if kind == "begun":
            exchange.send(HEAD)
            exchange.chunk(b"data: x\n\n")
        with contextlib.suppress(OSError):
            exchange.connection.recv(1)  # until the gateway gives up
    elif kind == "stream":
        exchange.send(HEAD)
        for _ in range(3):
            exchange.chunk(b"data: x\n\n")
            time.sleep(DELAY_S)
        exchange.send(b"0\r\n\r\n")
    elif kind == "websocket":
        exchange.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi"
        )
        with contextlib.suppress(OSError):
            exchange.connection.recv(1)
    elif kind == "slow":
        time.sleep(DELAY_S)
        exchange.answer(b"{}")
    else:
        exchange.answer(b"{}", f"{kind} As-You-Like" if kind.isdigit() else "200 OK")


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    try:
        world.gateway.arguments += ["--tell", "0.5"]
        world.plane.publish(endpoint(NAME, world.replica(behave)), endpoint(DOWN))
        world.gateway.ready()
        yield world
    finally:
        world.close()


def hold(world: World, path: str, *headers: str) -> socket.socket:
    """A request that is under way."""
    connection = world.gateway.raw()
    lines = [f"GET /v1/{NAME}/{path} HTTP/1.1", "host: gateway", f"authorization: Bearer {world.key.token()}"]
    connection.sendall("\r\n".join([*lines, *headers, "", ""]).encode())
    return connection


def ended(world: World, name: str = NAME) -> int:
    return sum(world.plane.figures(name).answered.values())


def settled(world: World) -> None:
    """A flush of Envoy's and a push later: all that has ended was told."""
    last = len(world.plane.pushes)
    until(lambda: len(world.plane.pushes) >= last + 4, what="four more pushes")


def test_every_request_is_counted_once_and_logged_once(world: World) -> None:
    gateway, token = world.gateway, world.key.token()
    viewer, stranger = world.key.token(roles=["aiplatform.viewer"]), world.key.token(project="p2")
    plan = [("x", token, 200, 7), ("201", token, 201, 2), ("304", token, 304, 2), ("404", token, 404, 3)]
    plan += [("500", token, 500, 2), ("stream", token, 200, 2), ("503", token, 503, 1)]
    plan += [("x", None, 401, 3), ("x", viewer, 403, 2), ("x", stranger, 404, 1)]
    for path, given, status, times in plan:
        for _ in range(times):
            assert gateway.get(f"/v1/{NAME}/{path}", given).status == status
    for number in range(5):  # what callers make up makes no statistics
        assert gateway.get(f"/v1/me-{number:08d}-made-up/x", token).status == 404
        assert gateway.get(f"/nothing/{number}", token).status == 404
    for _ in range(4):
        assert gateway.get(f"/v1/{DOWN}/x", token).status == 503
    for _ in range(2):  # callers that do not wait for an answer
        connection = hold(world, "hang")
        until(lambda: world.plane.figures(NAME).in_flight == 1, what="the request is seen in flight")
        connection.close()
    socket_ = hold(
        world, "websocket", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"
    )
    assert b"101 Switching" in socket_.recv(100)
    socket_.close()
    with gateway.raw() as connection:
        connection.sendall(b"NONSENSE\r\n\r\n")
        assert b" 400 " in connection.recv(100)

    expected = {"2xx": 12, "3xx": 2, "4xx": 9, "5xx": 3, "other": 2}
    until(lambda: ended(world) >= sum(expected.values()), what="all of them are told")
    settled(world)
    found = world.plane.figures(NAME)
    assert found.answered == expected
    assert sum(found.duration.values()) == sum(expected.values())
    assert sum(found.first_byte.values()) == 20  # the replica's own answers
    assert (found.in_flight, found.waiting) == (0, {})
    down = world.plane.figures(DOWN)
    assert (down.answered, down.first_byte, sum(down.duration.values())) == ({"5xx": 4}, {}, 4)
    assert {name for told in world.plane.pushes for name in told.endpoints} == {NAME, DOWN}
    logged = [line["endpoint"] for line in gateway.access_log()]
    assert {name: logged.count(name) for name in (NAME, DOWN, "unknown-endpoint")} == {
        NAME: sum(expected.values()),
        DOWN: 4,
        "unknown-endpoint": 5,
    }
    statistics = gateway.admin.request("GET", "/stats?filter=^endpoint")
    assert "made-up" not in statistics
    assert (
        "stats.cc" not in (gateway.home / "envoy.log").read_text()
    )  # nothing a caller does fills Envoy's log


def test_times_are_right(world: World) -> None:
    gateway, token = world.gateway, world.key.token()
    for _ in range(6):
        assert gateway.get(f"/v1/{NAME}/slow", token).status == 200
    until(lambda: ended(world) == 6)
    found = world.plane.figures(NAME)
    p95 = quantile(found.first_byte, 0.95)
    assert p95 is not None
    assert DELAY_S * 1000 * 0.9 < p95 < DELAY_S * 1000 * 1.5
    assert gateway.get(f"/v1/{NAME}/stream", token).status == 200
    until(lambda: ended(world) == 7)
    stream = world.plane.pushes[-1].endpoints.get(NAME) or world.plane.pushes[-2].endpoints[NAME]
    assert max(stream.first_byte) < bin_of(DELAY_S * 1000)  # at once
    assert max(stream.duration) > bin_of(2.5 * DELAY_S * 1000)


def waiting_for(world: World, age: float) -> EndpointFigures | None:
    """The present figures, if a request has waited for `age` seconds in them."""
    found = world.plane.figures(NAME)
    return found if any(number >= bin_of(age * 1000) for number in found.waiting) else None


def test_a_request_that_hangs_is_a_sample_of_growing_age(world: World) -> None:
    connections = [hold(world, path) for path in ("hang", "hang", "begun", "begun", "begun")]
    for begun in connections[2:]:  # they have their first byte and wait no more
        assert begun.recv(10)
    ages = []
    for age in (1, 3):
        found = until(lambda age=age: waiting_for(world, age), what=f"an age of {age} s")
        # As many as wait, however often Envoy has looked at them.
        assert sum(found.waiting.values()) == pytest.approx(2, abs=1)
        assert found.in_flight == 5
        ages.append(max(found.waiting))
    assert ages[0] < ages[1]
    assert found.answered == {}
    for connection in connections:
        connection.close()
    until(lambda: ended(world) == 5, what="all are told as ended")
    assert world.plane.figures(NAME).answered == {"other": 2, "2xx": 3}
    settled(world)
    assert world.plane.figures(NAME).waiting == {}


def test_a_killed_envoy_makes_nothing_negative_and_nothing_double(world: World) -> None:
    gateway, token = world.gateway, world.key.token()
    for _ in range(5):
        gateway.get(f"/v1/{NAME}/x", token)
    until(lambda: ended(world) == 5)
    pid = gateway.envoy_pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: gateway.envoy_pid() != pid and gateway.admin.is_ready(), what="another Envoy")

    def served() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return gateway.get(f"/v1/{NAME}/x", token).status == 200
        return False

    until(served)
    for _ in range(2):
        assert served()
    until(lambda: ended(world) >= 8)
    settled(world)
    assert ended(world) == 8
    assert add_bins(told.endpoints[NAME].duration for told in world.plane.pushes if NAME in told.endpoints)


def test_of_an_adopted_envoy_only_the_new_is_told(world: World) -> None:
    gateway, token = world.gateway, world.key.token()
    for _ in range(5):
        gateway.get(f"/v1/{NAME}/x", token)
    until(lambda: ended(world) == 5)
    gateway.signal(signal.SIGKILL)
    pushes = len(world.plane.pushes)
    gateway.start()
    until(lambda: len(world.plane.pushes) >= pushes + 1, what="the new agent tells")
    for _ in range(3):
        gateway.get(f"/v1/{NAME}/x", token)
    until(lambda: ended(world) >= 8)
    settled(world)
    assert ended(world) == 8
    assert all(told.seconds < 10 for told in world.plane.pushes)


def test_a_control_plane_that_is_away_gets_all_of_it_later(world: World) -> None:
    gateway, token = world.gateway, world.key.token()
    gateway.get(f"/v1/{NAME}/x", token)
    until(lambda: ended(world) == 1)
    for status in (0, 503):  # heard, but the answer is lost; not heard
        before = len(world.plane.pushes)
        world.plane.figures_status = status
        began = time.monotonic()
        for _ in range(3):
            gateway.get(f"/v1/{NAME}/x", token)
            tries = world.plane.push_tries
            until(lambda tries=tries: world.plane.push_tries > tries, what="another try")
        assert len(world.plane.pushes) <= before + 1
        world.plane.figures_status = 204
        until(lambda before=before: len(world.plane.pushes) >= before + 2, what="the sum is told")
        settled(world)
        assert sum(told.seconds for told in world.plane.pushes[before:]) == pytest.approx(
            time.monotonic() - began, abs=2.5
        )
    assert ended(world) == 7
    numbers = [told.number for told in world.plane.pushes]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_refused_figures_are_said_and_not_told_for_ever(world: World) -> None:
    world.plane.figures_status = 400
    until(lambda: "does not take figures" in world.gateway.output(), what="the agent says so")
    world.plane.figures_status = 204
    world.gateway.call("GET", f"/v1/{NAME}/x", headers=bearer(world.key.token()))
    until(lambda: ended(world) == 1)
