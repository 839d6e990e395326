"""What people ask for on an endpoint's page, carried through by the real reconciler on the fake engine: the containers
that run afterwards, and what is left."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from config.errors import Conflict
from endpoints import gateway_feed, history, replica_logs, services
from endpoints.models import (
    DeployPhase,
    Endpoint,
    Event,
    Gpu,
    HeldAddress,
    Node,
    Region,
    Replica,
    ReplicaState,
    Revision,
)
from endpoints.reconciler import probe, retries
from gateway.snapshot import build
from iam.actors import Actor
from runtimes.fake import FakeEngine, FakeRuntime
from tests import support_deploy
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
GPU_TYPE = "g1-standard-4x16-1rtx2080ti"


@pytest.fixture
def sick(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Parts of the names of containers that never give a healthy answer."""
    parts: set[str] = set()

    def healthy(urls: dict[str, str]) -> frozenset[str]:
        return frozenset(name for name in urls if not any(part in name for part in parts))

    monkeypatch.setattr(probe, "healthy", healthy)
    monkeypatch.setattr(retries, "BACK_OFF", retries.BACK_OFF / 1000)
    return parts


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(engine=FakeEngine())


@pytest.fixture
def drive(
    runtime: FakeRuntime, redis_server: redis.Redis, sick: set[str], monkeypatch: pytest.MonkeyPatch
) -> Driver:
    load_data()
    node = Node.objects.create(name="local", region=Region.objects.get(), cpus=256, memory_bytes=2**42)
    for index in range(2):
        Gpu.objects.create(uuid=f"GPU-{index}", node=node, index=index, model="rtx2080ti")
    monkeypatch.setattr(
        support_deploy, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _seconds: None)
    )
    return Driver(runtime)


def change(actor: Actor, endpoint: Endpoint, allow: bool = False, **changes: Any) -> None:
    services.update_endpoint(actor=actor, endpoint=endpoint, changes=changes, allow_interruption=allow)


def settled(endpoint: Endpoint) -> bool:
    """Everything that runs is what is wanted."""
    others = endpoint.replicas.exclude(state__in=("ready", "stopped", "failed")).exists()
    return endpoint.status == "ACTIVE" and endpoint.revision_id == endpoint.stable_revision_id and not others


def running(runtime: FakeRuntime) -> list[dict[str, str]]:
    """The variables of each container that is there, in their order."""
    containers = runtime.engine.containers
    return [dict(containers[name].spec.env) for name in sorted(containers)]


def states(endpoint: Endpoint) -> dict[int, str]:
    present = Endpoint.objects.get(pk=endpoint.pk)
    found = history.entries(present, list(history.rows_of(present)))
    return {entry.revision.number: str(entry.state) for entry in found}


