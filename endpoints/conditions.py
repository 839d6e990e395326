"""From conditions to the one status word (contract §5). Nothing else ever sets a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from endpoints.reconciler.state import Condition, Desired

READY = "Ready"  # as many replicas serve as are wanted; params: ready, wanted, live
ROUTED = "Routed"  # every live gateway has applied the routes to all ready replicas
PROGRESSING = "Progressing"  # something is on its way; reason: the step
FAILED = "Failed"  # something ended and stays ended until someone acts; reason: why
BLOCKED = "Blocked"  # nothing can be done until something outside changes; reason: why
UPDATE_FAILED = "UpdateFailed"  # the last update was taken back; reason: why


@dataclass(frozen=True, slots=True)
class Verdict:
    """A status word and its reason. reason "" only with ACTIVE."""

    status: str
    reason: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)


def derive(desired: Desired, conditions: Sequence[Condition]) -> Verdict:
    """The status that these conditions amount to."""
    by_type = {condition.type: condition for condition in conditions}
    ready, routed = by_type[READY], by_type[ROUTED]
    progress, failed, blocked = by_type.get(PROGRESSING), by_type.get(FAILED), by_type.get(BLOCKED)
    serving = int(ready.params.get("ready", 0)) > 0
    if desired.deleting:
        return (
            Verdict("DELETING", blocked.reason, blocked.params)
            if blocked
            else Verdict("DELETING", "deleting")
        )
    if desired.paused:
        return Verdict("INACTIVE", "pausing" if ready.params.get("live") else "paused")
    if desired.asleep and not serving:
        return Verdict("ASLEEP", "asleep")
    if not serving:
        return _not_serving(failed, blocked, progress)
    if failed:
        return Verdict("DEGRADED", failed.reason, failed.params)
    if progress and progress.reason == "updating":
        held_up = blocked or progress
        return Verdict("UPDATING", held_up.reason, held_up.params)
    if ready.reason:
        return Verdict("DEGRADED", ready.reason, ready.params)
    return _serving(desired, by_type, serving_well=ready.status and routed.status)


def _serving(desired: Desired, by_type: Mapping[str, Condition], *, serving_well: bool) -> Verdict:
    ready = by_type[READY]
    update_failed, blocked = by_type.get(UPDATE_FAILED), by_type.get(BLOCKED)
    if update_failed:
        return Verdict("DEGRADED", update_failed.reason, update_failed.params)
    way_up = "UPDATING" if desired.was_serving else "DEPLOYING"
    if not ready.status:
        # Below the wanted number on the way up is progress; after that, or when nothing moves, it is a loss.
        if blocked:
            return Verdict("DEGRADED", blocked.reason, {**ready.params, **blocked.params})
        # More were asked for, and none of those that served is missing: growth.
        if desired.was_serving and int(ready.params.get("ready", 0)) >= desired.settled_replicas > 0:
            return Verdict("UPDATING", "scaling_up", ready.params)
        return Verdict("DEGRADED" if desired.was_settled else way_up, "fewer_replicas", ready.params)
    return Verdict("ACTIVE") if serving_well else Verdict(way_up, "routing")


def _not_serving(failed: Condition | None, blocked: Condition | None, progress: Condition | None) -> Verdict:
    if failed:
        return Verdict("FAILED", failed.reason, failed.params)
    if blocked:
        return Verdict("PENDING", blocked.reason, blocked.params)
    if progress and progress.reason != "queued":
        return Verdict("DEPLOYING", progress.reason, progress.params)
    return Verdict("PENDING", "queued")


def as_json(
    conditions: Sequence[Condition], generation: int, before: list[Any], now: str
) -> list[dict[str, Any]]:
    """The conditions for the database and the API. `since` stays while status and reason stay."""
    old = {item["type"]: item for item in before}
    rows = []
    for condition in conditions:
        previous = old.get(condition.type, {})
        same = previous.get("status") == condition.status and previous.get("reason") == condition.reason
        rows.append(
            {
                "type": condition.type,
                "status": condition.status,
                "reason": condition.reason,
                # A dead replica's log stays with the replica: every answer of the API would carry it otherwise.
                "params": {name: value for name, value in condition.params.items() if name != "logs"},
                "generation": generation,
                "since": previous["since"] if same else now,
            }
        )
    return rows
