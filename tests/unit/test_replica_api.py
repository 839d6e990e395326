"""Replicas over the management API: where they are, how they are, what is left of their way."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from endpoints.models import Endpoint, Node, PhaseTimes, Region, Replica
from endpoints.specs import image_for
from iam.actors import Actor
from tests.conftest import seen_before
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db
URL = "/api/v1/endpoints/"


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


def replica_of(endpoint: Endpoint, slot: int = 1, **fields: Any) -> Replica:
    return endpoint.replicas.create(revision=endpoint.revision, slot=slot, name=f"r{slot}", **fields)


def rows(client: Client, endpoint: Endpoint) -> list[dict[str, Any]]:
    answer = client.get(f"{URL}{endpoint.pk}/replicas/")
    assert answer.status_code == 200
    return list(answer.json()["results"])


def test_where_a_replica_is_and_how(editor_client: Client, endpoint: Endpoint) -> None:
    now = timezone.now()
    node = Node.objects.create(name="gpu-a-01", region=Region.objects.get(code="HCM"))
    replica_of(
        endpoint,
        state="failed",
        node=node,
        gpu_ids=["GPU-1", "GPU-2"],
        healthy_since=now,
        unhealthy_since=now,
        ended_at=now + timedelta(seconds=90),
        reason_code="out_of_memory",
        evidence={"exit_code": 137, "oom_killed": True, "logs": "much\ntext", "memory": "4 GiB"},
    )
    (row,) = rows(editor_client, endpoint)
    assert (row["node"], row["gpu_ids"]) == ("gpu-a-01", ["GPU-1", "GPU-2"])
    assert row["healthy_since"]
    assert row["unhealthy_since"]
    assert row["age_s"] == pytest.approx(90, abs=1)
    assert row["evidence"] == {"exit_code": 137, "oom_killed": True, "memory": "4 GiB"}
    assert row["reason"]["code"] == "out_of_memory"
    assert (row["phases"], row["eta_s"], row["late"], row["stalled"]) == ([], None, False, None)


def test_a_replica_that_nobody_has_placed_is_nowhere(editor_client: Client, endpoint: Endpoint) -> None:
    replica_of(endpoint)
    (row,) = rows(editor_client, endpoint)
    assert (row["node"], row["gpu_ids"], row["evidence"]) == (None, [], {})
    assert editor_client.get(f"{URL}{endpoint.pk}/").json()["deployment"] is None


def test_a_deployment_under_way(editor_client: Client, endpoint: Endpoint) -> None:
    revision = endpoint.revision
    assert revision is not None
    for name, seconds in (("loading", 30.0), ("routing", 2.0)):
        PhaseTimes.objects.create(
            image=image_for(revision),
            model=revision.model,
            instance_type=revision.instance_type,
            name=name,
            seconds=[seconds],
        )
    now = timezone.now()
    replica = replica_of(endpoint, state="starting")
    replica.phases.create(name="creating", started_at=now - timedelta(seconds=12), finished_at=now)
    loading = replica.phases.create(name="loading", started_at=now - timedelta(seconds=10))
    deployment = editor_client.get(f"{URL}{endpoint.pk}/").json()["deployment"]
    assert (deployment["replica"], deployment["phase"]) == ("r1", "loading")
    assert deployment["eta_s"] == pytest.approx(22, abs=2)
    assert (deployment["late"], deployment["stalled"]) == (False, None)
    creating, present = deployment["phases"]
    assert (creating["seconds"], creating["usual_s"]) == (12, None)
    assert (present["finished_at"], present["usual_s"]) == (None, 30)
    assert present["seconds"] == pytest.approx(10, abs=2)
    loading.started_at = now - timedelta(seconds=300)
    loading.save()
    (row,) = rows(editor_client, endpoint)
    assert row["stalled"]["advice"]
    assert row["stalled"] | {"advice": "", "since": ""} == {
        "phase": "loading", "since": "", "usual_s": 30, "advice": "",
    }  # fmt: skip
    assert (row["eta_s"], row["late"]) == (2, True)


def test_many_replicas_cost_no_more_queries(editor_client: Client, endpoint: Endpoint) -> None:
    def queries(slots: range) -> int:
        for slot in slots:
            replica = replica_of(endpoint, slot, state="starting")
            replica.phases.create(name="loading", started_at=timezone.now())
        with CaptureQueriesContext(connection) as seen:
            assert len(rows(editor_client, endpoint)) == slots.stop - 1
        return len(seen)

    seen_before(editor_client)
    assert queries(range(1, 3)) == queries(range(3, 10))
