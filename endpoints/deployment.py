"""A deployment as a page tells it: the timeline. Reads, never writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from endpoints.estimates import Outlook, outlook
from endpoints.models import DeployPhase, Endpoint, PhaseName, Replica, ReplicaState


@dataclass(frozen=True, slots=True)
class Step:
    """One phase on the timeline. state: done, now, failed or todo. seconds: how long it took, if it is over; usual:
    how long it takes otherwise, if that is known and it is not over."""

    name: str
    label: str
    state: str
    started_at: datetime | None = None
    seconds: float | None = None
    usual: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_s: float = 0
    layers_waiting: int = 0


@dataclass(frozen=True, slots=True)
class Timeline:
    """total_seconds: from the request to traffic, None while it is under way. replica: whose way it is. outlook: when
    it will be over, and what hangs."""

    steps: tuple[Step, ...]
    since: datetime
    total_seconds: float | None
    replica: Replica | None
    outlook: Outlook

    @property
    def running(self) -> bool:
        """Whether a step is under way."""
        return any(step.state == "now" for step in self.steps)


def told_replica(replicas: Sequence[Replica]) -> Replica | None:
    """The replica whose way to traffic the page tells: the first one still on its way, else the first that runs,
    else the one that ended last."""
    live = sorted((r for r in replicas if r.ended_at is None), key=lambda r: (r.slot, -r.attempt))
    under_way = [r for r in live if r.state in (ReplicaState.WAITING, ReplicaState.STARTING)]
    if under_way or live:
        return (under_way or live)[0]
    return max(replicas, key=lambda r: r.ended_at or r.created_at, default=None)


def timeline(
    endpoint: Endpoint,
    replica: Replica | None,
    phases: Sequence[DeployPhase],
    usual: Mapping[str, float],
    now: datetime,
) -> Timeline:
    """All phases in order, also those still to come. Before there is a replica: queued since the request.

    usual   phase → seconds (endpoints.phase_times)
    """
    seen = {phase.name: phase for phase in phases}
    if replica is None:
        waiting = DeployPhase(name=PhaseName.QUEUED, started_at=endpoint.requested_at)
        queued = Step(PhaseName.QUEUED, str(PhaseName.QUEUED.label), "now", endpoint.requested_at)
        to_come = (name for name in PhaseName if name not in (PhaseName.QUEUED, PhaseName.PULLING))
        rest = tuple(_todo(name, usual) for name in to_come)
        return Timeline((queued, *rest), endpoint.requested_at, None, None, outlook([waiting], usual, now))
    steps = []
    for name in PhaseName:
        phase = seen.get(name)
        if phase is not None:
            steps.append(_step(name, phase, replica, usual))
        elif name == PhaseName.PULLING and not _before(seen, name):
            continue  # the image was there
        elif replica.state not in (ReplicaState.FAILED, ReplicaState.STOPPED):
            steps.append(_todo(name, usual))
    since = phases[0].started_at if phases else replica.created_at
    active = seen.get(PhaseName.ACTIVE)
    total = (active.started_at - since).total_seconds() if active else None
    return Timeline(tuple(steps), since, total, replica, outlook(phases, usual, now))


def _todo(name: PhaseName, usual: Mapping[str, float]) -> Step:
    return Step(name, str(name.label), "todo", usual=usual.get(name))


def _before(seen: dict[str, DeployPhase], name: PhaseName) -> bool:
    """Whether no later phase than `name` has begun yet."""
    order = list(PhaseName)
    return not any(later in seen for later in order[order.index(name) + 1 :])


def _step(name: PhaseName, phase: DeployPhase, replica: Replica, usual: Mapping[str, float]) -> Step:
    over = phase.finished_at is not None or name == PhaseName.ACTIVE
    state = "done" if over else "now"
    if (
        replica.state == ReplicaState.FAILED
        and replica.ended_at
        and phase.finished_at
        and phase.finished_at >= replica.ended_at
    ):
        state = "failed"
    seconds = (phase.finished_at - phase.started_at).total_seconds() if phase.finished_at else None
    return Step(
        name=name,
        label=str(name.label),
        state=state,
        started_at=phase.started_at,
        seconds=None if name == PhaseName.ACTIVE else seconds,
        usual=usual.get(name) if state == "now" else None,
        bytes_done=phase.bytes_done,
        bytes_total=phase.bytes_total,
        bytes_per_s=phase.bytes_per_s if state == "now" else 0,
        layers_waiting=phase.layers_waiting if state == "now" else 0,
    )
