"""What web tells the gateways' agents, and what it takes from their reports; Redis is real."""

from __future__ import annotations

import gzip
import json

import pytest
import redis
from django.conf import settings
from django.test import Client

from config.keyfiles import read_or_create
from endpoints import gateway_feed, services
from endpoints.models import Endpoint, Replica
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
URL = "/internal/gateway/snapshot"


@pytest.fixture
def endpoint(redis_server: redis.Redis, editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


def headers(applied: str = "", etag: str = "") -> dict[str, str]:
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    found = {"Authorization": f"Bearer {token}", "X-Berth-Gateway": "gw-1", "X-Berth-Applied": applied}
    return found | ({"If-None-Match": etag} if etag else {})


def ready_replica(endpoint: Endpoint, **fields: object) -> Replica:
    return Replica.objects.create(
        endpoint=endpoint,
        revision=endpoint.revision,
        slot=1,
        name="r1",
        state="ready",
        host="10.0.0.9",
        port=8080,
    )


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


def test_an_unchanged_poll_reads_no_database(
    client: Client, endpoint: Endpoint, django_assert_num_queries: object
) -> None:
    etag = client.get(URL, headers=headers())["ETag"]
    client.get(URL, headers=headers(etag=etag))
    with django_assert_num_queries(0):  # type: ignore[operator]
        assert client.get(URL, headers=headers(etag=etag)).status_code == 304


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
