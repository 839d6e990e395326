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
    start_timeout_s   how long a replica may take from its container's start to its first healthy answer
    was_serving       its last status said that it serves
    was_settled       and nothing was asked for since it reached that status
    blocked           a reason why no replica can be made at all (a code of endpoints.errors), "" if none
    """

    endpoint_id: str
    generation: int
    wanted: int
    revision_id: int | None
    deleting: bool = False
    paused: bool = False
    start_timeout_s: float = 600
    blocked: str = ""
    blocked_params: Mapping[str, Any] = field(default_factory=dict)
    was_serving: bool = False
    was_settled: bool = False


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica's row. `state` is a ReplicaState value."""

    id: str
    name: str
    slot: int
    attempt: int
    revision_id: int
    generation: int
    state: str
    started_at: datetime | None = None
    healthy_since: datetime | None = None
    ready_at: datetime | None = None
    routed_at: datetime | None = None
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
    healthy        names whose health path answered 2xx just now
    image_present  None when nobody needed to know
    gateways       how many gateways are alive
    route_applied  every live gateway (at least one) serves this endpoint's present route
    """

    containers: Mapping[str, Observation] = field(default_factory=dict)
    healthy: frozenset[str] = frozenset()
    image_present: bool | None = None
    gateways: int = 0
    route_applied: bool = False
    unreachable: str = ""
    evidence: str = ""


@dataclass(frozen=True, slots=True)
class Create:
    """Write the row of a new replica."""

    slot: int
    attempt: int


@dataclass(frozen=True, slots=True)
class Pull:
    """Fetch the replica's image in a task of its own."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Start:
    """Call the driver's start for it."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Healthy:
    """The first healthy answer: the health check begins."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Ready:
    """Put it into the gateway's snapshot."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Drain:
    """Take it out of the snapshot."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop and remove its container; it was not wanted any more."""

    replica: ReplicaView
    code: str = ""


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
class Finish:
    """Nothing of a deleted endpoint is left: remove its row."""


Action = Create | Pull | Start | Healthy | Ready | Drain | Stop | Fail | RemoveOrphan | Routed | Finish


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now, what to say, and when to look again (None: the sweep is enough)."""

    actions: tuple[Action, ...]
    conditions: tuple[Condition, ...]
    look_again_s: float | None = None


@dataclass(frozen=True, slots=True)
class Condition:
    """One finding. type: Ready, Routed, Progressing, Failed; reason: a code of endpoints.errors."""

    type: str
    status: bool
    reason: str = ""
    params: Mapping[str, Any] = field(default_factory=dict)
