"""From what is wanted and what is there to what to do next. Pure: data in, data out, `now` given.

One slot holds at most one live replica of the wanted revision and epoch. How those of older ones make room is
rollout.py's business, when a failed one is tried again retries.py's, what is said of it all findings.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from endpoints.reconciler.findings import conditions_of
from endpoints.reconciler.retries import failures_in_a_row, next_try
from endpoints.reconciler.rollout import (
    attempts,
    is_current,
    is_live,
    is_updating,
    to_create,
    to_drain,
    to_take_back,
)
from endpoints.reconciler.state import (
    Action,
    Create,
    Desired,
    Drain,
    Fail,
    Finish,
    Healthy,
    Hint,
    Observed,
    Place,
    Plan,
    Pull,
    Ready,
    Recovered,
    RemoveOrphan,
    ReplicaView,
    Routed,
    Start,
    Stop,
)
from runtimes.contract import ContainerState, Observation

# A pull task reports at least every second; an older beat means that its worker is gone.
PULL_BEAT_LIMIT = timedelta(seconds=15)
# How long a replica that had been ready may give no healthy answer before it is replaced.
UNRESPONSIVE_LIMIT = timedelta(seconds=30)
# A person who pauses or deletes wants it gone: requests get this long to end, not the whole drain time-out.
LEAVE_LIMIT_S = 30.0


def plan(desired: Desired, replicas: Sequence[ReplicaView], observed: Observed, now: datetime) -> Plan:
    """What to do now for one endpoint."""
    conditions = conditions_of(desired, replicas, observed)
    if observed.unreachable:
        # Nothing is known, so nothing is done and nothing is taken for gone.
        return Plan((), conditions, look_again_s=2)
    back = to_take_back(desired, replicas, now)
    if back is not None:
        return Plan((back,), conditions)
    actions: list[Action] = []
    leaving = to_drain(desired, replicas)
    for replica in replicas:
        actions += _replica(desired, replica, replicas, leaving, observed, now)
    if desired.revision_id is not None and not desired.blocked:
        actions += to_create(desired, replicas, now)
    actions += _orphans(replicas, observed)
    if desired.deleting and not actions and not observed.containers and not any(map(is_live, replicas)):
        actions.append(Finish())
    return Plan(
        tuple(actions),
        conditions,
        look_again_s=_look_again(desired, replicas, now),
        settled=_settled(desired, replicas),
    )


def _settled(desired: Desired, replicas: Sequence[ReplicaView]) -> bool:
    serving = {
        item.slot
        for item in replicas
        if item.state == "ready" and is_current(desired, item) and item.routed_at and not item.unhealthy_since
    }
    return desired.wanted > 0 and serving >= set(range(1, desired.wanted + 1))


# -- one replica ------------------------------------------------------------------------------------------------


def _replica(
    desired: Desired,
    replica: ReplicaView,
    replicas: Sequence[ReplicaView],
    leaving: frozenset[str],
    observed: Observed,
    now: datetime,
) -> Iterator[Action]:
    container = observed.containers.get(replica.name)
    if not is_live(replica):
        return
    if replica.state == "draining":
        if _has_left(desired, replica, container, observed, now):
            yield Stop(replica, _heir(desired, replica, replicas, now))
    elif replica.name in leaving:
        yield Drain(replica)
    elif replica.state != "ready" and _superseded(desired, replica):
        yield Stop(replica)
    elif replica.state == "waiting":
        yield from _waiting(replica, observed, now)
    elif container is None:
        yield Fail(replica, "container_gone")
    elif container.state == ContainerState.EXITED:
        yield _ended(replica, container)
    elif replica.state == "starting":
        yield from _starting(desired, replica, container, observed, now)
    else:
        yield from _serving(replica, observed, now)


def _superseded(desired: Desired, replica: ReplicaView) -> bool:
    return replica.slot > desired.wanted or not is_current(desired, replica)


def _waiting(replica: ReplicaView, observed: Observed, now: datetime) -> Iterator[Action]:
    # A container that is there already was started by a worker that died before it could say so.
    if replica.name in observed.containers:
        yield Start(replica)
    elif not replica.placed:
        yield Place(replica)
    elif observed.image_present:
        yield Start(replica)
    elif replica.pull_beat_at is None or abs(now - replica.pull_beat_at) > PULL_BEAT_LIMIT:
        yield Pull(replica)


def _starting(
    desired: Desired, replica: ReplicaView, container: Observation, observed: Observed, now: datetime
) -> Iterator[Action]:
    if container.state == ContainerState.CREATED:
        yield (
            Fail(replica, "command_not_found", {"error": container.error})
            if container.error
            else Start(replica)
        )
    elif replica.name in observed.healthy:
        yield Ready(replica) if replica.healthy_since else Healthy(replica)
    elif replica.started_at and now - replica.started_at > timedelta(seconds=desired.start_timeout_s):
        yield Fail(replica, "health_timeout", {"seconds": int(desired.start_timeout_s)})
    elif replica.name in observed.hints:
        yield from _hint(replica, observed.hints[replica.name])


def _hint(replica: ReplicaView, hint: Mapping[str, Any]) -> Iterator[Hint]:
    code = str(hint.get("code", ""))
    params = {name: value for name, value in hint.items() if name != "code"}
    if (replica.reason_code, dict(replica.evidence)) != (code, params):
        yield Hint(replica, code, params)


def _serving(replica: ReplicaView, observed: Observed, now: datetime) -> Iterator[Action]:
    if replica.unhealthy_since and replica.name in observed.healthy:
        yield Recovered(replica)
    elif replica.unhealthy_since:
        silent = now - replica.unhealthy_since
        if silent >= UNRESPONSIVE_LIMIT:
            yield Fail(replica, "unresponsive", {"seconds": int(silent.total_seconds())})
            return
    if observed.route_applied and replica.routed_at is None:
        yield Routed(replica)


def _ended(replica: ReplicaView, container: Observation) -> Fail:
    if container.oom_killed:
        return Fail(replica, "out_of_memory", {"exit_code": container.exit_code})
    if container.error and replica.state == "starting" and container.exit_code in (126, 127):
        return Fail(
            replica, "command_not_found", {"error": container.error, "exit_code": container.exit_code}
        )
    code = "container_died" if replica.ready_at else "container_exited"
    return Fail(replica, code, {"exit_code": container.exit_code, "error": container.error})


def _has_left(
    desired: Desired, replica: ReplicaView, container: Observation | None, observed: Observed, now: datetime
) -> bool:
    limit = LEAVE_LIMIT_S if desired.deleting or desired.paused else desired.drain_timeout_s
    over = replica.drain_started_at is None or now - replica.drain_started_at >= timedelta(seconds=limit)
    gone = container is None or container.state == ContainerState.EXITED
    return gone or over or replica.name in observed.drained


def _heir(
    desired: Desired, replica: ReplicaView, replicas: Sequence[ReplicaView], now: datetime
) -> Create | None:
    """Who gets its place where an old one has to go first."""
    if desired.surge or desired.blocked or replica.slot > desired.wanted or is_current(desired, replica):
        return None
    without = [replace(item, state="stopped") if item is replica else item for item in replicas]
    return next(to_create(desired, without, now), None)


# -- the whole endpoint -----------------------------------------------------------------------------------------


def _orphans(replicas: Sequence[ReplicaView], observed: Observed) -> Iterator[RemoveOrphan]:
    live = {item.name for item in replicas if is_live(item)}
    for name in observed.containers:
        if name not in live:
            yield RemoveOrphan(name)


def _look_again(desired: Desired, replicas: Sequence[ReplicaView], now: datetime) -> float | None:
    """Often while something is young, seldom when it takes long; never for what the sweep finds anyway."""
    delays = [_patience(now, item.started_at) for item in replicas if item.state == "starting"]
    delays += [2 * _patience(now, item.drain_started_at) for item in replicas if item.state == "draining"]
    delays += [
        2 * _patience(now, item.ready_at) for item in replicas if item.state == "ready" and not item.routed_at
    ]
    delays += [1.0 for item in replicas if item.state == "ready" and item.unhealthy_since]
    delays += _waits(desired, replicas, now)
    if is_updating(desired, replicas):
        delays.append(1.0)
    if desired.deleting:
        delays.append(0.3)
    return min(delays, default=None)


def _patience(now: datetime, since: datetime | None) -> float:
    age = (now - since).total_seconds() if since else 0.0
    return 0.1 if age < 10 else 0.3 if age < 60 else 1.0


def _waits(desired: Desired, replicas: Sequence[ReplicaView], now: datetime) -> Iterator[float]:
    """Until the back-off of a failed slot is over."""
    for slot in range(1, desired.wanted + 1):
        mine = [item for item in attempts(desired, replicas, slot) if is_current(desired, item)]
        due = next_try(failures_in_a_row(mine, desired.generation))
        if due is not None and due > now:
            yield (due - now).total_seconds() + 0.05
