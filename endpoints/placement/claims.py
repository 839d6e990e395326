"""Claiming and giving back room: the only writer of `Gpu.replica` and of a replica's claim.

A claim is made in one transaction that first locks the region's nodes in the order of their names (SQLite: the
transaction itself is exclusive), so that claims in one region are made one after the other. The GPUs are taken by one
conditional UPDATE whose row count must be the number asked for: whatever else got hold of one of them, the
transaction ends with nothing claimed.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from endpoints.models import Gpu, InstanceType, Replica
from endpoints.models.replica import LIVE_STATES
from endpoints.placement import reading, reasons
from endpoints.placement.answers import NoRoom, Placed
from endpoints.placement.fit import Choice, Turn, choose, choose_in_turn, take
from endpoints.queue import reconcile_in

ENDING = timedelta(seconds=15)  # that long the worker that ends a replica may still be removing its container
WOKEN = 20  # endpoints that are looked at at once when room appears; the sweep comes to the others


class _Taken(Exception):
    """A GPU that was free when we looked is not ours to take."""


def place(replica: Replica, *, now: datetime, heir: bool = False) -> Placed | NoRoom:
    """Claim CPUs, memory and exact GPUs for this replica, or say why not. Asking again gives the same claim.

    heir: in the transaction that has just released what its predecessor held for it; nobody comes first then.

    The row and `replica` itself then carry `node`, `claimed`, `cpus`, `memory_bytes` and `gpu_ids`. Whose turn it
    is: `fit.choose_in_turn`, among `reading.waiting_in`.
    """
    # Most that wait go on waiting: their looks must not take the write lock every few seconds.
    answer = _look(replica, now, heir)
    if not isinstance(answer, Choice):
        return answer
    try:
        with transaction.atomic():
            list(reading.nodes_of(replica.endpoint.region_id).select_for_update(no_key=True))
            answer = _look(replica, now, heir)
            return _claim(replica, answer, now) if isinstance(answer, Choice) else answer
    except _Taken:
        return reasons.turn(replica.endpoint.region_id, 1)


def _look(replica: Replica, now: datetime, heir: bool) -> Placed | NoRoom | Choice:
    """What it holds already, else where it would go, else why nowhere."""
    held = _held(replica)
    if held is not None:
        return held
    endpoint, region = replica.endpoint_id, replica.endpoint.region_id
    need = reading.need_of(replica.revision.instance_type)
    nodes = reading.rooms(reading.nodes_of(region), endpoints={endpoint})
    if choose(need, endpoint, nodes) is None:
        return reasons.no_room(need, region, nodes, replica.endpoint.project_id)
    older = [] if heir else reading.older_than(replica, region, now)
    if older:
        nodes = reading.rooms(
            reading.nodes_of(region), endpoints={endpoint, *(item.endpoint for item in older)}
        )
    found = choose_in_turn(need, endpoint, nodes, older)
    if found is None:
        return reasons.no_room(need, region, nodes, replica.endpoint.project_id)
    return reasons.turn(region, found.before) if isinstance(found, Turn) else found


def _held(replica: Replica) -> Placed | NoRoom | None:
    row = Replica.objects.filter(pk=replica.pk).values("state", "claimed", "node_id", "gpu_ids").first()
    if row is None or row["state"] not in LIVE_STATES:
        return reasons.ended(replica.endpoint.region_id)
    if not row["claimed"]:
        return None
    replica.claimed, replica.node_id, replica.gpu_ids = True, row["node_id"], row["gpu_ids"]
    return Placed(row["node_id"] or "", tuple(row["gpu_ids"]))


def _claim(replica: Replica, choice: Choice, now: datetime) -> Placed:
    """Write it: first the replica, as `release` does, so that the two never wait for each other."""
    need = reading.need_of(replica.revision.instance_type)
    columns: dict[str, Any] = {
        "claimed": True,
        "node_id": choice.node,
        "cpus": need.cpus,
        "memory_bytes": need.memory_bytes,
        "gpu_ids": list(choice.gpu_ids),
        "counted_until": now,
    }
    waits = Replica.objects.filter(pk=replica.pk, claimed=False, state__in=LIVE_STATES)
    if not waits.update(**columns):
        raise _Taken
    free = Gpu.objects.filter(uuid__in=choice.gpu_ids, node=choice.node, replica=None, enabled=True)
    if free.update(replica=replica.pk) != len(choice.gpu_ids):
        raise _Taken
    for name, value in columns.items():
        setattr(replica, name, value)
    return Placed(choice.node, choice.gpu_ids)


def release(replica_id: str | UUID) -> bool:
    """Give back what the replica holds, inside the transaction that ends it; after its commit whoever waits for room
    in the region is looked at, oldest first. Nothing held is fine. Answers whether something was."""
    key = UUID(str(replica_id))
    held = bool(Replica.objects.filter(pk=key, claimed=True).update(claimed=False))
    held |= bool(Gpu.objects.filter(replica=key).update(replica=None))
    if held:
        region = Replica.objects.values_list("endpoint__region", flat=True).get(pk=key)
        transaction.on_commit(lambda: wake(region))
    return held


def release_dead() -> list[str]:
    """Give back what replicas hold that have ended: whoever ends one calls `release` once its container is gone, but
    may die in between, and a claim held by the dead would be lost for good. Answers their names."""
    left = Q(ended_at=None) | Q(ended_at__lt=timezone.now() - ENDING)
    gone = Replica.objects.exclude(state__in=LIVE_STATES).filter(left)
    names = []
    for replica_id, name in {
        *gone.filter(claimed=True).values_list("pk", "name"),
        *gone.filter(gpus__isnull=False).values_list("pk", "name"),
    }:
        with transaction.atomic():
            # Ended replicas stay ended: nothing can claim for one between the two statements.
            if release(replica_id):
                names.append(name)
    return sorted(names)


def wake(region: str) -> None:
    """There may be room in the region: look at the endpoints that wait for some, oldest first."""
    waiting = reading.waiting_in(region, timezone.now()).values_list("endpoint", flat=True)
    for endpoint_id in list(dict.fromkeys(waiting[: 10 * WOKEN]))[:WOKEN]:
        reconcile_in(endpoint_id, 0)


def room_for(
    size: InstanceType,
    region: str,
    *,
    count: int = 1,
    releasing: Collection[Any] = (),
    project_id: str = "",
) -> NoRoom | None:
    """Why `count` replicas of this size could not be placed in the region now; None if they could. Claims nothing.

    releasing    ids of replicas that would go first
    project_id   the reader's, whose replicas are named among those that hold the room
    """
    return Rooms(region, releasing=releasing, project_id=project_id).room_for(size, count=count)


class Rooms:
    """`room_for` of many sizes: the region is read once."""

    def __init__(self, region: str, *, releasing: Collection[Any] = (), project_id: str = "") -> None:
        self._region, self._project = region, project_id
        self._nodes = reading.rooms(reading.nodes_of(region), releasing=releasing)

    def room_for(self, size: InstanceType, *, count: int = 1) -> NoRoom | None:
        """See the function of that name."""
        need, nodes = reading.need_of(size), self._nodes
        for fit in range(count):
            choice = choose(need, "", nodes)
            if choice is None and fit:
                return reasons.some(need, self._region, count, fit)
            if choice is None:
                return reasons.no_room(need, self._region, nodes, self._project)
            nodes = take(nodes, choice, need, "")
        return None
