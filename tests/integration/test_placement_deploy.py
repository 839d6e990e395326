"""Replicas over several machines, through the whole reconciler: spread, exact, released at once, oldest first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.utils import timezone

from endpoints import services
from endpoints.errors import describe
from endpoints.models import Endpoint, Gpu, Node, Replica, ReplicaState
from endpoints.placement import refresh
from endpoints.reconciler import probe
from iam.actors import Actor
from runtimes.contract import GpuFacts, NodeFacts
from runtimes.fake import FakeRuntime
from tests.support_deploy import Driver
from tests.support_endpoints import load_data
from tests.support_placement import asks_for, gpu_size

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
GIB = 2**30


def machine(name: str, gpus: int) -> NodeFacts:
    return NodeFacts(
        name,
        16,
        64 * GIB,
        tuple(
            GpuFacts(f"GPU-{name}-{n}", n, "NVIDIA GeForce RTX 2080 Ti", "rtx2080ti", 11 * GIB)
            for n in range(gpus)
        ),
    )


@pytest.fixture
def runtime() -> FakeRuntime:
    """Three machines with four GPUs each."""
    fake = FakeRuntime()
    fake.engine.nodes = [machine(name, 4) for name in ("a", "b", "c")]
    return fake


@pytest.fixture
def drive(runtime: FakeRuntime, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Driver:
    load_data()
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset(urls))
    return Driver(runtime)


def live(endpoint: Endpoint) -> list[Replica]:
    return list(endpoint.replicas.filter(ended_at=None).order_by("slot"))


def test_replicas_spread_and_run_where_and_on_what_they_claimed(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    assert not Node.objects.exists()  # no sweep has run: the first endpoint looks for itself
    endpoint = drive.to(asks_for(editor_actor, gpu_size(1), min_replicas=6, max_replicas=6), "ACTIVE")
    rows = live(endpoint)
    assert Counter(row.node_id for row in rows) == {"a": 2, "b": 2, "c": 2}
    for row in rows:
        spec = runtime.engine.containers[row.name].spec
        claimed = Gpu.objects.filter(replica=row).values_list("uuid", flat=True)
        assert (spec.node, spec.gpu_ids) == (row.node_id, tuple(claimed))
        assert len(spec.gpu_ids) == 1
    given = [gpu for row in rows for gpu in row.gpu_ids]
    assert len(set(given)) == 6


def test_a_replica_that_fails_gives_back_its_gpu_at_once_and_the_others_serve_on(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    endpoint = drive.to(asks_for(editor_actor, gpu_size(1), min_replicas=3, max_replicas=3), "ACTIVE")
    victim, *others = live(endpoint)
    runtime.engine.exits(victim.name, 1)
    endpoint = drive.until(endpoint, lambda _: Replica.objects.get(pk=victim.pk).state == ReplicaState.FAILED)
    assert not Gpu.objects.filter(replica=victim).exists()
    assert not Replica.objects.get(pk=victim.pk).claimed
    drive.to(endpoint, "ACTIVE")
    assert {row.pk for row in others} < {row.pk for row in live(endpoint)}
    assert Gpu.objects.exclude(replica=None).count() == 3


def test_a_gpu_is_given_to_nobody_while_a_container_that_hangs_still_has_it(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = drive.to(asks_for(editor_actor, gpu_size(1)), "ACTIVE")
    victim = live(endpoint)[0]
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset())
    Replica.objects.filter(pk=victim.pk).update(unhealthy_since=timezone.now() - timedelta(minutes=1))
    held: list[bool] = []
    stop, remove = runtime.stop, runtime.remove

    def looked(call: Callable[..., None]) -> Callable[..., None]:
        def look(name: str, **more: Any) -> None:
            held.append(Gpu.objects.filter(replica=victim).exists())
            call(name, **more)

        return look

    monkeypatch.setattr(runtime, "stop", looked(stop))
    monkeypatch.setattr(runtime, "remove", looked(remove))
    drive.until(endpoint, lambda _: not Gpu.objects.filter(replica=victim).exists())
    assert held == [True, True]
    victim.refresh_from_db()
    assert (victim.state, victim.claimed, victim.name in runtime.engine.containers) == (
        "failed",
        False,
        False,
    )


def test_what_waits_is_placed_by_itself_oldest_first(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor, outsider_actor: Actor
) -> None:
    runtime.engine.nodes = [machine("a", 4)]
    holder = drive.to(asks_for(editor_actor, gpu_size(4), "holder"), "ACTIVE")
    waiting = [
        drive.until(asks_for(actor, gpu_size(2), name), lambda item: item.reason_code == "no_capacity")
        for actor, name in ((outsider_actor, "first"), (editor_actor, "second"), (editor_actor, "third"))
    ]
    first, second, third = waiting
    assert describe("no_capacity", second.reason_params).message == (
        "It needs 2 × rtx2080ti in HCM; 0 free of 4: holder/r1 holds the rest."
    )
    assert describe("no_capacity", first.reason_params).message == (
        "It needs 2 × rtx2080ti in HCM; 0 free of 4: 1 replica holds the rest."
    )
    services.pause_endpoint(actor=editor_actor, endpoint=holder)
    drive.until(holder, lambda item: item.reason_code == "paused")
    drive.step(third)
    third.refresh_from_db()
    assert describe("no_capacity", third.reason_params).message == (
        "Room in HCM goes to 2 replicas first that have waited longer."
    )
    drive.to(second, "ACTIVE")
    drive.to(first, "ACTIVE")
    drive.step(third)
    third.refresh_from_db()
    assert (third.status, third.reason_params["holders"], third.reason_params["others"]) == (
        "PENDING",
        ["second/r1"],
        1,
    )
    services.delete_endpoint(actor=outsider_actor, endpoint=first)
    drive.gone(first)
    drive.to(third, "ACTIVE")


def test_a_machine_that_comes_back_into_use_takes_what_waits(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    refresh(runtime)
    Node.objects.update(schedulable=False)
    endpoint = drive.until(
        asks_for(editor_actor, gpu_size(1)), lambda item: item.reason_code == "no_capacity"
    )
    assert describe("no_capacity", endpoint.reason_params).message == "No machine in HCM takes replicas."
    Node.objects.filter(name="b").update(schedulable=True)
    drive.to(endpoint, "ACTIVE")
    assert [row.node_id for row in live(endpoint)] == ["b"]
