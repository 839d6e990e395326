"""The sweep's look: it finds what needs a reconcile, and an endpoint that is as it should be costs it nothing."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from endpoints.models import Endpoint, Node, Region, Replica, ReplicaState
from endpoints.reconciler.lease import acquire
from endpoints.reconciler.run import reconcile
from endpoints.reconciler.survey import unsettled
from iam.actors import Actor
from runtimes.contract import LABEL_ENDPOINT, LABEL_REPLICA, ContainerSpec
from runtimes.fake import FakeEngine, FakeRuntime
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.redis,
    pytest.mark.usefixtures("redis_server"),
]


@pytest.fixture
def runtime() -> FakeRuntime:
    load_data()
    return FakeRuntime("ours", FakeEngine())


def serving(actor: Actor, runtime: FakeRuntime, count: int) -> list[Endpoint]:
    """Endpoints with two replicas each that serve, as the reconciler itself leaves them."""
    node, _ = Node.objects.get_or_create(
        name="wide", defaults={"region": Region.objects.get(), "cpus": 4096, "memory_bytes": 2**45}
    )
    model = ready_model(actor.project, name=f"model-{Endpoint.objects.count()}")
    made = []
    for number in range(count):
        endpoint = new_endpoint(actor, model, name=f"{model.name}-{number}", min_replicas=2, max_replicas=2)
        assert endpoint.revision is not None
        for slot in (1, 2):
            replica = Replica.objects.create(
                endpoint=endpoint,
                revision=endpoint.revision,
                slot=slot,
                generation=endpoint.generation,
                name=f"berth-{endpoint.id}-v1-r{slot}-1",
                state=ReplicaState.READY,
                node=node,
                claimed=True,
                host="127.0.0.1",
                port=9,
                ready_at=timezone.now(),
                routed_at=timezone.now(),
            )
            labels = {LABEL_ENDPOINT: endpoint.id, LABEL_REPLICA: str(replica.id)}
            runtime.start(ContainerSpec(name=replica.name, image="x", port=80, labels=labels))
        reconcile(endpoint.id, runtime)
        made.append(Endpoint.objects.get(pk=endpoint.id))
    assert {item.status for item in made} == {"ACTIVE"}
    return made


def test_what_is_as_it_should_be_needs_nothing_and_costs_no_query_of_its_own(
    editor_actor: Actor, runtime: FakeRuntime
) -> None:
    def queries(*, expected: int) -> int:
        with CaptureQueriesContext(
            connection,
        ) as captured:
            assert list(unsettled(runtime)) == []
        assert Endpoint.objects.count() == expected
        return len(captured)

    serving(editor_actor, runtime, 1)
    few = queries(expected=1)
    serving(editor_actor, runtime, 8)
    assert queries(expected=9) == few


def test_each_change_that_a_hint_may_have_been_lost_for_is_found(
    editor_actor: Actor, runtime: FakeRuntime
) -> None:
    changed, gone, frozen, stuck, fine, ended = serving(editor_actor, runtime, 6)
    Endpoint.objects.filter(pk=changed.pk).update(generation=9)
    runtime.remove(f"berth-{gone.pk}-v1-r1-1")
    runtime.engine.exits(f"berth-{ended.pk}-v1-r2-1", 137)
    Replica.objects.filter(endpoint=frozen, slot=1).update(unhealthy_since=timezone.now())
    assert acquire(stuck.pk) is not None, "its holder then dies"
    found = list(unsettled(runtime))
    assert set(found) == {changed.pk, gone.pk, frozen.pk, stuck.pk, ended.pk}
    assert fine.pk not in found


def test_a_container_that_no_row_knows_is_found(editor_actor: Actor, runtime: FakeRuntime) -> None:
    first, _second = serving(editor_actor, runtime, 2)
    runtime.start(ContainerSpec(name="extra", image="x", port=80, labels={LABEL_ENDPOINT: first.pk}))
    assert list(unsettled(runtime)) == [first.pk]


def test_an_engine_that_does_not_answer_is_a_reason_to_look_at_all(
    editor_actor: Actor, runtime: FakeRuntime
) -> None:
    made = serving(editor_actor, runtime, 2)
    runtime.engine.unreachable()
    assert set(unsettled(runtime)) == {item.pk for item in made}


def test_who_has_waited_longest_comes_first(editor_actor: Actor, runtime: FakeRuntime) -> None:
    first, second, third = serving(editor_actor, runtime, 3)
    now = timezone.now()
    for age, endpoint in ((1, first), (3, second), (2, third)):
        Endpoint.objects.filter(pk=endpoint.pk).update(
            generation=9, requested_at=now - timedelta(minutes=age)
        )
    assert list(unsettled(runtime)) == [second.pk, third.pk, first.pk]
