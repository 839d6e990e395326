"""Updates with the real reconciler on the fake engine: one replica after another, without a gap, and back if they
fail."""

from __future__ import annotations

import time
from datetime import timedelta
from types import SimpleNamespace

import pytest
import redis
from django.utils import timezone

from endpoints import services
from endpoints.models import Endpoint, Gpu, HeldAddress, Node, Region, Replica, ReplicaState, ReplicaTime
from endpoints.reconciler import probe, retries
from iam.actors import Actor
from runtimes.fake import FakeEngine, FakeRuntime
from tests import support_deploy
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]


class Sick:
    """Which containers never give a healthy answer: those whose name holds one of these."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    def healthy(self, urls: dict[str, str]) -> frozenset[str]:
        return frozenset(name for name in urls if not any(part in name for part in self.names))


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> Sick:
    found = Sick()
    monkeypatch.setattr(probe, "healthy", found.healthy)
    return found


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(engine=FakeEngine())


@pytest.fixture
def drive(
    runtime: FakeRuntime, redis_server: redis.Redis, sick: Sick, monkeypatch: pytest.MonkeyPatch
) -> Driver:
    load_data()
    monkeypatch.setattr(
        support_deploy, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _seconds: None)
    )
    return Driver(runtime)


def active(drive: Driver, actor: Actor, replicas: int = 2) -> Endpoint:
    return drive.to(new_endpoint(actor, min_replicas=replicas, max_replicas=4), "ACTIVE")


def serving(endpoint: Endpoint) -> set[tuple[int, int]]:
    """(slot, revision number) of all that requests are sent to."""
    rows = endpoint.replicas.filter(state=ReplicaState.READY)
    return set(rows.values_list("slot", "revision__number"))


def settled(endpoint: Endpoint) -> bool:
    return endpoint.status == "ACTIVE" and endpoint.revision_id == endpoint.stable_revision_id


def test_an_update_replaces_one_after_another_and_becomes_what_to_go_back_to(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    endpoint = active(drive, editor_actor)
    assert endpoint.stable_revision_id == endpoint.revision_id
    services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"settings": {"max_context": 256}}
    )
    most = []

    def watch(item: Endpoint) -> bool:
        live = item.replicas.filter(state__in=("waiting", "starting", "ready"))
        most.append(live.count())
        assert len(serving(item)) >= 2, "less than wanted serve"
        return settled(item) and serving(item) == {(1, 2), (2, 2)}

    endpoint = drive.until(endpoint, watch)
    assert max(most) == 3, "one more than wanted, never two"
    drive.until(endpoint, lambda item: not item.replicas.filter(state="draining").exists())
    assert len(runtime.list()) == 2
    assert not HeldAddress.objects.exists(), "every gateway had confirmed before a container went"


def test_an_update_that_does_not_get_healthy_is_taken_back_and_the_endpoint_serves_on(
    drive: Driver, runtime: FakeRuntime, sick: Sick, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = active(drive, editor_actor)
    monkeypatch.setattr(retries, "BACK_OFF", retries.BACK_OFF / 1000)
    sick.names = {"-v2-"}
    services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"settings": {"max_context": 256}}
    )

    def crash(item: Endpoint) -> bool:
        assert len(serving(item)) == 2
        for replica in item.replicas.filter(state="starting", revision__number=2):
            runtime.engine.exits(replica.name, 3)
        return bool(item.failed_update)

    drive.until(endpoint, crash)
    endpoint = drive.to(endpoint, "DEGRADED")
    endpoint = drive.until(endpoint, lambda item: len(runtime.list()) == 2)
    assert serving(endpoint) == {(1, 1), (2, 1)}
    assert (endpoint.reason_code, endpoint.failed_update["revision"]) == ("container_exited", 2)
    assert endpoint.revision is not None
    assert endpoint.revision.number == 1
    failed = endpoint.revisions.get(number=2)
    assert (failed.failed_code, failed.failed_params["exit_code"]) == ("container_exited", 3)
    assert "logs" not in failed.failed_params
    told = endpoint.events.get(kind="revision.taken_back")
    assert (told.params["number"], told.params["serving"]) == (2, 1)
    attempts = endpoint.replicas.filter(revision__number=2, state="failed")
    assert attempts.count() == 3
    sick.names = set()
    services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"settings": {"max_context": 128}}
    )
    endpoint = drive.until(endpoint, settled)
    assert endpoint.failed_update == {}
    assert serving(endpoint) == {(1, 3), (2, 3)}


def test_a_persons_next_change_wins_over_taking_back(
    drive: Driver, runtime: FakeRuntime, sick: Sick, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = active(drive, editor_actor, replicas=1)
    sick.names = {"-v2-"}
    services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"settings": {"max_context": 256}}
    )
    drive.until(endpoint, lambda item: item.replicas.filter(state="starting").exists())
    services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"settings": {"max_context": 128}}
    )
    endpoint = drive.until(endpoint, settled)
    assert serving(endpoint) == {(1, 3)}
    assert endpoint.failed_update == {}
    assert not endpoint.events.filter(kind="revision.taken_back").exists()


def test_an_update_asked_for_during_a_pause_has_its_whole_time_after_it(
    drive: Driver, sick: Sick, editor_actor: Actor
) -> None:
    endpoint = active(drive, editor_actor, replicas=1)
    services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.until(endpoint, lambda item: item.reason_code == "paused")
    services.update_endpoint(
        actor=editor_actor, endpoint=endpoint, changes={"settings": {"max_context": 256}}
    )
    endpoint.revisions.filter(number=2).update(created_at=timezone.now() - timedelta(days=1))
    services.resume_endpoint(actor=editor_actor, endpoint=endpoint)
    endpoint = drive.until(endpoint, settled)
    assert serving(endpoint) == {(1, 2)}
    assert not endpoint.events.filter(kind="revision.taken_back").exists()


def test_a_restart_replaces_all_without_a_gap(drive: Driver, editor_actor: Actor) -> None:
    endpoint = active(drive, editor_actor)
    before = set(endpoint.replicas.values_list("pk", flat=True))
    services.restart_endpoint(actor=editor_actor, endpoint=endpoint)

    def renewed(item: Endpoint) -> bool:
        ready = set(item.replicas.filter(state="ready").values_list("pk", flat=True))
        assert len(ready) >= 2
        return not ready & before and item.status == "ACTIVE"

    endpoint = drive.until(endpoint, renewed)
    assert endpoint.revision is not None
    assert endpoint.revision.number == 1, "a restart is no revision"


def test_one_replica_that_keeps_failing_takes_nobody_with_it(
    drive: Driver, runtime: FakeRuntime, sick: Sick, editor_actor: Actor
) -> None:
    endpoint = active(drive, editor_actor)
    victim = endpoint.replicas.get(slot=2)
    sick.names = {"-r2-"}
    runtime.engine.exits(victim.name, 137)

    def crash(item: Endpoint) -> bool:
        assert (1, 1) in serving(item)
        for replica in item.replicas.filter(state="starting"):
            runtime.engine.exits(replica.name, 1)
        return item.replicas.filter(slot=2, state="failed").count() == 2 and item.status == "DEGRADED"

    endpoint = drive.until(endpoint, crash)
    for _ in range(20):
        drive.step(endpoint)
    assert endpoint.replicas.filter(slot=2).count() == 2, "the next attempt waits for its time"
    assert not Replica.objects.filter(slot=2, claimed=True).exists(), "and holds nothing until then"
    endpoint.replicas.filter(slot=2).update(ended_at=timezone.now() - retries.BACK_OFF_LIMIT)
    sick.names = set()
    assert serving(drive.to(endpoint, "ACTIVE")) == {(1, 1), (2, 1)}


def test_however_many_others_fail_no_slots_failures_are_forgotten(drive: Driver, editor_actor: Actor) -> None:
    endpoint = new_endpoint(editor_actor, min_replicas=5, max_replicas=5)
    assert endpoint.revision is not None
    for attempt in range(1, 11):
        for slot in range(1, 6):
            if slot == 1 and attempt > 1:
                continue  # its image was not found: that is final
            Replica.objects.create(
                endpoint=endpoint,
                revision=endpoint.revision,
                slot=slot,
                attempt=attempt,
                generation=endpoint.generation,
                name=f"old-{slot}-{attempt}",
                state="failed",
                reason_code="image_not_found" if slot == 1 else "container_exited",
                ended_at=timezone.now(),
            )
    for row in endpoint.replicas.exclude(slot=1):  # their turn comes
        Replica.objects.filter(pk=row.pk).update(ended_at=timezone.now() - retries.BACK_OFF_LIMIT)
    drive.step(endpoint)
    assert endpoint.replicas.filter(slot=1).count() == 1, "it is not tried again"
    for slot in range(2, 6):
        failed = endpoint.replicas.filter(slot=slot, state="failed")
        assert sorted(failed.values_list("attempt", flat=True)) == list(range(4, 11)), "enough for 5 minutes"


def test_the_way_back_from_an_interrupted_update_needs_no_more_room_than_the_way_there(
    drive: Driver, runtime: FakeRuntime, sick: Sick, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "BACK_OFF", retries.BACK_OFF / 1000)
    Node.objects.all().delete()
    node = Node.objects.create(name="local", region=Region.objects.get(), cpus=64, memory_bytes=2**38)
    for number in range(3):
        Gpu.objects.create(uuid=f"GPU-{number}", node=node, model="rtx2080ti", vram_bytes=11 * 2**30)
    model = ready_model(editor_actor.project, framework="vllm", weights_path="/nowhere/m", entry_file="")
    size = "g1-standard-4x16-1rtx2080ti"
    endpoint = new_endpoint(editor_actor, model, instance_type=size, min_replicas=3, max_replicas=3)
    endpoint = drive.to(endpoint, "ACTIVE")
    sick.names = {"-v2-r3-"}
    services.update_endpoint(
        actor=editor_actor,
        endpoint=endpoint,
        changes={"environment": {"COLOUR": "blue"}},
        allow_interruption=True,
    )

    def last_one_fails(item: Endpoint) -> bool:
        for replica in item.replicas.filter(state="starting", name__contains="-v2-r3-"):
            runtime.engine.exits(replica.name, 3)
        return bool(item.failed_update)

    drive.until(endpoint, last_one_fails)
    endpoint = drive.until(
        endpoint, lambda item: item.status == "DEGRADED" and serving(item) == {(1, 1), (2, 1), (3, 1)}
    )
    assert endpoint.reason_code == endpoint.failed_update["code"]


def test_with_an_interruption_allowed_the_old_one_goes_first(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    Node.objects.all().delete()
    node = Node.objects.create(name="local", region=Region.objects.get(), cpus=64, memory_bytes=2**38)
    Gpu.objects.create(uuid="GPU-1", node=node, model="rtx2080ti", vram_bytes=11 * 2**30)
    model = ready_model(editor_actor.project, framework="vllm", weights_path="/nowhere/m", entry_file="")
    endpoint = drive.to(
        new_endpoint(editor_actor, model, instance_type="g1-standard-4x16-1rtx2080ti"), "ACTIVE"
    )
    assert Gpu.objects.get().replica == endpoint.replicas.get()
    services.update_endpoint(
        actor=editor_actor,
        endpoint=endpoint,
        changes={"environment": {"COLOUR": "blue"}},
        allow_interruption=True,
    )

    def one_at_a_time(item: Endpoint) -> bool:
        assert len(runtime.list()) <= 1
        return settled(item)

    endpoint = drive.until(endpoint, one_at_a_time)
    assert serving(endpoint) == {(1, 2)}
    assert Gpu.objects.get().replica == endpoint.replicas.get(state="ready")


def test_a_short_interruption_is_not_the_chance_of_whoever_waits_for_the_same_gpu(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    Node.objects.all().delete()
    node = Node.objects.create(name="local", region=Region.objects.get(), cpus=64, memory_bytes=2**38)
    Gpu.objects.create(uuid="GPU-1", node=node, model="rtx2080ti", vram_bytes=11 * 2**30)
    model = ready_model(editor_actor.project, framework="vllm", weights_path="/nowhere/m", entry_file="")
    size = "g1-standard-4x16-1rtx2080ti"
    first = drive.to(new_endpoint(editor_actor, model, name="first", instance_type=size), "ACTIVE")
    second = drive.to(new_endpoint(editor_actor, model, name="second", instance_type=size), "PENDING")
    services.update_endpoint(
        actor=editor_actor, endpoint=first, changes={"environment": {"A": "b"}}, allow_interruption=True
    )

    def both(item: Endpoint) -> bool:
        drive.step(second)
        return settled(item)

    first = drive.until(first, both)
    services.restart_endpoint(actor=editor_actor, endpoint=first, allow_interruption=True)
    first = drive.until(first, lambda item: both(item) and item.replicas.filter(epoch=1).exists())
    assert serving(first) == {(1, 2)}
    second = drive.to(second, "PENDING")
    services.pause_endpoint(actor=editor_actor, endpoint=first)
    drive.until(first, lambda item: item.reason_code == "paused")
    assert drive.to(second, "ACTIVE").ready_replicas == 1


def test_pausing_releases_everything_and_deleting_leaves_nothing(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    endpoint = active(drive, editor_actor, replicas=3)
    placed_an_hour_ago()
    services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.until(endpoint, lambda item: item.reason_code == "paused")
    assert runtime.list() == []
    assert not Replica.objects.filter(claimed=True).exists()
    services.resume_endpoint(actor=editor_actor, endpoint=endpoint)
    endpoint = drive.to(endpoint, "ACTIVE")
    placed_an_hour_ago()
    services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.gone(endpoint)
    assert runtime.list() == []
    assert runtime.networks() == []
    assert not Replica.objects.exists()
    # Nobody has counted their time before: it does not go with their rows.
    seconds = sum(ReplicaTime.objects.filter(endpoint_id=endpoint.id).values_list("seconds", flat=True))
    assert 6 * 3600 <= seconds < 6 * 3660


def placed_an_hour_ago() -> None:
    """All replicas that hold a place."""
    held = Replica.objects.filter(claimed=True, counted_until__gt=timezone.now() - timedelta(minutes=1))
    assert held.update(counted_until=timezone.now() - timedelta(hours=1)) == 3


def test_who_served_keeps_its_place_before_those_who_came_meanwhile(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    Node.objects.all().delete()
    node = Node.objects.create(name="local", region=Region.objects.get(), cpus=64, memory_bytes=2**38)
    Gpu.objects.create(uuid="GPU-1", node=node, model="rtx2080ti", vram_bytes=11 * 2**30)
    model = ready_model(editor_actor.project, framework="vllm", weights_path="/nowhere/m", entry_file="")
    size = {"instance_type": "g1-standard-4x16-1rtx2080ti"}
    serves = drive.to(new_endpoint(editor_actor, model, name="serves", **size), "ACTIVE")
    waits = drive.to(new_endpoint(editor_actor, model, name="waits", **size), "PENDING")
    drive.until(waits, lambda item: item.reason_code == "no_capacity")
    runtime.engine.exits(serves.replicas.get().name, 137)

    def nobody_jumps_in(item: Endpoint) -> bool:
        drive.step(waits)
        assert not waits.replicas.filter(claimed=True).exists()
        return item.status == "ACTIVE" and item.replicas.filter(attempt=2, state="ready").exists()

    drive.until(serves, nobody_jumps_in)
    services.pause_endpoint(actor=editor_actor, endpoint=serves)
    drive.until(serves, lambda item: item.reason_code == "paused")
    drive.to(waits, "ACTIVE")
