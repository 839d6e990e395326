"""From rows to the plain data that `fit` decides on. Reads, never writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Case, Count, Exists, F, OuterRef, Q, QuerySet, Sum, When

from endpoints.models import Gpu, InstanceType, Node, Replica, ReplicaState
from endpoints.placement.fit import GpuRoom, Need, NodeRoom, Waiting

GIB = 2**30
# A node or GPU that the runtime has left out for as long, while it named others, is away.
AWAY = timedelta(seconds=60)
# After this nobody who wants the same kind of room goes before it any more.
PATIENCE = timedelta(minutes=10)
# A pull that reported as lately as this is under way (its heart beats every 5 s): nothing to place yet.
PULLING = timedelta(seconds=15)


def need_of(size: InstanceType) -> Need:
    """What one replica of this size asks for."""
    return Need(size.vcpu, int(size.memory_gib * GIB), size.gpu, size.gpu_count)


def nodes_of(region: str) -> QuerySet[Node]:
    """The region's nodes that take replicas, in the order in which they are locked."""
    return Node.objects.filter(region=region, schedulable=True).order_by("name")


def cpus_of(node: Node) -> float:
    """What an admin says, else what was found."""
    return node.cpus_set if node.cpus_set is not None else node.cpus


def memory_of(node: Node) -> int:
    """What an admin says, else what was found, in bytes."""
    return int(node.memory_gib_set * GIB) if node.memory_gib_set is not None else node.memory_bytes


def rooms(
    nodes: Iterable[Node], *, releasing: Collection[Any] = (), endpoints: Collection[str] = ()
) -> tuple[NodeRoom, ...]:
    """What these nodes have and have promised: three queries.

    releasing   ids of replicas whose claims count as given back
    endpoints   whose replicas are counted on each node
    """
    present = _present(list(nodes))
    claims = Replica.objects.filter(node__in=present, claimed=True).exclude(pk__in=list(releasing))
    sums = {
        row["node"]: row
        for row in claims.values("node").annotate(cpus=Sum("cpus"), memory=Sum("memory_bytes")).order_by()
    }
    counts: dict[str, dict[str, int]] = defaultdict(dict)
    if endpoints:
        of_these = claims.filter(endpoint__in=list(endpoints))
        for node, endpoint, n in of_these.values_list("node", "endpoint").annotate(n=Count("pk")).order_by():
            counts[node][endpoint] = n
    gpus = _gpus(present, {str(item) for item in releasing})
    return tuple(
        NodeRoom(
            name=node.name,
            cpus=cpus_of(node),
            memory_bytes=memory_of(node),
            overcommit=node.cpu_overcommit,
            cpus_claimed=sums[node.name]["cpus"] if node.name in sums else 0,
            memory_claimed=sums[node.name]["memory"] if node.name in sums else 0,
            gpus=tuple(gpus[node.name]),
            endpoints=counts[node.name],
        )
        for node in present
    )


def _present(nodes: list[Node]) -> list[Node]:
    latest = max((node.seen_at for node in nodes if node.seen_at), default=None)
    return [node for node in nodes if not is_away(node.seen_at, latest)]


def is_away(seen_at: datetime | None, latest: datetime | None) -> bool:
    """Whether the runtime has stopped naming it while it went on naming others. What no runtime ever named (rows
    entered by hand) is there."""
    return bool(seen_at and latest and latest - seen_at > AWAY)


def is_missing(gpu: Gpu, node: Node) -> bool:
    """Whether discovery used to name this GPU and no longer does."""
    return gpu.found and is_away(gpu.seen_at, node.seen_at)


def is_foreign(use: Iterable[Mapping[str, Any]]) -> bool:
    """Whether a program from outside computes there. A foreign container that merely may use the GPU (a monitor,
    started with all of them) keeps nobody out."""
    return any(item.get("kind") == "foreign" and item.get("pid") for item in use)


def _gpus(nodes: list[Node], releasing: set[str]) -> dict[str, list[GpuRoom]]:
    by_name = {node.name: node for node in nodes}
    found: dict[str, list[GpuRoom]] = defaultdict(list)
    for gpu in Gpu.objects.filter(node__in=nodes, enabled=True):
        if is_missing(gpu, by_name[gpu.node_id]):
            continue
        holder = str(gpu.replica_id or "")
        found[gpu.node_id].append(
            GpuRoom(
                uuid=gpu.uuid,
                model=gpu.model,
                index=gpu.index,
                holder="" if holder in releasing else holder,
                foreign=is_foreign(gpu.use),
            )
        )
    return found


def waiting_in(region: str, now: datetime) -> QuerySet[Replica]:
    """The region's replicas that ask for room now, oldest first.

    Not those whose image is being fetched or that wait for something else; not those of an endpoint that is paused
    or goes; and not those that only come beside one that serves in a rollout: these hold up nobody.
    """
    serving = Replica.objects.filter(
        endpoint=OuterRef("endpoint"), slot=OuterRef("slot"), state=ReplicaState.READY
    )
    return (
        Replica.objects.filter(
            endpoint__region=region,
            endpoint__paused_at=None,
            endpoint__deleting_at=None,
            revision=F("endpoint__revision"),
            state=ReplicaState.WAITING,
            claimed=False,
            reason_code__in=("", "no_capacity"),
        )
        .exclude(pull_beat_at__gt=now - PULLING)
        .exclude(Exists(serving))
        .annotate(
            queued_at=Case(
                When(Exists(_served_before()), then=F("endpoint__created_at")), default=F("created_at")
            )
        )
        .order_by("queued_at", "id")
    )


def _served_before() -> QuerySet[Replica]:
    """Whoever served in the same place before. A replacement has its endpoint's age: one that crashes must not lose
    its place to those who came while it served."""
    return Replica.objects.filter(
        endpoint=OuterRef("endpoint"), slot=OuterRef("slot"), ready_at__isnull=False
    ).exclude(pk=OuterRef("pk"))


def _queued_at(replica: Replica) -> datetime:
    same_place = Replica.objects.filter(
        endpoint=replica.endpoint_id, slot=replica.slot, ready_at__isnull=False
    )
    served = same_place.exclude(pk=replica.pk).exists()
    return replica.endpoint.created_at if served else replica.created_at


def older_than(replica: Replica, region: str, now: datetime) -> list[Waiting]:
    """Who waits for room in the region since before this replica, oldest first."""
    mine = _queued_at(replica)
    before = Q(queued_at__lt=mine) | Q(queued_at=mine, id__lt=replica.id)
    size = "revision__instance_type__"
    rows = (
        waiting_in(region, now)
        .filter(before)
        .values_list(
            "endpoint", "created_at", f"{size}vcpu", f"{size}memory_gib", f"{size}gpu", f"{size}gpu_count"
        )
    )
    return [
        Waiting(endpoint, Need(cpus, int(memory * GIB), gpu, gpu_count), now - since > PATIENCE)
        for endpoint, since, cpus, memory, gpu, gpu_count in rows
    ]
