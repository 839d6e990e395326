"""What the planner reads and what it answers, as plain data. No ORM, no client library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from runtimes.contract import Observation


@dataclass(frozen=True, slots=True)
class Desired:
    """What is asked for.

    wanted            replicas that should serve
    revision_id       the revision they should be of
    epoch             and the restart they should come after
    surge             replicas more than `wanted` that a rollout may have at a time; 0: an old one goes first
    stable_revision_id   what to go back to if the revision fails; None: there is nothing older that worked
    revised_at        when the revision was asked for, or the last thing after it: it had no chance before a resume
    rollout_timeout_s    how long a rollout may go on without another replica of it getting ready
    drain_timeout_s   how long a replica that leaves may finish its requests
    failed_update     why the last update was taken back: Endpoint.failed_update
    start_timeout_s   how long a replica may take from its container's start to its first healthy answer
    was_serving       its last status said that it serves
    was_settled       and nothing was asked for since it reached that status
    settled_replicas  the wanted number that all served last
    asleep            wanted is 0 because nobody called it, and the next request changes that
    blocked           a reason why no replica can be made at all (a code of endpoints.errors), "" if none
    """

    endpoint_id: str
    generation: int
    wanted: int
    revision_id: int | None
    epoch: int = 0
    surge: int = 1
    stable_revision_id: int | None = None
    revised_at: datetime | None = None
    rollout_timeout_s: float = 2400
    drain_timeout_s: float = 600
    failed_update: Mapping[str, Any] = field(default_factory=dict)
    deleting: bool = False
    paused: bool = False
    start_timeout_s: float = 600
    blocked: str = ""
    blocked_params: Mapping[str, Any] = field(default_factory=dict)
    was_serving: bool = False
    was_settled: bool = False
    settled_replicas: int = 0
    asleep: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica's row. `state` is a ReplicaState value; `placed`: it holds its claim on a node."""

    id: str
    name: str
    slot: int
    attempt: int
    revision_id: int
    generation: int
    state: str
    epoch: int = 0
    placed: bool = True
    started_at: datetime | None = None
    healthy_since: datetime | None = None
    ready_at: datetime | None = None
    routed_at: datetime | None = None
    unhealthy_since: datetime | None = None
    ended_at: datetime | None = None
    drain_started_at: datetime | None = None
    pull_beat_at: datetime | None = None
    reason_code: str = ""
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observed:
    """What is there.

    unreachable    the failure's code if the runtime gave no answer: then `containers` says nothing
    containers     by name, all that carry this endpoint's label
    healthy        names whose health path answered 2xx just now; only those that start or are in doubt are asked
    image_present  None when nobody needed to know
    gateways       how many gateways are alive
    route_applied  every live gateway (at least one) serves this endpoint's present route
    drained        names of draining replicas that no gateway routes to or holds a request to any more
    hints          names of starting replicas whose ports were looked at → {"code", …} or {}: reconciler/hints.py
    """

    containers: Mapping[str, Observation] = field(default_factory=dict)
    healthy: frozenset[str] = frozenset()
    image_present: bool | None = None
    gateways: int = 0
    route_applied: bool = False
    drained: frozenset[str] = frozenset()
    hints: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unreachable: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Create:
    """Write the row of a new replica."""

    slot: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Place:
    """Claim room for it on a node."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch the replica's image in a task of its own."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Start:
    """Call the driver's start for it."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Hint:
    """Say on its row what will probably be the cause if it does not get healthy; code "" takes that back."""

    replica: ReplicaView
    code: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Healthy:
    """The first healthy answer: the health check begins."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Ready:
    """Put it into the gateway's snapshot."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Recovered:
    """It was noted as silent and answers again. The watcher says so as well; it may be away."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Drain:
    """Take it out of the snapshot."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop and remove its container; it was not wanted any more.

    heir   the one for which it went, where there is no room for both: made and placed in the same transaction, or
           whoever waits for such room since longer would get it
    """

    replica: ReplicaView
    heir: Create | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """Keep the evidence, remove its container, mark it failed."""

    replica: ReplicaView
    code: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RemoveOrphan:
    """A container of this endpoint that no row knows."""

    name: str


@dataclass(frozen=True, slots=True)
class Routed:
    """The route is served by every gateway: the replica's way is complete."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class TakeBack:
    """The revision does not get healthy: go back to the stable one. code, params: why."""

    code: str
    params: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finish:
    """Nothing of a deleted endpoint is left: remove its row."""


Action = (
    Create
    | Place
    | Pull
    | Start
    | Hint
    | Healthy
    | Ready
    | Recovered
    | Drain
    | Stop
    | Fail
    | RemoveOrphan
    | Routed
    | TakeBack
    | Finish
)


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to say, and when to look again (None: the sweep is enough).

    settled   all replicas are of the wanted revision and serve: it is one to go back to
    """

    actions: tuple[Action, ...]
    conditions: tuple[Condition, ...]
    look_again_s: float | None = None
    settled: bool = False


@dataclass(frozen=True, slots=True)
class Condition:
    """One finding. type: one of endpoints.conditions; reason: a code of endpoints.errors."""

    type: str
    status: bool
    reason: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
