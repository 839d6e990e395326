"""What is said of an endpoint: its conditions, from its replicas and what was observed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from endpoints.conditions import BLOCKED, FAILED, PROGRESSING, READY, ROUTED, UPDATE_FAILED
from endpoints.reconciler.retries import failures_in_a_row, is_final, next_try
from endpoints.reconciler.rollout import attempts, is_current, is_live, is_updating
from endpoints.reconciler.state import Condition, Desired, Observed, ReplicaView

# Reasons for making no replica that go away by themselves; the others need a person.
WAITS = frozenset({"model_not_ready"})


def conditions_of(
    desired: Desired, replicas: Sequence[ReplicaView], observed: Observed
) -> tuple[Condition, ...]:
    """Ready comes first; a type occurs at most once, the worst of its kind."""
    serving = [item for item in replicas if item.state == "ready"]
    good = [item for item in serving if is_current(desired, item) and item.unhealthy_since is None]
    found = [_ready(desired, replicas, serving, good), _routed(serving, observed)]
    failed = _failed(desired, replicas)
    if failed:
        found.append(failed)
    blocked = _blocked(desired, replicas, observed)
    if blocked:
        found.append(blocked)
    step = _step(desired, replicas)
    if step:
        found.append(step)
    if desired.failed_update:
        params = {
            **desired.failed_update.get("params", {}),
            "revision": desired.failed_update.get("revision"),
        }
        found.append(Condition(UPDATE_FAILED, True, str(desired.failed_update.get("code", "")), params))
    return tuple(found)


def _ready(
    desired: Desired,
    replicas: Sequence[ReplicaView],
    serving: Sequence[ReplicaView],
    good: Sequence[ReplicaView],
) -> Condition:
    live = sum(1 for item in replicas if is_live(item))
    counts = {"ready": len(serving), "wanted": desired.wanted, "live": live}
    doubtful = [item for item in serving if item.unhealthy_since is not None]
    reason = "unresponsive" if doubtful else ""
    params = {**counts, "replica": doubtful[0].name} if doubtful else counts
    return Condition(READY, len(good) >= desired.wanted, reason, params)


def _routed(serving: Sequence[ReplicaView], observed: Observed) -> Condition:
    # A gateway that starts anew does not take back what was confirmed: its agent serves nothing before it is there.
    routed = observed.route_applied or (bool(serving) and all(item.routed_at for item in serving))
    return Condition(ROUTED, routed, "" if routed else "routing")


def _failed(desired: Desired, replicas: Sequence[ReplicaView]) -> Condition | None:
    if desired.blocked and desired.blocked not in WAITS:
        return Condition(FAILED, True, desired.blocked, desired.blocked_params)
    for slot in range(1, desired.wanted + 1):
        mine = [item for item in attempts(desired, replicas, slot) if is_current(desired, item)]
        if any(item.state == "ready" for item in mine):
            continue
        failures = failures_in_a_row(mine, desired.generation)
        if failures and _tells_of_failure(failures):
            return Condition(FAILED, True, failures[0].reason_code, _told(failures))
    return None


def _tells_of_failure(failures: Sequence[ReplicaView]) -> bool:
    """One that served and ended is being replaced; one that never got ready, or ends again and again, has failed."""
    last = failures[0]
    return (last.ready_at is None and last.reason_code != "container_gone") or len(failures) > 2


def _told(failures: Sequence[ReplicaView]) -> dict[str, Any]:
    last = failures[0]
    told: dict[str, Any] = {**last.evidence, "replica": last.name, "tries": len(failures)}
    due = None if is_final(last) else next_try(failures)
    if due is not None:
        told["next_try_at"] = due.isoformat(timespec="seconds")
    return told


def _blocked(desired: Desired, replicas: Sequence[ReplicaView], observed: Observed) -> Condition | None:
    if observed.unreachable:
        return Condition(BLOCKED, True, observed.unreachable, {"error": observed.evidence})
    if desired.blocked in WAITS:
        return Condition(BLOCKED, True, desired.blocked, desired.blocked_params)
    waiting = [item for item in replicas if item.state == "waiting" and item.reason_code]
    if waiting:
        return Condition(BLOCKED, True, waiting[0].reason_code, waiting[0].evidence)
    return None


def _step(desired: Desired, replicas: Sequence[ReplicaView]) -> Condition | None:
    """The furthest step of a replica that is on its way."""
    if is_updating(desired, replicas):
        return Condition(PROGRESSING, True, "updating")
    coming = [item for item in replicas if item.state in ("starting", "waiting")]
    if any(item.state == "starting" for item in coming):
        return _loading(next(item for item in coming if item.state == "starting"))
    waiting = next((item for item in coming if not item.reason_code), None)
    if waiting is None:
        return None if coming else _replacing(desired, replicas)
    if waiting.pull_beat_at:
        return Condition(PROGRESSING, True, "pulling_image", waiting.evidence)
    return Condition(PROGRESSING, True, "starting")


def _replacing(desired: Desired, replicas: Sequence[ReplicaView]) -> Condition | None:
    """Between the end of one that served and its successor, which may have to wait its back-off."""
    for slot in range(1, desired.wanted + 1):
        mine = [item for item in attempts(desired, replicas, slot) if is_current(desired, item)]
        failures = failures_in_a_row(mine, desired.generation)
        if failures and not _tells_of_failure(failures):
            return Condition(PROGRESSING, True, "replacing")
    return None


def _loading(starting: ReplicaView) -> Condition:
    """A replica that starts may carry a hint: what will probably be the cause if it does not get healthy."""
    if starting.reason_code:
        return Condition(PROGRESSING, True, starting.reason_code, starting.evidence)
    return Condition(PROGRESSING, True, "loading_model")
