"""A limit of requests at once, on a real Envoy, while everything around it changes."""

from __future__ import annotations

import copy
import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from gateway import names, snapshot
from gateway.targets import EndpointTarget, Serving
from tests.support_gateway import World, endpoint, until
from tests.support_replica import Exchange, Replica

pytestmark = pytest.mark.envoy
LIMITED = "me-00000000-0000-4000-8000-000000000001"
OTHER = "me-00000000-0000-4000-8000-000000000002"


class Model:
    """Replicas that answer when the test says so. running: the requests that all of them have now."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.running = 0
        self.statuses: list[int] = []
        self.codes: set[str] = set()
        self._lock = threading.Lock()
        self._released = threading.Semaphore(0)
        self._token = world.key.token()

    def replica(self) -> Replica:
        return self.world.replica(self._serve)

    def _serve(self, exchange: Exchange) -> None:
        with self._lock:
            self.running += 1
        self._released.acquire(timeout=30)
        with self._lock:
            self.running -= 1
        exchange.answer(b"{}")

    def _call(self) -> None:
        answer = self.world.gateway.get(f"/v1/{LIMITED}/x", self._token)
        with self._lock:
            self.statuses.append(answer.status)
            if answer.status != 200:
                self.codes.add(answer.code)

    def ask(self, count: int) -> list[int]:
        """So many more at a time; the answers that came at once, when every request has its answer or its replica."""
        before, running = len(self.statuses), self.running
        for _ in range(count):
            threading.Thread(target=self._call, daemon=True).start()

        def settled() -> bool:
            with self._lock:
                return self.running - running + len(self.statuses) - before == count

        until(settled, 5, f"{count} requests are answered or running")
        return self.statuses[before:]

    def finish(self) -> None:
        """All that run are answered, and nothing runs."""
        ends = len(self.statuses) + self.running
        self._released.release(self.running)
        until(lambda: len(self.statuses) == ends, 5, "all are answered")


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    world = World()
    try:
        world.plane.publish(endpoint(OTHER))
        world.gateway.ready()
        yield world
    finally:
        world.close()


@pytest.fixture
def model(world: World) -> Model:
    return Model(world)


def limited(*replicas: Replica, limit: int | None = 3) -> EndpointTarget:
    return endpoint(LIMITED, *replicas, max_concurrency=limit)


def test_the_count_lasts_whatever_changes(world: World, model: Model) -> None:
    """Never more at the model server than the limit, those excepted that ran already when it was lowered."""
    first, second, third = (model.replica() for _ in range(3))
    publish = world.gateway.publish
    publish(limited(first))
    assert model.ask(5) == [429, 429]
    publish(limited(first, second), endpoint(OTHER))
    assert model.ask(3) == [429] * 3
    publish(limited(third), endpoint(OTHER))  # none of those who answer the three
    assert model.ask(3) == [429] * 3
    publish(limited(third, limit=2), endpoint(OTHER, status="FAILED"))
    assert model.ask(2) == [429] * 2
    publish(limited(third, limit=4))
    assert model.ask(3) == [429] * 2
    paused = replace(limited(limit=4), serving=Serving.UNAVAILABLE, status="INACTIVE")
    publish(paused)
    assert model.ask(1) == [503]
    publish(limited(second, limit=4))
    assert model.ask(2) == [429] * 2
    assert model.running == 4
    model.finish()
    assert model.statuses.count(200) == 4
    assert model.codes == {"concurrency_limit_exceeded", "endpoint_inactive"}
    assert model.ask(6) == [429] * 2  # no place was lost, and none was gained
    model.finish()
    assert model.statuses.count(503) == 1


def test_the_count_outlives_an_agent_that_was_killed_while_it_wrote(world: World, model: Model) -> None:
    gateway, first, second = world.gateway, model.replica(), model.replica()
    gateway.publish(limited(first))
    assert model.ask(4) == [429]
    assert gateway.signal(signal.SIGKILL) != 0
    (own,) = (gateway.home / "xds" / "assignments").iterdir()
    own.write_bytes(own.read_bytes()[:-1])
    world.plane.publish(limited(second))
    gateway.ready()
    assert model.ask(2) == [429] * 2
    model.finish()
    assert model.ask(4) == [429]
    assert (len(first.seen), len(second.seen)) == (3, 3)
    model.finish()


def test_a_gateway_that_starts_from_its_disk_limits_too(world: World, model: Model) -> None:
    gateway = world.gateway
    gateway.publish(limited(model.replica()))
    world.plane.stop()
    try:
        gateway.signal(signal.SIGTERM)
        gateway.start()
        until(lambda: gateway.admin.is_ready(), what="Envoy serves again")
        assert model.ask(5) == [429, 429]
        model.finish()
    finally:
        world.plane.start()


def test_replicas_that_envoy_refuses_leave_the_last_good_ones(world: World, model: Model) -> None:
    gateway, plane = world.gateway, world.plane
    good = gateway.publish(limited(model.replica(), limit=1), endpoint(OTHER))
    assert model.ask(1) == []
    broken = copy.deepcopy(snapshot.build(plane.targets).resources)
    document = broken[names.ASSIGNMENTS]["resources"][0]
    place = document["resources"][0]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]
    place["socket_address"]["address"] = "no-address"
    document["version_info"] = broken[names.ASSIGNMENTS]["version_info"] = "broken"
    # The routes are refused with it: they may need it.
    broken[names.ROUTES] = snapshot.build(replace(plane.targets, endpoints=())).resources[names.ROUTES]
    plane.publish_raw("broken", broken)
    told = until(lambda: plane.polls[-1].rejected, 5, "the refusal is told")
    assert told.startswith("broken assignments.json: ")
    assert "no-address" in told
    until(lambda: plane.polls[-1].applied == good, 5, "what was there before is in force")
    assert model.ask(1) == [429]
    model.finish()
    gateway.publish(limited(model.replica(), limit=2))
    until(lambda: plane.polls[-1].rejected == "", 5, "nothing is refused any more")
    assert model.ask(3) == [429]
    model.finish()


def test_nothing_is_left_of_an_endpoint_that_has_gone(world: World, model: Model) -> None:
    gateway = world.gateway
    gateway.publish(limited(model.replica()), endpoint(OTHER))
    files = gateway.home / "xds" / "assignments"
    assert [found.name for found in files.iterdir()] == [f"{LIMITED}.pb"]
    gateway.publish(endpoint(OTHER))
    assert list(files.iterdir()) == []
    assert json.loads(gateway.admin.request("GET", "/runtime"))["entries"].keys().isdisjoint({LIMITED})
    assert LIMITED not in gateway.admin.request("GET", "/runtime")
    assert LIMITED not in gateway.admin.request("GET", "/clusters")
