"""What web tells the gateways' agents, and what it takes from their reports; Redis is real."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import transaction
from django.test import Client
from django.utils import timezone

from config.keyfiles import read_or_create
from endpoints import addresses, changes, gateway_feed, services
from endpoints.models import Change, Endpoint, HeldAddress, Replica
from gateway.cluster import Cluster
from gateway.leaving import UNKNOWN, Leaving
from iam import services as iam_services
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
URL = "/internal/gateway/snapshot"


@pytest.fixture
def endpoint(redis_server: redis.Redis, editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


def headers(applied: str = "", etag: str = "", streams: str = "") -> dict[str, str]:
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    found = {"Authorization": f"Bearer {token}", "X-Berth-Gateway": "gw-1", "X-Berth-Applied": applied}
    found |= {"If-None-Match": etag} if etag else {}
    return found | ({"X-Berth-Streams": streams} if streams else {})


def ready_replica(endpoint: Endpoint, name: str = "r1", **fields: object) -> Replica:
    values = {"state": "ready", "host": "10.0.0.9", "port": 8080, "ready_at": timezone.now(), **fields}
    slot = endpoint.replicas.count() + 1
    return Replica.objects.create(
        endpoint=endpoint, revision=endpoint.revision, slot=slot, name=name, **values
    )


class Gateway:
    """A gateway's polls, and what it has applied."""

    def __init__(self, client: Client, name: str = "gw-1") -> None:
        self._client, self._name = client, name
        self.version = ""

    def poll(self, applied: str | None = None, **more: str) -> str:
        """One poll; the version that it should be at."""
        sent = headers(self.version if applied is None else applied, **more) | {"X-Berth-Gateway": self._name}
        return self._client.get(URL, headers=sent)["ETag"].strip('"')

    def follow(self) -> None:
        """Take what there is, and apply it."""
        self.version = self.poll()
        self.poll()

    def stop(self) -> None:
        """The last poll of one that was asked to end."""
        self._client.get(
            URL, headers=headers(self.version) | {"X-Berth-Gateway": self._name, "X-Berth-Gone": "1"}
        )

    def count(self, **connections: int) -> None:
        """A poll with a count; `at_10_0_0_9` stands for that replica."""
        found = {name.removeprefix("at_").replace("_", ".") + ":8080": n for name, n in connections.items()}
        self.poll(streams=json.dumps(found))


@pytest.fixture
def gateway(client: Client, redis_server: redis.Redis) -> Gateway:
    """The only one, of a platform that has been up for a while."""
    redis_server.set("berth:gateway:counting", "1", ex=10**9 - 60)
    return Gateway(client)


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer wrong", "Basic abc"])
def test_only_agents_get_it(client: Client, endpoint: Endpoint, authorization: str) -> None:
    answer = client.get(URL, headers={"Authorization": authorization})
    assert answer.status_code == 401
    assert endpoint.id.encode() not in answer.content


def test_an_unchanged_poll_is_a_304_and_a_change_is_a_new_version(client: Client, endpoint: Endpoint) -> None:
    first = client.get(URL, headers=headers())
    document = json.loads(gzip.decompress(first.content))
    assert first["ETag"] == f'"{document["version"]}"'
    assert endpoint.id in json.dumps(document["resources"])
    assert client.get(URL, headers=headers(etag=first["ETag"])).status_code == 304
    ready_replica(endpoint)
    gateway_feed.changed()
    second = client.get(URL, headers=headers(etag=first["ETag"]))
    assert second.status_code == 200
    assert "10.0.0.9" in gzip.decompress(second.content).decode()


def test_an_unchanged_poll_asks_the_database_one_thing_at_times(
    client: Client, endpoint: Endpoint, django_assert_num_queries: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    etag = client.get(URL, headers=headers())["ETag"]
    client.get(URL, headers=headers(etag=etag))
    for every_s, queries in ((0, 1), (3600, 0)):
        monkeypatch.setattr(changes, "LOOK_S", every_s)
        with django_assert_num_queries(queries):
            assert client.get(URL, headers=headers(etag=etag)).status_code == 304


# --- what can't wait for Redis ----------------------------------------------------------------------------


@pytest.fixture
def redis_away(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bool], None]]:
    """Call it with True, and Redis has gone; with False, and it is there."""
    there = settings.REDIS_URL

    def switch(away: bool) -> None:
        monkeypatch.setattr(settings, "REDIS_URL", "unix:///nonexistent/redis.sock" if away else there)
        gateway_feed.cluster.cache_clear()
        gateway_feed.asked.cache_clear()
        gateway_feed.here.cache_clear()

    yield switch
    switch(False)


