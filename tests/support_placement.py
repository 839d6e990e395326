"""Machines, GPUs and waiting replicas as rows."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.utils import timezone

from endpoints.models import Endpoint, Gpu, InstanceType, Node, Replica, ReplicaState
from endpoints.specs import replica_name
from iam.actors import Actor
from registry.models import Source
from tests.support_endpoints import new_endpoint, ready_model

GIB = 2**30


def node_row(name: str = "local", **fields: Any) -> Node:
    """A machine in HCM with plenty of everything."""
    defaults: dict[str, Any] = {"region_id": "HCM", "cpus": 64, "memory_bytes": 256 * GIB}
    return Node.objects.create(name=name, **{**defaults, **fields})


def gpu_rows(node: Node, count: int, model: str = "rtx2080ti", **fields: Any) -> list[Gpu]:
    """GPUs of a machine as an admin enters them: GPU-<node>-<model>-<index>."""
    return [
        Gpu.objects.create(
            uuid=f"GPU-{node.name}-{model}-{index}", node=node, index=index, model=model, **fields
        )
        for index in range(count)
    ]


def size_row(name: str, **fields: Any) -> InstanceType:
    """An instance type."""
    return InstanceType.objects.create(name=name, family="TEST", **fields)


def gpu_size(count: int, model: str = "rtx2080ti") -> InstanceType:
    """An instance type that asks for GPUs alone."""
    name = f"test-{count}{model}"
    found = InstanceType.objects.filter(name=name).first()
    return found or size_row(name, gpu=model, gpu_count=count, vram_gib_per_gpu=11)


def asks_for(actor: Actor, size: InstanceType, name: str = "embed-01", **fields: Any) -> Endpoint:
    """An endpoint of this size, as a person makes it."""
    model = actor.project.models.filter(name="anything").first() or ready_model(
        actor.project,
        name="anything",
        framework="custom",
        source=Source.IMAGE,
        source_ref={"image": "example/server:1", "port": 8080, "health_path": "/health"},
        weights_path="",
        entry_file="",
    )
    return new_endpoint(actor, model, name=name, instance_type=size.name, **fields)


def waiting(endpoint: Endpoint, slot: int = 1, *, ago_s: float = 0, **fields: Any) -> Replica:
    """A replica of it that waits for room since `ago_s` seconds."""
    assert endpoint.revision is not None
    attempt = fields.pop("attempt", 1)
    revision = fields.pop("revision", endpoint.revision)
    replica = Replica.objects.create(
        endpoint=endpoint,
        revision=revision,
        slot=slot,
        attempt=attempt,
        name=replica_name(endpoint, revision, slot, attempt),
        **{"state": ReplicaState.WAITING, **fields},
    )
    since = timezone.now() - timedelta(seconds=ago_s)
    Replica.objects.filter(pk=replica.pk).update(created_at=since)
    return Replica.objects.select_related("endpoint__region", "revision__instance_type").get(pk=replica.pk)
