"""The GPU ledger: what is promised beside what is there. Reads, never writes.

claimed   a replica's: the row says so
used      a replica of ours is on it
foreign   somebody else's container or program is on it
leaked    a container of ours is on it without a claim that lives, or a claim is held by a replica that does not
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.db.models import Count, Max, QuerySet, Sum
from django.utils import timezone

from endpoints.models import Gpu, Node, Replica
from endpoints.models.replica import LIVE_STATES
from endpoints.placement import reading

# A container outlives its replica's end by as long as its removal takes, and until the next look.
REMOVAL = timedelta(seconds=30)


@dataclass(frozen=True, slots=True)
class GpuEntry:
    """One GPU and what is known of it.

    state    the one word for it: leaked, foreign, used, claimed, missing, disabled or free, the first that is true
    claimed, used, foreign   each by itself
    leaks    names of what holds it without a right to
    """

    gpu: Gpu
    claimed: bool = False
    used: bool = False
    foreign: bool = False
    missing: bool = False
    leaks: tuple[str, ...] = ()

    @property
    def state(self) -> str:
        """The word for a list."""
        words = (
            ("leaked", bool(self.leaks)),
            ("foreign", self.foreign),
            ("used", self.used),
            ("claimed", self.claimed),
            ("missing", self.missing),
            ("disabled", not self.gpu.enabled),
        )
        return next((word for word, holds in words if holds), "free")


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One machine: what it has, what it has promised, and its GPUs.

    cpus, memory_bytes   as they count: an admin's figures where there are some
    cpus_promised        how many CPUs may be promised
    away                 the runtime no longer names it
    """

    node: Node
    cpus: float
    memory_bytes: int
    cpus_promised: float
    cpus_claimed: float = 0
    memory_claimed: int = 0
    replicas: int = 0
    away: bool = False
    gpus: tuple[GpuEntry, ...] = field(default=())

    @property
    def state(self) -> str:
        """ready, cordoned or away."""
        return "away" if self.away else "ready" if self.node.schedulable else "cordoned"


def nodes(only: Sequence[Node] | None = None) -> list[NodeEntry]:
    """These machines, or all by region and name, with their GPUs: five queries at any size."""
    rows = list(Node.objects.select_related("region").order_by("region", "name")) if only is None else only
    latest = {
        row["region"]: row["seen"]
        for row in Node.objects.values("region").annotate(seen=Max("seen_at")).order_by()
    }
    claims = {
        row["node"]: row
        for row in Replica.objects.filter(claimed=True)
        .values("node")
        .annotate(cpus=Sum("cpus"), memory=Sum("memory_bytes"), n=Count("pk"))
        .order_by()
    }
    by_node: dict[str, list[GpuEntry]] = {row.name: [] for row in rows}
    for entry in gpus(_rows().filter(node__in=list(by_node))):
        by_node[entry.gpu.node_id].append(entry)
    return [
        NodeEntry(
            node=row,
            cpus=reading.cpus_of(row),
            memory_bytes=reading.memory_of(row),
            cpus_promised=reading.cpus_of(row) * row.cpu_overcommit,
            cpus_claimed=claims[row.name]["cpus"] if row.name in claims else 0,
            memory_claimed=claims[row.name]["memory"] if row.name in claims else 0,
            replicas=claims[row.name]["n"] if row.name in claims else 0,
            away=reading.is_away(row.seen_at, latest.get(row.region_id)),
            gpus=tuple(by_node[row.name]),
        )
        for row in rows
    ]


def gpus(only: Iterable[Gpu] | None = None) -> list[GpuEntry]:
    """These GPUs, or all by machine and index: two queries."""
    rows = list(_rows() if only is None else only)
    names = {str(item.get("name")) for row in rows for item in row.use if item.get("kind") == "ours"}
    on_them = {replica.name: replica for replica in Replica.objects.filter(name__in=names)} if names else {}
    now = timezone.now()
    return [entry(row, on_them, now) for row in rows]


def _rows() -> QuerySet[Gpu]:
    return Gpu.objects.select_related("node", "replica__endpoint__project").order_by("node", "index", "uuid")


def entry(gpu: Gpu, replicas: Mapping[str, Replica], now: datetime) -> GpuEntry:
    """What is known of one GPU. replicas: by name, those that are on one."""
    ours = {str(item.get("name")) for item in gpu.use if item.get("kind") == "ours"}
    return GpuEntry(
        gpu=gpu,
        claimed=gpu.replica_id is not None,
        used=bool(ours),
        foreign=any(item.get("kind") == "foreign" for item in gpu.use),
        missing=reading.is_missing(gpu, gpu.node),
        leaks=tuple(sorted(_leaks(gpu, ours, replicas, now))),
    )


def _leaks(gpu: Gpu, ours: Iterable[str], replicas: Mapping[str, Replica], now: datetime) -> set[str]:
    holder = gpu.replica
    found = {name for name in ours if _leaks_it(name, gpu, replicas.get(name), now)}
    if holder is not None and (holder.state not in LIVE_STATES or not holder.claimed):
        found.add(holder.name)
    return found


def _leaks_it(name: str, gpu: Gpu, replica: Replica | None, now: datetime) -> bool:
    if replica is None:
        return True
    if gpu.replica_id == replica.pk:
        return False
    return replica.ended_at is None or now - replica.ended_at > REMOVAL
