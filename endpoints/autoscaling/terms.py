"""The words of the policy: what is set, what is seen, what is said. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

UP_AFTER_S, DOWN_AFTER_S = 15.0, 300.0


class Metric(StrEnum):
    """What a threshold is set for. The values are what the API and the ledger call them."""

    CPU = "cpu_percent"
    MEMORY = "memory_percent"
    GPU = "gpu_percent"
    LATENCY = "latency_ms"  # 95th percentile of the time to the first byte
    IN_FLIGHT = "in_flight"  # requests that have not ended, per replica


class Rule(StrEnum):
    """What a decision follows from."""

    ABOVE = "above"  # a metric stays above its threshold
    BELOW = "below"  # all metrics stay below theirs
    IDLE = "idle"  # no request for the idle timeout: to zero
    WOKEN = "woken"  # a request came while it slept
    LIMITS = "limits"  # min or max were changed
    HOLD = "hold"  # nothing asks for a change


class Blocker(StrEnum):
    """What keeps a decision from being carried out, or from going further."""

    STABILISING = "stabilising"  # above, not yet for long enough; params: left_s
    COOLING_DOWN = "cooling_down"  # below, not yet for long enough; params: left_s
    IDLING = "idling"  # no request, not yet for long enough; params: left_s
    AT_MAX = "at_max"  # more would be needed than max allows; params: count
    STEP_LIMIT = "step_limit"  # more than one step may bring; params: count
    COMING = "coming"  # replicas that were asked for do not serve yet
    SILENT = "silent"  # a source says nothing: the present count is held; params: metric
    LEARNED = "learned"  # fewer were too slow under this load before; params: count, load, since
    NO_CAPACITY = "no_capacity"  # there is no room for more


@dataclass(frozen=True, slots=True)
class Limits:
    """What the user set. A threshold that is None is off. Percentages 1…100, latency in ms, times in seconds."""

    min_replicas: int
    max_replicas: int
    thresholds: Mapping[Metric, float] = field(default_factory=dict)
    idle_timeout_s: float | None = None
    up_after_s: float = UP_AFTER_S
    down_after_s: float = DOWN_AFTER_S


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at an endpoint, a slot of 5 s as a rule (a dry run has coarser ones).

    at        seconds since 1970
    wanted    replicas that are asked for now
    ready     replicas that serve
    values    metric → its mean over the ready replicas (CPU, memory, GPU), the percentile (latency), or all requests in
              flight together, not per replica (in flight). A metric whose source was silent is left out; no traffic is
              0, not left out
    told      metric → how many of the ready replicas gave a figure (CPU, memory, GPU); all of them where it is left out
    load      requests per second, None if not known
    active    whether there was any request: ended, in flight or held; None if not known
    seconds   how long the slot was
    """

    at: float
    wanted: int
    ready: int
    values: Mapping[Metric, float] = field(default_factory=dict)
    load: float | None = None
    active: bool | None = None
    seconds: float = 5.0
    told: Mapping[Metric, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What should be. wanted == seen.wanted: nothing changes.

    metric    the one that decided, None if none did
    inputs    metric → {"value", "target", "count"}: what each asked for by itself; requests in flight as their mean per
              wanted replica, with their "total" beside
    params    for the sentence: see Blocker; "metric", "value" and "target" of the one that decided, "seconds" (how long
              it has been so)
    """

    wanted: int
    rule: Rule
    blocker: Blocker | None = None
    metric: Metric | None = None
    inputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
