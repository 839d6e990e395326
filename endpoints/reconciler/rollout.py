"""How replicas of the wanted revision take the places of older ones without a gap. Pure.

Surge 1, unavailable 0: one replica more than wanted is made; once it is ready and every gateway sends to it, an old
one is drained. Where the user allowed a short interruption it is the other way round. The terms and the arithmetic are
those of a Deployment's rolling update (kubernetes.io, "Deployments": maxSurge, maxUnavailable).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from endpoints.reconciler.retries import BACK_OFF_LIMIT, failures_in_a_row, is_final, next_try
from endpoints.reconciler.state import Create, Desired, ReplicaView, TakeBack

TRIES = 3  # failed attempts in one slot after which an update is taken back
_LIVE = frozenset({"waiting", "starting", "ready", "draining"})


def is_live(replica: ReplicaView) -> bool:
    """Whether it has, or may have, a container."""
    return replica.state in _LIVE


def is_current(desired: Desired, replica: ReplicaView) -> bool:
    """Whether it is what is wanted now: of the wanted revision, made since the last restart."""
    return replica.revision_id == desired.revision_id and replica.epoch >= desired.epoch


def is_updating(desired: Desired, replicas: Sequence[ReplicaView]) -> bool:
    """Whether older replicas still serve in places where current ones are wanted."""
    return any(
        item.state == "ready" and not is_current(desired, item) and item.slot <= desired.wanted
        for item in replicas
    )


def to_drain(desired: Desired, replicas: Sequence[ReplicaView]) -> frozenset[str]:
    """Names of the ready replicas that may go now: those above the wanted number, and as many old ones as can be
    spared."""
    serving = [item for item in replicas if item.state == "ready"]
    above = _above(desired, serving)
    below = [item for item in serving if item.slot <= desired.wanted]
    old = [item for item in below if not is_current(desired, item)]
    if not old:
        return frozenset(above)
    # One that nobody is sent to yet, or that does not answer, is no reason to let another one go.
    steady = [item for item in below if _is_steady(item)]
    doubtful = [item for item in old if item.unhealthy_since is not None]
    spare = max(0, len(steady) - desired.wanted)
    if desired.surge == 0 and not spare and _place_is_needed(desired, replicas):
        spare = 1
    taken = {item.slot for item in steady if is_current(desired, item)}
    order = sorted(
        (item for item in old if item not in doubtful), key=lambda item: (item.slot not in taken, item.slot)
    )
    if not spare and order and order[0].slot in taken and _lacks_room(replicas):
        spare = 1
    going = [*order[:spare], *(doubtful if len(steady) >= desired.wanted else ())]
    return frozenset(above | {item.name for item in going})


def _is_steady(replica: ReplicaView) -> bool:
    """Whether requests are sent to it and answered, as far as is known."""
    return replica.routed_at is not None and replica.unhealthy_since is None


def _above(desired: Desired, serving: Sequence[ReplicaView]) -> set[str]:
    """Those above the wanted number that may go: not the ones that serve in place of lower slots which don't."""
    below = [item for item in serving if item.slot <= desired.wanted]
    missing = max(0, desired.wanted - sum(map(_is_steady, below)))
    above = sorted((item for item in serving if item.slot > desired.wanted), key=lambda item: item.slot)
    needed = [item for item in above if _is_steady(item)][:missing]
    return {item.name for item in above if item not in needed}


def _lacks_room(replicas: Sequence[ReplicaView]) -> bool:
    """Whether one waits for room and nobody is on the way out. Where a slot was empty when the update began, the first
    new replica brings the number up to the wanted one without making an old one spare, and with no room for another
    the update would wait for ever. The old one in its slot goes then: as many slots are served as at the beginning."""
    waits = any(item.state == "waiting" and item.reason_code == "no_capacity" for item in replicas)
    return waits and not any(item.state == "draining" for item in replicas)


def _place_is_needed(desired: Desired, replicas: Sequence[ReplicaView]) -> bool:
    """Without surge: whether the next current replica has no place, and nobody is on the way out or in already."""
    moving = any(item.state in ("waiting", "starting", "draining") for item in replicas)
    full = sum(1 for item in replicas if is_live(item)) >= desired.wanted
    arriving = any(item.state == "ready" and item.routed_at is None for item in replicas)
    return full and not moving and not arriving


def to_create(desired: Desired, replicas: Sequence[ReplicaView], now: datetime) -> Iterator[Create]:
    """The replicas that are missing and may be made now."""
    room, updating = _allowed(desired, replicas), is_updating(desired, replicas)
    for slot in range(1, desired.wanted + 1):
        if room <= 0:
            return
        mine = attempts(desired, replicas, slot)
        if any(is_live(item) and item.state != "draining" and is_current(desired, item) for item in mine):
            continue
        failures = failures_in_a_row([item for item in mine if is_current(desired, item)], desired.generation)
        due = next_try(failures)
        # Longer than any wait: the clock was set back, and would keep it waiting for as long.
        waits = due is not None and now < due <= now + BACK_OFF_LIMIT
        if (failures and is_final(failures[0])) or waits:
            if updating:
                return  # an update that fails in one place is not tried in the others: the old ones serve there
            continue
        room -= 1
        yield Create(slot, attempt=max((item.attempt for item in mine), default=0) + 1)


def _allowed(desired: Desired, replicas: Sequence[ReplicaView]) -> int:
    """How many more replicas there may be. Without surge one that drains still needs its place."""
    counted = [
        item
        for item in replicas
        if is_live(item) and item.slot <= desired.wanted and (item.state != "draining" or desired.surge == 0)
    ]
    surge = desired.surge if is_updating(desired, replicas) else 0
    return desired.wanted + surge - len(counted)


def attempts(desired: Desired, replicas: Sequence[ReplicaView], slot: int) -> list[ReplicaView]:
    """All attempts of the wanted revision in one slot: they number the next one."""
    return [item for item in replicas if item.slot == slot and item.revision_id == desired.revision_id]


def to_take_back(desired: Desired, replicas: Sequence[ReplicaView], now: datetime) -> TakeBack | None:
    """Whether the update has failed: for good, too often, or for too long. None without a revision to go back to."""
    if desired.stable_revision_id in (None, desired.revision_id) or desired.wanted == 0:
        return None
    mine = [item for item in replicas if item.revision_id == desired.revision_id]
    for slot in range(1, desired.wanted + 1):
        failures = failures_in_a_row([item for item in mine if item.slot == slot], generation=0)
        if failures and (is_final(failures[0]) or len(failures) >= TRIES or _was_its_time(failures[0])):
            last = failures[0]
            return TakeBack(last.reason_code, {**last.evidence, "replica": last.name})
    return _overdue(desired, mine, now)


def _was_its_time(failed: ReplicaView) -> bool:
    """One that used up its whole time to get healthy has used up the revision's."""
    return failed.ready_at is None and failed.reason_code in ("health_timeout", "unhealthy_answer")


def _overdue(desired: Desired, mine: Sequence[ReplicaView], now: datetime) -> TakeBack | None:
    if desired.revised_at is None:
        return None
    progress = max([desired.revised_at, *(item.ready_at for item in mine if item.ready_at)])
    if now - progress < timedelta(seconds=desired.rollout_timeout_s):
        return None
    stuck = next((item for item in mine if item.state in ("waiting", "starting") and item.reason_code), None)
    if stuck is not None:
        return TakeBack(stuck.reason_code, {**stuck.evidence, "replica": stuck.name})
    return TakeBack("update_overdue", {"seconds": int(desired.rollout_timeout_s)})
