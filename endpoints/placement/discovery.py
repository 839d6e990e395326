"""What the runtime says of its nodes and GPUs, kept as rows: what an admin has set there is never overwritten."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone

from endpoints.models import Gpu, Node, Region
from endpoints.placement import claims, reading
from runtimes.contract import ALL_GPUS, GpuFacts, GpuUse, NodeFacts, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
SEEN_EVERY = timedelta(seconds=20)  # how old `seen_at` may get while nothing else has changed
FORGOTTEN = timedelta(days=1)  # a GPU that nobody claims is forgotten when it has been away for as long
_MIB = 2**20


def refresh(runtime: Runtime) -> None:
    """Write down what is there now and who is on the GPUs. Safe at any time and from several places at once.

    Raises RuntimeFailure when the runtime does not answer: then nothing has changed.
    """
    found = runtime.nodes()
    region = Region.objects.filter(enabled=True).order_by("code").first()
    if region is None:
        return  # nowhere to put them yet
    now = timezone.now()
    for facts in found:
        _node(facts, region, now)
        _gpus(facts, now)
    _forget(now)
    if Gpu.objects.exists():
        _use(runtime)


def first_look(runtime: Runtime) -> bool:
    """`refresh` where no node is known at all, as before the first sweep; whether one is known now."""
    if Node.objects.exists():
        return False
    try:
        refresh(runtime)
    except RuntimeFailure as failure:
        log.warning("the nodes are not known: %s (%s)", failure.code, failure.evidence)
    return Node.objects.exists()


def _node(facts: NodeFacts, region: Region, now: datetime) -> None:
    columns: dict[str, Any] = {"cpus": facts.cpus, "memory_bytes": facts.memory_bytes}
    node, created = Node.objects.get_or_create(
        name=facts.name, defaults={"region": region, "seen_at": now, **columns}
    )
    if not created:
        _write(node, columns, now)


def _gpus(facts: NodeFacts, now: datetime) -> None:
    """None: the driver fails. What was there is taken for there, and nothing is taken for away."""
    if facts.gpus is None:
        for gpu in Gpu.objects.filter(node=facts.name, found=True):
            _write(gpu, {}, now)
        return
    for item in facts.gpus:
        _gpu(facts.name, item, now)


def _gpu(node: str, facts: GpuFacts, now: datetime) -> None:
    columns: dict[str, Any] = {
        "index": facts.index,
        "name": facts.name,
        "vram_bytes": facts.vram_bytes,
        "found": True,
    }
    gpu, created = Gpu.objects.get_or_create(
        uuid=facts.uuid, defaults={"node_id": node, "model": facts.model, "seen_at": now, **columns}
    )
    if created:
        return
    if gpu.replica_id is None:  # moved to another machine; a claim belongs to where it was made
        columns["node_id"] = node
    _write(gpu, columns, now)


def _write(row: Node | Gpu, columns: Mapping[str, Any], now: datetime) -> None:
    """Only these columns, and only if one of them changed: an admin may be saving the others just now."""
    changed = {name: value for name, value in columns.items() if getattr(row, name) != value}
    if changed or row.seen_at is None or now - row.seen_at > SEEN_EVERY:
        type(row)._default_manager.filter(pk=row.pk).update(seen_at=now, **changed)


def _forget(now: datetime) -> None:
    """Found once and long gone, and nobody's: forgotten. A claimed one stays until its claim is given back."""
    old = Gpu.objects.filter(found=True, replica=None, seen_at__lt=now - FORGOTTEN).select_related("node")
    # Counted from when its node was last seen: a platform that was switched off for a week has lost nothing.
    gone = [
        gpu.uuid
        for gpu in old
        if gpu.seen_at and gpu.node.seen_at and gpu.node.seen_at - gpu.seen_at > FORGOTTEN
    ]
    if gone:
        Gpu.objects.filter(uuid__in=gone, replica=None).delete()


# -- who is on them -----------------------------------------------------------------------------------------------


def _use(runtime: Runtime) -> None:
    uses = runtime.gpu_use()
    rows = list(Gpu.objects.all())
    fresh = by_gpu(rows, uses)
    freed = set()
    for gpu in rows:
        use = fresh[gpu.uuid]
        if use == gpu.use:
            continue
        Gpu.objects.filter(pk=gpu.pk).update(use=use)
        if reading.is_foreign(gpu.use) and not reading.is_foreign(use):
            freed.add(gpu.node_id)
    if freed:
        _wake(freed)


def _wake(nodes: Iterable[str]) -> None:
    regions = Node.objects.filter(name__in=list(nodes)).order_by().values_list("region", flat=True)
    for region in regions.distinct():
        claims.wake(region)


def by_gpu(gpus: Iterable[Gpu], uses: Iterable[GpuUse]) -> dict[str, list[dict[str, Any]]]:
    """Each GPU's UUID → who is on it, as `Gpu.use` keeps it. An index means the node's GPU of that index."""
    rows = list(gpus)
    found: dict[str, dict[tuple[str, str, int], dict[str, Any]]] = defaultdict(dict)
    for use in uses:
        for gpu in rows:
            if gpu.node_id != use.node or use.gpu not in (gpu.uuid, str(gpu.index), ALL_GPUS):
                continue
            kind = "ours" if use.ours else "foreign"
            # Rounded: a figure that wobbles with every request is not worth a write.
            memory = round(use.memory_bytes / (64 * _MIB)) * 64 * _MIB
            row = {"kind": kind, "name": use.name, "pid": use.pid, "memory_bytes": memory}
            found[gpu.uuid][kind, use.name, use.pid] = row
    return {gpu.uuid: _told(found[gpu.uuid]) for gpu in rows}


def _told(found: Mapping[tuple[str, str, int], dict[str, Any]]) -> list[dict[str, Any]]:
    """In order; a container whose processes are known is told by these alone."""
    computing = {(kind, name) for kind, name, pid in found if pid}
    return [found[key] for key in sorted(found) if key[2] or key[:2] not in computing]