def refused(client: Client, etag: str, grant: str) -> bool:
    """Whether a gateway that has `etag` is told to refuse the grant."""
    answer = client.get(URL, headers=headers(etag=etag))
    return answer.status_code == 200 and grant in gzip.decompress(answer.content).decode()


def within_a_second(condition: Callable[[], bool]) -> bool:
    """What is left of the two seconds is the gateway's."""
    deadline = time.monotonic() + 1
    while not (done := condition()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return done


def test_a_revocation_arrives_though_the_word_of_it_is_lost(
    client: Client, endpoint: Endpoint, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, _text = iam_services.create_api_key(editor_actor, "laptop")
    grant = key.token_grant
    etag = client.get(URL, headers=headers())["ETag"]
    monkeypatch.setattr(Cluster, "invalidate", lambda _: None)  # killed between the commit and the word of it
    iam_services.delete_api_key(editor_actor, key)
    assert within_a_second(lambda: refused(client, etag, grant))


def test_a_revocation_arrives_while_redis_is_away(
    client: Client, endpoint: Endpoint, editor_actor: Actor, redis_away: Callable[[bool], None]
) -> None:
    keys = [iam_services.create_api_key(editor_actor, name)[0] for name in ("laptop", "tablet")]
    etag = client.get(URL, headers=headers())["ETag"]
    redis_away(True)
    assert client.get(URL, headers=headers(etag=etag)).status_code == 304
    for key in keys:
        grant = key.token_grant
        iam_services.delete_api_key(editor_actor, key)
        assert within_a_second(partial(refused, client, etag, grant))
    newest = client.get(URL, headers=headers())["ETag"]
    redis_away(False)
    # What was given meanwhile is what the gateway has, and Redis learns of it with its next word.
    assert client.get(URL, headers=headers(applied=etag.strip('"'), etag=newest)).status_code == 304
    assert newest.strip('"') in gateway_feed.cluster().gateways()[0].given


def test_while_redis_is_away_nothing_is_built_twice(
    client: Client,
    endpoint: Endpoint,
    editor_actor: Actor,
    redis_away: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
    django_assert_num_queries: Any,
) -> None:
    redis_away(True)
    etag = client.get(URL, headers=headers())["ETag"]
    for every_s, queries in ((0, 1), (3600, 0)):
        monkeypatch.setattr(changes, "LOOK_S", every_s)
        with django_assert_num_queries(queries):
            assert client.get(URL, headers=headers(etag=etag)).status_code == 304


def test_many_changes_of_one_transaction_are_noted_once(endpoint: Endpoint) -> None:
    before = Change.objects.count()
    with transaction.atomic():
        for _ in range(3):
            gateway_feed.changed()
    assert Change.objects.count() == before + 1
    changes.prune(timezone.now() + timedelta(hours=1), kept=0)
    assert not Change.objects.exists()


def test_a_route_counts_when_every_live_gateway_has_applied_it(client: Client, endpoint: Endpoint) -> None:
    old = client.get(URL, headers=headers())["ETag"].strip('"')
    client.get(URL, headers=headers(applied=old))
    ready_replica(endpoint)
    gateway_feed.changed()
    new = client.get(URL, headers=headers(applied=old))["ETag"].strip('"')
    assert gateway_feed.route_state(endpoint) == (1, False)
    client.get(URL, headers=headers(applied=new))
    assert gateway_feed.route_state(endpoint) == (1, True)


def test_a_flushed_redis_comes_back_by_the_next_polls(
    client: Client, endpoint: Endpoint, redis_server: redis.Redis
) -> None:
    version = client.get(URL, headers=headers())["ETag"].strip('"')
    redis_server.flushall()
    again = client.get(URL, headers=headers(applied=version, etag=f'"{version}"'))
    assert again.status_code == 304
    assert gateway_feed.route_state(endpoint) == (1, True)


def test_a_paused_endpoint_says_so_in_its_route(
    client: Client, endpoint: Endpoint, editor_actor: Actor
) -> None:
    ready_replica(endpoint)
    services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    Endpoint.objects.filter(pk=endpoint.pk).update(status="INACTIVE", reason_code="paused")
    text = gzip.decompress(client.get(URL, headers=headers()).content).decode()
    assert "Paused: no replica runs" in text
    assert "10.0.0.9" not in text


# --- replicas that leave ----------------------------------------------------------------------------------


def drain(replica: Replica) -> None:
    replica.state = "draining"
    replica.save()
    gateway_feed.changed()


def test_a_drained_replica_may_go_when_its_gateway_says_so_twice(
    client: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    replica, _ = ready_replica(endpoint), ready_replica(endpoint, "r2", host="10.0.0.10")
    gateway.follow()
    gateway.count()
    gateway.count()
    assert gateway_feed.leaving([replica]) == {"r1": UNKNOWN}
    drain(replica)
    gateway.follow()
    gateway.count(at_10_0_0_9=1)
    gateway.count(at_10_0_0_9=1)
    assert gateway_feed.leaving([replica]) == {"r1": Leaving(True, 1)}
    gateway.count()
    assert gateway_feed.leaving([replica]) == {"r1": Leaving(True, 1)}
    gateway.count()
    assert gateway_feed.leaving([replica]) == {"r1": Leaving(True, 0)}
    assert gateway_feed.leaving([]) == {}


def test_while_redis_is_away_nothing_has_left(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    away = Cluster(redis.Redis.from_url("unix:///nonexistent/redis.sock"))
    monkeypatch.setattr(gateway_feed, "cluster", lambda: away)
    replica = ready_replica(endpoint)
    assert gateway_feed.leaving([replica]) == {"r1": UNKNOWN}
    assert not addresses.is_free(replica)
    addresses.hold(replica)
    assert addresses.release_left() == 0


def test_a_report_that_is_none_is_refused(client: Client, endpoint: Endpoint) -> None:
    assert client.get(URL, headers=headers(streams="[1, 2]")).status_code == 400
    assert client.get(URL, headers=headers(streams="no JSON")).status_code == 400


def test_an_address_is_held_until_every_gateway_has_left_it(
    client: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    other = Gateway(client, "gw-2")
    replica = ready_replica(endpoint)
    for one in (gateway, other):
        one.follow()
    with transaction.atomic():
        replica.state = "failed"
        replica.save()
        addresses.hold(replica)
        addresses.hold(replica)  # a worker that does it again
    gateway_feed.changed()
    assert addresses.held() == {("10.0.0.9", 8080)}
    gateway.follow()
    assert addresses.release_left() == 0  # the other one is late
    other.follow()
    assert addresses.release_left() == 1
    assert addresses.held() == frozenset()


def test_a_stopped_gateway_would_lead_there_when_it_starts(
    client: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    other = Gateway(client, "gw-2")
    replica = ready_replica(endpoint)
    for one in (gateway, other):
        one.follow()
    other.stop()
    drain(replica)
    gateway.follow()
    gateway.count()
    gateway.count()
    assert gateway_feed.leaving([replica]) == {"r1": Leaving(True, 0)}  # it holds no request
    assert not addresses.is_free(replica)  # but it has the files
    other.follow()
    assert addresses.is_free(replica)


def test_what_is_not_held(endpoint: Endpoint, django_assert_num_queries: object) -> None:
    addresses.hold(ready_replica(endpoint, state="stopped"), left=True)
    addresses.hold(ready_replica(endpoint, "never ready", state="failed", ready_at=None))
    addresses.hold(ready_replica(endpoint, "no address", state="failed", host=""))
    assert not HeldAddress.objects.exists()
    with django_assert_num_queries(1):  # type: ignore[operator]
        assert addresses.release_left() == 0


def test_nobody_gets_the_address_of_a_replica_that_we_think_alive(endpoint: Endpoint) -> None:
    ready_replica(endpoint, state="starting")  # perhaps its container has just died
    ready_replica(endpoint, "r2", state="stopped", host="10.0.0.10")
    assert addresses.held() == {("10.0.0.9", 8080)}


def test_an_unhealthy_replica_is_spared_while_another_can_serve(
    client: Client, endpoint: Endpoint, gateway: Gateway
) -> None:
    first, second = ready_replica(endpoint), ready_replica(endpoint, "r2", host="10.0.0.10")

    def routed() -> set[str]:
        (target,) = gateway_feed.targets().endpoints
        return {item.host for item in target.replicas}

    assert routed() == {"10.0.0.9", "10.0.0.10"}
    Replica.objects.filter(pk=first.pk).update(unhealthy_since=timezone.now())
    assert routed() == {"10.0.0.10"}
    gateway_feed.changed()
    gateway.follow()
    assert gateway_feed.route_state(endpoint) == (1, True)  # what was spared is not waited for
    Replica.objects.filter(pk=second.pk).update(unhealthy_since=timezone.now())
    assert routed() == {"10.0.0.9", "10.0.0.10"}
