"""What the autoscaler's word does to an endpoint: the real reconciler on the fake engine."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
import redis

from endpoints import services
from endpoints.models import Decision, Endpoint, Event, ReplicaState
from endpoints.reconciler import probe
from iam.actors import Actor
from runtimes.fake import FakeEngine, FakeRuntime
from tests import support_deploy
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(engine=FakeEngine())


@pytest.fixture
def drive(runtime: FakeRuntime, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Driver:
    load_data()
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset(urls))
    monkeypatch.setattr(
        support_deploy, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _seconds: None)
    )
    return Driver(runtime)


def live(endpoint: Endpoint) -> list[str]:
    rows = endpoint.replicas.exclude(state__in=(ReplicaState.STOPPED, ReplicaState.FAILED))
    return sorted(rows.values_list("state", flat=True))


def test_it_starts_with_one_replica_and_sleeps_without_any(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    made = new_endpoint(editor_actor, min_replicas=0, max_replicas=2, idle_timeout_s=60)
    made = drive.to(made, "ACTIVE")
    assert live(made) == ["ready"]
    assert services.scale(made, 0)
    made = drive.until(made, lambda item: not live(item))
    assert (made.status, made.reason_code, made.wanted_replicas) == ("ASLEEP", "asleep", 0)
    assert runtime.list() == [], "nothing of it is left"
    assert not made.replicas.filter(claimed=True).exists()


def test_a_request_wakes_it_once(drive: Driver, editor_actor: Actor) -> None:
    made = new_endpoint(editor_actor, min_replicas=0, max_replicas=2, idle_timeout_s=60)
    made = drive.to(made, "ACTIVE")
    assert not services.wake(made.id), "it is awake"
    services.scale(made, 0)
    made = drive.to(made, "ASLEEP")
    woken = [services.wake(made.id) for _ in range(8)]
    assert woken == [True] + [False] * 7
    assert [(item.rule, item.before, item.after) for item in Decision.objects.all()] == [("woken", 0, 1)]
    assert Event.objects.filter(kind="endpoint.woken").count() == 1
    made = drive.to(made, "ACTIVE")
    assert live(made) == ["ready"]
    assert made.replicas.count() == 2, "the one that slept away and the one that came"


def test_what_is_paused_or_deleted_is_not_woken(drive: Driver, editor_actor: Actor) -> None:
    made = new_endpoint(editor_actor, min_replicas=0, max_replicas=2, idle_timeout_s=60)
    made = drive.to(made, "ACTIVE")
    services.scale(made, 0)
    made = drive.to(made, "ASLEEP")
    services.pause_endpoint(actor=editor_actor, endpoint=made)
    assert not services.wake(made.id)
    assert not services.wake("me-nobody")
    services.resume_endpoint(actor=editor_actor, endpoint=made)
    assert live(drive.to(made, "ACTIVE")) == ["ready"], "a person who resumes it wants it to run"


def test_more_replicas_are_growth_and_one_lost_meanwhile_is_not(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    made = drive.to(new_endpoint(editor_actor, min_replicas=1, max_replicas=4), "ACTIVE")
    generation = made.generation
    assert services.scale(made, 3)
    statuses: list[tuple[str, str]] = []

    def watch(item: Endpoint) -> bool:
        statuses.append((item.status, item.reason_code))
        return item.status == "ACTIVE" and live(item) == ["ready"] * 3

    made = drive.until(made, watch)
    assert {status for status, _ in statuses} <= {"ACTIVE", "UPDATING"}, statuses
    assert ("UPDATING", "scaling_up") in statuses
    assert (made.generation, made.settled_replicas) == (generation, 3)
    first = made.replicas.filter(state=ReplicaState.READY).order_by("slot").first()
    assert first is not None
    runtime.remove(first.name)
    assert drive.to(made, "DEGRADED").reason_code in ("replacing", "fewer_replicas")
    made = drive.to(made, "ACTIVE")
    assert services.scale(made, 1)
    made = drive.until(made, lambda item: live(item) == ["ready"])
    assert (made.status, made.settled_replicas) == ("ACTIVE", 1)


def test_the_autoscaler_never_writes_over_what_a_person_has_just_done(
    drive: Driver, editor_actor: Actor
) -> None:
    made = drive.to(new_endpoint(editor_actor, min_replicas=1, max_replicas=4), "ACTIVE")
    seen = Endpoint.objects.get(pk=made.pk)
    services.update_endpoint(actor=editor_actor, endpoint=made, changes={"max_replicas": 2})
    assert not services.scale(seen, 4)
    seen = Endpoint.objects.get(pk=made.pk)
    services.pause_endpoint(actor=editor_actor, endpoint=made)
    assert not services.scale(seen, 2)
    assert Endpoint.objects.get(pk=made.pk).wanted_replicas == 0
    assert not Event.objects.filter(kind="endpoint.scaled").exists()
