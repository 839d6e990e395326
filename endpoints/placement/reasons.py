"""Why there is no room, as the params of "no_capacity": numbers and names, no sentences (those are in
`endpoints.shortage`)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from django.db.models import Q

from endpoints.models import Replica
from endpoints.placement.answers import NoRoom
from endpoints.placement.fit import GpuRoom, Need, NodeRoom, could_hold, has_gpus, has_machine

GIB = 2**30
NAMED = 3  # so many holders are named, the rest is a number


def no_room(need: Need, region: str, nodes: Sequence[NodeRoom], project_id: str) -> NoRoom:
    """Why no node has room. project_id: whose replicas may be named; those of others are only counted."""
    if not nodes:
        return NoRoom({"kind": "no_node", "region": region})
    able = [node for node in nodes if could_hold(need, node)]
    if not able:
        return NoRoom({"kind": "too_big", "region": region, **_too_big(need, nodes)})
    if not any(has_gpus(need, node) for node in able):
        return _gpus_taken(need, region, nodes, project_id)
    return _machine_taken(need, region, able, project_id)


def turn(region: str, before: int) -> NoRoom:
    """Others came first."""
    return NoRoom({"kind": "turn", "region": region, "before": before})


def some(need: Need, region: str, count: int, fit: int) -> NoRoom:
    """Several were asked for, and there is room for fewer."""
    return NoRoom({"kind": "some", "region": region, "count": count, "fit": fit, **_needs(need)})


def ended(region: str) -> NoRoom:
    """The replica itself is not waiting any more."""
    return NoRoom({"kind": "ended", "region": region})


def _needs(need: Need) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if need.cpus:
        found["cpus"] = need.cpus
    if need.memory_bytes:
        found["memory_gib"] = need.memory_bytes / GIB
    if need.gpu_count:
        found |= {"gpu": need.gpu, "gpus": need.gpu_count}
    return {"needs": found}


def _too_big(need: Need, nodes: Sequence[NodeRoom]) -> dict[str, Any]:
    """The first thing that no node has enough of; "all": each is somewhere, but not together."""
    gpus = max(len(node.gpus_of(need.gpu)) for node in nodes) if need.gpu_count else 0
    cpus = max(node.cpus or math.inf for node in nodes)
    memory = max(node.memory_bytes or math.inf for node in nodes)
    if gpus < need.gpu_count:
        return {**_needs(need), "what": "gpus", "most": gpus}
    if cpus < need.cpus:
        return {**_needs(need), "what": "cpus", "most": cpus}
    if memory < need.memory_bytes:
        return {**_needs(need), "what": "memory", "most": _gib(memory)}
    return {**_needs(need), "what": "all"}


def _gpus_taken(need: Need, region: str, nodes: Sequence[NodeRoom], project_id: str) -> NoRoom:
    there: list[GpuRoom] = [gpu for node in nodes for gpu in node.gpus_of(need.gpu)]
    free = sum(1 for gpu in there if gpu.free)
    holders = {gpu.holder for gpu in there if gpu.holder}
    found = {
        "free": free,
        "of": len(there),
        "scattered": free >= need.gpu_count,
        "outside": sum(1 for gpu in there if gpu.foreign and not gpu.holder),
        **_holders(Q(pk__in=holders), project_id),
    }
    return NoRoom({"kind": "gpus", "region": region, **_needs(need), **found})


def _machine_taken(need: Need, region: str, able: Sequence[NodeRoom], project_id: str) -> NoRoom:
    """Told of the node that lacks least, of those with the GPUs that it needs: what of it is too little."""
    nodes = [node for node in able if has_gpus(need, node)]
    told = min(nodes, key=lambda node: (_lack(need, node), node.name))
    assert not has_machine(need, told)
    found: dict[str, Any] = {"machines": len(nodes)}
    if need.cpus > told.cpus_free:
        found |= {"free_cpus": told.cpus_free, "of_cpus": told.cpus_promised}
    if need.memory_bytes > told.memory_free:
        found |= {"free_gib": _gib(told.memory_free), "of_gib": _gib(told.memory_bytes)}
    names = [node.name for node in nodes]
    holders = Q(node__in=names) & (Q(cpus__gt=0) | Q(memory_bytes__gt=0))
    return NoRoom(
        {"kind": "machine", "region": region, **_needs(need), **found, **_holders(holders, project_id)}
    )


def _lack(need: Need, node: NodeRoom) -> float:
    cpus = max(0.0, need.cpus - node.cpus_free) / need.cpus if need.cpus else 0.0
    memory = max(0.0, need.memory_bytes - node.memory_free) / need.memory_bytes if need.memory_bytes else 0.0
    return cpus + memory


def _gib(count: float) -> float:
    return round(count / GIB, 1) if math.isfinite(count) else math.inf


def _holders(which: Q, project_id: str) -> dict[str, Any]:
    """The reader's own replicas by short name, up to NAMED of them; everybody else as a number."""
    rows = Replica.objects.filter(which, claimed=True).values_list(
        "endpoint__project_id", "endpoint__name", "slot"
    )
    ours = sorted((name, slot) for project, name, slot in rows if project == project_id)
    labels = list(dict.fromkeys(f"{name}/r{slot}" for name, slot in ours))[:NAMED]
    return {"holders": labels, "others": len(rows) - len(labels)}
