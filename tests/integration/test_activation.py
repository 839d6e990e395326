"""What web answers to activators, and what their word means for replicas that leave; Redis is real."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
from django.conf import settings
from django.test import Client
from django.utils import timezone

from config.keyfiles import read_or_create
from endpoints import activation, gateway_feed
from endpoints.models import DeployPhase, Endpoint, Event, Replica
from gateway.activators import ActivatorReport, Activators
from gateway.leaving import Leaving
from gateway.snapshot import build, endpoint_digest
from gateway.targets import Serving
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
URL = "/internal/activator"
ADDRESS = "10.0.0.9:8080"


@pytest.fixture
def endpoint(redis_server: redis.Redis, editor_actor: Actor) -> Endpoint:
    """Asleep, after it has served."""
    load_data()
    redis_server.set("berth:gateway:counting", "1", ex=10**9 - 60)
    endpoint = new_endpoint(editor_actor)
    Endpoint.objects.filter(pk=endpoint.pk).update(
        min_replicas=0,
        idle_timeout_s=60,
        desired_replicas=0,
        stable_revision=endpoint.revision_id,
        status="ASLEEP",
        reason_code="asleep",
    )
    endpoint.refresh_from_db()
    return endpoint


def told(*waiting: str, **more: Any) -> dict[str, Any]:
    rows = {key: {"count": 2, "oldest_s": 1.5} for key in waiting}
    return {"activator": "a-1", "instance": "i-1", "waiting": rows, "connections": {}, **more}


def ask(client: Client, *waiting: str, **more: Any) -> dict[str, Any]:
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    answer = client.post(
        URL,
        json.dumps(told(*waiting, **more)),
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )
    assert answer.status_code == 200, answer.content
    return dict(answer.json()["endpoints"])


def replica(endpoint: Endpoint, **fields: Any) -> Replica:
    values = {"state": "ready", "host": "10.0.0.9", "port": 8080, "ready_at": timezone.now(), "name": "r1"}
    return Replica.objects.create(
        endpoint=endpoint, revision=endpoint.revision, slot=1, **{**values, **fields}
    )


@pytest.mark.parametrize("authorization", ["", "Bearer wrong"])
def test_only_activators_are_answered(client: Client, endpoint: Endpoint, authorization: str) -> None:
    answer = client.post(
        URL,
        json.dumps(told(endpoint.id)),
        content_type="application/json",
        headers={"Authorization": authorization},
    )
    assert answer.status_code == 401
    endpoint.refresh_from_db()
    assert endpoint.desired_replicas == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"activator":"a"}',
        b'{"activator":"a","instance":"i","waiting":{"x":1},"connections":{}}',
    ],
)
def test_nonsense_is_refused(client: Client, endpoint: Endpoint, body: bytes) -> None:
    token = read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)
    headers = {"Authorization": f"Bearer {token}"}
    assert client.post(URL, body, content_type="application/json", headers=headers).status_code == 400


def test_a_sleeping_endpoint_is_woken_once_by_many_questions(client: Client, endpoint: Endpoint) -> None:
    for _ in range(5):
        assert ask(client, endpoint.id)[endpoint.id]["state"] == "waking"
    endpoint.refresh_from_db()
    assert (endpoint.desired_replicas, endpoint.generation) == (1, 2)
    assert Event.objects.filter(endpoint=endpoint, kind="endpoint.woken").count() == 1


def test_who_only_tells_wakes_nobody(client: Client, endpoint: Endpoint) -> None:
    rows = {endpoint.id: {"count": 0, "oldest_s": 0, "passing": 1}}
    assert ask(client, waiting=rows) == {}
    endpoint.refresh_from_db()
    assert endpoint.desired_replicas == 0


def test_ready_replicas_are_named_and_sick_ones_are_not(client: Client, endpoint: Endpoint) -> None:
    sick = replica(endpoint, unhealthy_since=timezone.now())
    assert ask(client, endpoint.id)[endpoint.id]["state"] == "waking"
    sick.delete()
    replica(endpoint)
    word = {"state": "ready", "replicas": [["10.0.0.9", 8080]], "at_once": None}
    assert ask(client, endpoint.id)[endpoint.id] == word
    Endpoint.objects.filter(pk=endpoint.pk).update(max_concurrency=7)
    assert ask(client, endpoint.id)[endpoint.id] == {**word, "at_once": 7}


def test_the_way_is_told_in_words_and_seconds(client: Client, endpoint: Endpoint) -> None:
    coming = replica(endpoint, state="starting", ready_at=None)
    DeployPhase.objects.create(replica=coming, name="loading", started_at=timezone.now())
    word = ask(client, endpoint.id)[endpoint.id]
    assert (word["state"], word["phase"]) == ("waking", "loading model")


def test_what_can_not_wake_says_why(client: Client, endpoint: Endpoint, editor_actor: Actor) -> None:
    rows = Endpoint.objects.filter(pk=endpoint.pk)
    rows.update(status="FAILED", reason_code="out_of_memory", desired_replicas=1, observed_generation=1)
    word = ask(client, endpoint.id)[endpoint.id]
    assert (word["state"], word["status"], word["code"]) == ("failed", "FAILED", "out_of_memory")
    assert word["message"]
    rows.update(generation=2)  # somebody asked for another try since
    assert ask(client, endpoint.id)[endpoint.id]["state"] == "waking"
    rows.update(paused_at=timezone.now())
    word = ask(client, endpoint.id)[endpoint.id]
    assert (word["state"], word["status"], word["code"]) == ("failed", "INACTIVE", "paused")
    rows.update(paused_at=None, deleting_at=timezone.now())
    assert ask(client, endpoint.id, "me-none") == {
        endpoint.id: {"state": "gone"},
        "me-none": {"state": "gone"},
    }


def test_few_queries_for_all_of_them_and_none_for_nobody(
    client: Client, endpoint: Endpoint, editor_actor: Actor, django_assert_num_queries: Any
) -> None:
    assert endpoint.revision is not None
    model = endpoint.revision.model
    others = [new_endpoint(editor_actor, model, name=f"e-{n}") for n in range(5)]
    ids = [one.id for one in (endpoint, *others)]
    ask(client, *ids)
    with django_assert_num_queries(3):  # endpoints, ready replicas, those on their way
        ask(client, *ids)
    with django_assert_num_queries(0):
        ask(client)


# --- what the autoscaler and the planner learn ------------------------------------------------------------


def test_held_requests_are_counted_until_they_are_not(
    client: Client, endpoint: Endpoint, redis_server: redis.Redis
) -> None:
    ask(client, endpoint.id)
    assert activation.waiting() == {endpoint.id: 2}
    passing = {endpoint.id: {"count": 0, "oldest_s": 0, "passing": 3}}
    ask(client, waiting=passing, activator="a-2")
    assert activation.waiting() == {endpoint.id: 5}
    ask(client)
    assert activation.waiting() == {endpoint.id: 3}
    redis_server.delete("berth:activator:live:a-2")  # silent for some seconds
    assert activation.waiting() == {}


def leaving(endpoint: Endpoint) -> Leaving:
    return gateway_feed.leaving(Replica.objects.filter(endpoint=endpoint))["r1"]


def test_a_drain_waits_for_an_activators_answers(
    client: Client, endpoint: Endpoint, redis_server: redis.Redis
) -> None:
    replica(endpoint, state="draining")
    assert leaving(endpoint) == Leaving(True, 0)
    ask(client, connections={ADDRESS: 2})
    assert leaving(endpoint) == Leaving(True, 2)
    redis_server.delete("berth:activator:live:a-1")  # cut off from us; its answers may go on
    assert leaving(endpoint) == Leaving(True, 2)
    ask(client, instance="i-2")  # it was started anew
    assert leaving(endpoint) == Leaving(True, 0)
    ask(client, instance="i-2", connections={ADDRESS: 1})
    ask(client, instance="i-2", gone=True)
    assert leaving(endpoint) == Leaving(True, 0)


def test_an_address_that_was_told_is_led_to_for_a_while(
    client: Client, endpoint: Endpoint, redis_server: redis.Redis
) -> None:
    row = replica(endpoint)
    where = (row.host, row.port)
    assert gateway_feed.free_addresses([where]) == {where}
    ask(client, endpoint.id)
    Replica.objects.filter(pk=row.pk).update(state="draining")
    ask(client)
    assert gateway_feed.free_addresses([where]) == set()
    assert leaving(endpoint) == Leaving(False, None)
    assert 0 < redis_server.ttl(f"berth:activator:given:{ADDRESS}") <= 10
    redis_server.delete(f"berth:activator:given:{ADDRESS}")
    assert gateway_feed.free_addresses([where]) == {where}
    assert leaving(endpoint) == Leaving(True, 0)


def test_what_a_silent_activator_did_with_its_last_answer_is_not_known(redis_server: redis.Redis) -> None:
    activators = Activators(redis_server)
    activators.report(ActivatorReport("a-1", "i-1"), [ADDRESS])
    redis_server.delete(f"berth:activator:given:{ADDRESS}", "berth:activator:live:a-1")
    assert activators.leaving({"r1": (ADDRESS, Leaving(True, 0))}) == {"r1": Leaving(True, 1)}


# --- the gateways' part -----------------------------------------------------------------------------------


def target(endpoint: Endpoint) -> Any:
    return next(one for one in gateway_feed.targets().endpoints if one.endpoint_id == endpoint.id)


def test_requests_are_held_for_what_sleeps_and_its_words_change_nothing(endpoint: Endpoint) -> None:
    before = target(endpoint)
    assert before.serving is Serving.HOLD
    Endpoint.objects.filter(pk=endpoint.pk).update(status="DEPLOYING", reason_code="loading_model")
    assert endpoint_digest(target(endpoint)) == endpoint_digest(before)
    replica(endpoint)
    assert target(endpoint).serving is Serving.READY


@pytest.mark.parametrize(
    "change",
    [
        {"status": "FAILED", "reason_code": "out_of_memory", "observed_generation": 1},
        {"min_replicas": 1},
        {"stable_revision": None},
        {"paused_at": timezone.now()},
        {"deleting_at": timezone.now()},
    ],
)
def test_they_are_refused_where_waiting_is_in_vain(endpoint: Endpoint, change: dict[str, Any]) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(**change)
    assert target(endpoint).serving is Serving.UNAVAILABLE


def test_an_update_that_is_taken_back_refuses_nobody_meanwhile(endpoint: Endpoint) -> None:
    """It failed, and what serves again is on its way: whoever waits goes on waiting, and so does who comes."""
    Endpoint.objects.filter(pk=endpoint.pk).update(
        status="FAILED", reason_code="out_of_memory", observed_generation=1, generation=2
    )
    assert target(endpoint).serving is Serving.HOLD


def test_without_an_activator_they_are_refused(endpoint: Endpoint, settings: Any) -> None:
    settings.BERTH_ACTIVATOR = ""
    assert target(endpoint).serving is Serving.UNAVAILABLE
    assert "activator" not in json.dumps(build(gateway_feed.targets()).resources)
