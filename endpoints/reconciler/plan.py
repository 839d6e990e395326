"""From what is wanted and what is there to what to do next. Pure: data in, data out, `now` given.

One slot holds at most one live replica of the wanted revision. A replica of an older revision serves until the
slot's new one is ready. A replica that ends after it was ready is replaced; one that never got ready is not, until
someone changes or retries the endpoint: what failed once unchanged would fail again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from endpoints.conditions import BLOCKED, FAILED, PROGRESSING, READY, ROUTED
from endpoints.reconciler.state import (
    Action,
    Condition,
    Create,
    Desired,
    Drain,
    Fail,
    Finish,
    Healthy,
    Observed,
    Plan,
    Pull,
    Ready,
    RemoveOrphan,
    ReplicaView,
    Routed,
    Start,
    Stop,
)
from runtimes.contract import ContainerState, Observation

# A pull task reports at least every second; an older beat means that its worker is gone.
PULL_BEAT_LIMIT = timedelta(seconds=15)
# A replica that keeps ending after it was ready: the first replacement comes at once, the next ones wait longer.
BACK_OFF = timedelta(seconds=10)
BACK_OFF_LIMIT = timedelta(minutes=5)
CALM = timedelta(minutes=10)  # a failure longer ago than this slows nothing down
# How long a drained replica may wait for the gateways to confirm before it is stopped anyway.
DRAIN_LIMIT = timedelta(seconds=30)
# Reasons for making no replica that go away by themselves; the others need a person.
WAITS = frozenset({"no_capacity", "model_not_ready"})
_LIVE = frozenset({"waiting", "starting", "ready", "draining"})


def plan(desired: Desired, replicas: Sequence[ReplicaView], observed: Observed, now: datetime) -> Plan:
    """What to do now for one endpoint."""
    if observed.unreachable:
        return _unreachable(desired, replicas, observed)
    actions: list[Action] = []
    for replica in replicas:
        actions += _replica(desired, replica, replicas, observed, now)
    actions += _missing(desired, replicas, now)
    actions += _orphans(replicas, observed)
    if (
        desired.deleting
        and not actions
        and not any(_is_live(item) for item in replicas)
        and not observed.containers
    ):
        actions.append(Finish())
    return Plan(
        tuple(actions),
        _conditions(desired, replicas, observed),
        _look_again(desired, replicas, observed, now),
    )


def _is_live(replica: ReplicaView) -> bool:
    return replica.state in _LIVE


def _unreachable(desired: Desired, replicas: Sequence[ReplicaView], observed: Observed) -> Plan:
    """Nothing is known, so nothing is done and nothing is taken for gone."""
    blocked = Condition(BLOCKED, True, observed.unreachable, {"error": observed.evidence})
    conditions = (*_conditions(desired, replicas, observed), blocked)
    return Plan((), conditions, look_again_s=2)


# -- one replica ------------------------------------------------------------------------------------------------


def _replica(
    desired: Desired, replica: ReplicaView, all_: Sequence[ReplicaView], observed: Observed, now: datetime
) -> Iterator[Action]:
    if not _is_live(replica):
        return
    container = observed.containers.get(replica.name)
    if replica.state == "draining":
        yield from _draining(replica, observed, now)
    elif _unwanted(desired, replica, all_):
        # Only a replica that serves needs to leave the snapshot first.
        yield Drain(replica) if replica.state == "ready" else Stop(replica)
    elif replica.state == "waiting":
        yield from _waiting(replica, observed, now)
    elif container is None:
        yield Fail(replica, "container_gone")
    elif container.state == ContainerState.EXITED:
        yield _ended(replica, container)
    elif replica.state == "starting":
        yield from _starting(desired, replica, container, observed, now)
    elif observed.route_applied and replica.routed_at is None:
        yield Routed(replica)


def _unwanted(desired: Desired, replica: ReplicaView, all_: Sequence[ReplicaView]) -> bool:
    if replica.slot > desired.wanted:
        return True
    if replica.revision_id == desired.revision_id:
        return False
    if replica.state != "ready":
        return True
    return any(
        other.state == "ready" and other.slot == replica.slot and other.revision_id == desired.revision_id
        for other in all_
    )


def _waiting(replica: ReplicaView, observed: Observed, now: datetime) -> Iterator[Action]:
    # A container that is there already was started by a worker that died before it could say so.
    if replica.name in observed.containers or observed.image_present:
        yield Start(replica)
    elif replica.pull_beat_at is None or now - replica.pull_beat_at > PULL_BEAT_LIMIT:
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


def _ended(replica: ReplicaView, container: Observation) -> Fail:
    if container.oom_killed:
        return Fail(replica, "out_of_memory", {"exit_code": container.exit_code})
    if container.error and replica.state == "starting" and container.exit_code in (126, 127):
        return Fail(
            replica, "command_not_found", {"error": container.error, "exit_code": container.exit_code}
        )
    code = "container_died" if replica.ready_at else "container_exited"
    return Fail(replica, code, {"exit_code": container.exit_code, "error": container.error})


def _draining(replica: ReplicaView, observed: Observed, now: datetime) -> Iterator[Action]:
    waited = now - replica.drain_started_at if replica.drain_started_at else DRAIN_LIMIT
    if observed.route_applied or observed.gateways == 0 or waited >= DRAIN_LIMIT:
        yield Stop(replica)


# -- the whole endpoint -----------------------------------------------------------------------------------------


def _missing(desired: Desired, replicas: Sequence[ReplicaView], now: datetime) -> Iterator[Create]:
    if desired.revision_id is None or desired.blocked:
        return
    for slot in range(1, desired.wanted + 1):
        mine = [item for item in replicas if item.slot == slot and item.revision_id == desired.revision_id]
        if any(_is_live(item) and item.state != "draining" for item in mine):
            continue
        last = max(mine, key=lambda item: item.attempt, default=None)
        if last is None or not (_gave_up(desired, last) or _backing_off(desired, mine, last, now)):
            yield Create(slot, attempt=last.attempt + 1 if last else 1)


def _gave_up(desired: Desired, replica: ReplicaView) -> bool:
    """Whether this attempt failed in a way that only a person can change."""
    if replica.state != "failed" or replica.generation < desired.generation:
        return False
    return replica.ready_at is None and replica.reason_code != "container_gone"


def _backing_off(desired: Desired, mine: Sequence[ReplicaView], last: ReplicaView, now: datetime) -> bool:
    recent = [
        item
        for item in mine
        if item.state == "failed"
        and item.generation == desired.generation
        and item.ended_at
        and now - item.ended_at < CALM
    ]
    failures = len(recent)
    if failures < 2 or last.ended_at is None:
        return False
    wait: timedelta = min(BACK_OFF * float(2 ** min(failures - 2, 10)), BACK_OFF_LIMIT)
    return now - last.ended_at < wait


def _orphans(replicas: Sequence[ReplicaView], observed: Observed) -> Iterator[RemoveOrphan]:
    live = {item.name for item in replicas if _is_live(item)}
    for name in observed.containers:
        if name not in live:
            yield RemoveOrphan(name)


def _conditions(
    desired: Desired, replicas: Sequence[ReplicaView], observed: Observed
) -> tuple[Condition, ...]:
    serving = [item for item in replicas if item.state == "ready"]
    current = [item for item in serving if item.revision_id == desired.revision_id]
    # A gateway that starts anew does not take back what was confirmed: its agent serves nothing before it is there.
    routed = observed.route_applied or (bool(serving) and all(item.routed_at for item in serving))
    live = sum(1 for item in replicas if _is_live(item))
    counts = {"ready": len(serving), "wanted": desired.wanted, "live": live}
    found = [
        Condition(READY, len(current) >= desired.wanted, params=counts),
        Condition(ROUTED, routed, "" if routed else "routing"),
    ]
    if desired.blocked:
        kind = BLOCKED if desired.blocked in WAITS else FAILED
        found.append(Condition(kind, True, desired.blocked, desired.blocked_params))
    given_up = [item for item in _last_attempts(desired, replicas) if _gave_up(desired, item)]
    if given_up:
        worst = given_up[0]
        found.append(Condition(FAILED, True, worst.reason_code, {**worst.evidence, "replica": worst.name}))
    step = _step(desired, replicas, current)
    if step:
        found.append(step)
    return tuple(found)


def _last_attempts(desired: Desired, replicas: Sequence[ReplicaView]) -> list[ReplicaView]:
    last: dict[int, ReplicaView] = {}
    for item in sorted(replicas, key=lambda item: item.attempt):
        if item.revision_id == desired.revision_id and item.slot <= desired.wanted:
            last[item.slot] = item
    return [last[slot] for slot in sorted(last)]


def _step(
    desired: Desired, replicas: Sequence[ReplicaView], current: Sequence[ReplicaView]
) -> Condition | None:
    """The furthest step of a replica that is on its way, or why it waits."""
    coming = [item for item in replicas if item.state in ("starting", "waiting")]
    if not coming:
        return None
    if any(item.state == "ready" and item.revision_id != desired.revision_id for item in replicas):
        return Condition(PROGRESSING, True, "updating")
    if any(item.state == "starting" for item in coming):
        return Condition(PROGRESSING, True, "loading_model")
    waiting = coming[0]
    if waiting.reason_code:
        return Condition(BLOCKED, True, waiting.reason_code, waiting.evidence)
    if waiting.pull_beat_at:
        return Condition(PROGRESSING, True, "pulling_image", waiting.evidence)
    return Condition(PROGRESSING, True, "starting")


def _look_again(
    desired: Desired, replicas: Sequence[ReplicaView], observed: Observed, now: datetime
) -> float | None:
    """Often while something is young, seldom when it takes long; never for what the sweep finds anyway."""
    ages = [
        (now - item.started_at).total_seconds() if item.started_at else 0.0
        for item in replicas
        if item.state == "starting"
    ]
    delays = [0.1 if age < 10 else 0.3 if age < 60 else 1.0 for age in ages]
    if any(item.state == "draining" for item in replicas):
        delays.append(0.2)
    if any(item.state == "ready" and item.routed_at is None for item in replicas):
        delays.append(0.2)
    if desired.deleting:
        delays.append(0.3)
    return min(delays, default=None)