def test_a_rollback_brings_back_the_containers_of_that_revision(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    made = new_endpoint(editor_actor, min_replicas=2, max_replicas=2, environment={"COLOUR": "blue"})
    endpoint = drive.until(made, settled)
    change(editor_actor, endpoint, environment={"COLOUR": "green"}, instance_type="a1-standard-2x8")
    seen: set[str] = set()

    def under_way(item: Endpoint) -> bool:
        seen.add(states(item)[1])
        return settled(item)

    endpoint = drive.until(endpoint, under_way)
    assert seen == {"serving", "previous"}
    assert [env["COLOUR"] for env in running(runtime)] == ["green", "green"]
    services.rollback_endpoint(actor=editor_actor, endpoint=endpoint, number=1)

    def never_short(item: Endpoint) -> bool:
        assert item.replicas.filter(state=ReplicaState.READY).count() >= 2
        return settled(item)

    endpoint = drive.until(endpoint, never_short)
    assert [env["COLOUR"] for env in running(runtime)] == ["blue", "blue"]
    assert states(endpoint) == {1: "previous", 2: "previous", 3: "current"}


def fail_next(drive: Driver, runtime: FakeRuntime, sick: set[str], actor: Actor) -> Endpoint:
    """An endpoint whose second revision crashed and was taken back."""
    endpoint = drive.until(new_endpoint(actor, environment={"COLOUR": "blue"}), settled)
    sick.add("-v2-")
    change(actor, endpoint, environment={"COLOUR": "red"})

    def crash(item: Endpoint) -> bool:
        assert item.replicas.filter(state=ReplicaState.READY, revision__number=1).exists()
        for replica in item.replicas.filter(state="starting", revision__number=2):
            runtime.engine.exits(replica.name, 3)
        return item.status == "DEGRADED" and bool(item.failed_update)

    return drive.until(endpoint, crash)


def test_an_update_that_was_taken_back_can_be_left_at_that(
    drive: Driver, runtime: FakeRuntime, sick: set[str], editor_actor: Actor
) -> None:
    endpoint = fail_next(drive, runtime, sick, editor_actor)
    told = history.taken_back(endpoint)
    assert told is not None
    assert (told.number, told.serving, told.told) == (2, 1, True)
    assert told.replica is not None
    assert told.replica.revision.number == 2
    assert states(endpoint) == {1: "current", 2: "failed"}
    services.keep_revision(actor=editor_actor, endpoint=endpoint)
    endpoint = drive.until(endpoint, settled)
    assert [env["COLOUR"] for env in running(runtime)] == ["blue"]
    assert endpoint.replicas.filter(revision__number=1).count() == 1, "what served was left alone"


def test_an_update_that_was_taken_back_can_be_tried_again(
    drive: Driver, runtime: FakeRuntime, sick: set[str], editor_actor: Actor
) -> None:
    endpoint = fail_next(drive, runtime, sick, editor_actor)
    sick.clear()
    services.rollback_endpoint(actor=editor_actor, endpoint=endpoint, number=2)
    endpoint = drive.until(endpoint, settled)
    assert endpoint.failed_update == {}
    assert [env["COLOUR"] for env in running(runtime)] == ["red"]
    assert states(endpoint) == {1: "previous", 2: "failed", 3: "current"}


def on_gpus(actor: Actor, name: str, count: int = 1) -> Endpoint:
    model = ready_model(actor.project, f"m-{name}", framework="vllm", entry_file="")
    return new_endpoint(
        actor, model, name=name, instance_type=GPU_TYPE, min_replicas=count, max_replicas=count
    )


def test_a_restart_without_room_beside_asks_and_then_goes_one_by_one(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    endpoint = drive.until(on_gpus(editor_actor, "both", count=2), settled)
    before = set(endpoint.replicas.values_list("pk", flat=True))
    with pytest.raises(Conflict, match="needs 1 GPU more"):
        services.restart_endpoint(actor=editor_actor, endpoint=endpoint)
    services.restart_endpoint(actor=editor_actor, endpoint=endpoint, allow_interruption=True)

    def one_missing_at_most(item: Endpoint) -> bool:
        assert len(runtime.list()) <= 2
        assert item.replicas.filter(state=ReplicaState.READY).count() >= 1
        ready = set(item.replicas.filter(state=ReplicaState.READY).values_list("pk", flat=True))
        return settled(item) and len(ready) == 2 and not ready & before

    drive.until(endpoint, one_missing_at_most)
    holders = set(Gpu.objects.values_list("replica", flat=True))
    assert len(holders) == 2
    assert not holders & before


def test_a_smaller_one_makes_room_for_a_restart_without_a_question(
    drive: Driver, editor_actor: Actor, runtime: FakeRuntime
) -> None:
    endpoint = drive.until(on_gpus(editor_actor, "both", count=2), settled)
    change(editor_actor, endpoint, min_replicas=1)
    # The second one is still there: that it goes is certain.
    services.restart_endpoint(actor=editor_actor, endpoint=endpoint)
    endpoint = drive.until(endpoint, settled)
    assert len(runtime.list()) == 1
    assert endpoint.revision is not None
    assert endpoint.revision.allow_interruption is False


def test_deleting_in_the_middle_of_an_update_leaves_nothing(
    drive: Driver, runtime: FakeRuntime, sick: set[str], editor_actor: Actor
) -> None:
    endpoint = fail_next(drive, runtime, sick, editor_actor)
    runtime.engine.containers[endpoint.replicas.get(state="ready").name].lines.append("a line to keep")
    change(editor_actor, endpoint, environment={"COLOUR": "green"}, min_replicas=2, max_replicas=2)
    drive.until(endpoint, lambda item: item.replicas.filter(state="ready").count() == 3)
    names = list(endpoint.replicas.values_list("name", flat=True))
    assert len(runtime.list()) == 3
    assert endpoint.id in json.dumps(build(gateway_feed.targets()).resources, default=str)
    services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.gone(endpoint)
    assert runtime.list() == []
    assert runtime.networks() == []
    assert endpoint.id not in json.dumps(build(gateway_feed.targets()).resources, default=str)
    assert [name for name in names if replica_logs.path_of(name).exists()] == []
    for rows in (Replica, Revision, DeployPhase, HeldAddress):
        assert not rows.objects.exists(), rows
    assert not Gpu.objects.exclude(replica=None).exists()
    assert Event.objects.filter(target=endpoint.id, kind="endpoint.deleted").count() == 1
