"""From what was measured to what the policy looks at: the same way live and in a dry run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Protocol

from endpoints.autoscaling.terms import DOWN_AFTER_S, UP_AFTER_S, Limits, Metric, Seen
from endpoints.metrics.sample import FINEST, ReplicaFigures, Sample
from gateway.figures import add_bins, quantile

PERCENTILE = 0.95
# A share of a limit is measured over an interval, and may come out a little above it; twice as much is nonsense.
_PER_CENT_MOST = 200.0
_PASSED = ("2xx", "3xx", "other")
_OF_REPLICAS = {Metric.CPU: "cpu", Metric.MEMORY: "memory", Metric.GPU: "gpu"}


class Scalable(Protocol):
    """What an endpoint, or the form of one, says about its limits."""

    @property
    def min_replicas(self) -> int: ...
    @property
    def max_replicas(self) -> int: ...
    @property
    def cpu_percent(self) -> int | None: ...
    @property
    def memory_percent(self) -> int | None: ...
    @property
    def gpu_percent(self) -> int | None: ...
    @property
    def latency_ms(self) -> int | None: ...
    @property
    def in_flight(self) -> int | None: ...
    @property
    def idle_timeout_s(self) -> int | None: ...
    @property
    def scale_up_after_s(self) -> int: ...
    @property
    def scale_down_after_s(self) -> int: ...


def limits_of(endpoint: Scalable) -> Limits:
    """What its user set. A time that is not set is the policy's own default."""
    thresholds = {
        metric: value for metric in Metric if (value := getattr(endpoint, metric.value)) is not None
    }
    up, down = endpoint.scale_up_after_s, endpoint.scale_down_after_s
    return Limits(
        endpoint.min_replicas,
        endpoint.max_replicas,
        thresholds,
        endpoint.idle_timeout_s,
        UP_AFTER_S if up is None else float(up),
        DOWN_AFTER_S if down is None else float(down),
    )


def seen(sample: Sample, wanted: int, resolution: float = FINEST) -> Seen:
    """What one slot says to the policy.

    wanted       replicas that are asked for now
    resolution   how long the slot is, s

    Gateways that told nothing leave out what only they know; no traffic is a latency of 0. The latency is the 95th
    percentile of the time to the first byte, in which requests that still wait for theirs count with their age.
    """
    ready = math.floor(sample.ready + 0.5)
    values: dict[Metric, float] = {}
    told: dict[Metric, int] = {}
    load: float | None = None
    active: bool | None = None
    if sample.seconds > 0:
        ended = sum(sample.answered.values())
        load = ended / sample.seconds
        # A 4xx alone says nothing: whoever is refused without a token would keep an endpoint awake.
        passed = any(sample.answered.get(name) for name in _PASSED)
        present = sample.in_flight > 0 or sample.in_flight_max or sample.waiting
        active = bool(passed or sample.first_byte or present)
        values[Metric.IN_FLIGHT] = sample.in_flight
        latency = quantile(add_bins([sample.first_byte, sample.waiting]), PERCENTILE)
        if latency is not None or not ended:
            values[Metric.LATENCY] = latency or 0.0
    if ready > 0:
        for metric, name in _OF_REPLICAS.items():
            known = _known(sample.replicas.values(), name)
            if known:
                values[metric], told[metric] = sum(known) / len(known), len(known)
    return Seen(sample.at, wanted, ready, values, load, active, resolution, told)


def _known(replicas: Iterable[ReplicaFigures], name: str) -> list[float]:
    values: list[float | None] = [getattr(item, name) for item in replicas]
    return [min(value, _PER_CENT_MOST) for value in values if value is not None and 0 <= value < math.inf]
