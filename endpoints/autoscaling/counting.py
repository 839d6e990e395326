"""How many replicas each metric asks for by itself. Pure.

Source: Kubernetes' documentation, "Horizontal Pod Autoscaling", section "Algorithm details"
(kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale), and where it leaves something open, what the
controller does (pkg/controller/podautoscaler/replica_calculator.go):

    count = ceil(replicas × value ÷ target)

Within a tolerance of 0.1 around a ratio of 1 the present count stays. A replica that does not serve yet counts as 0 %
where the answer would be growth, and not at all where it would be less; one that serves and gave no figure counts as
0 % where the answer would be growth, and as exactly on target where it would be less. If that takes the ratio into the
tolerance or turns its direction, the present count stays. A value above its target never asks for fewer, one below it
never for more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from endpoints.autoscaling.terms import Limits, Metric, Seen

TOLERANCE = 0.1
_MOST = 100_000  # replicas that a metric may ask for: a figure from nowhere must not overflow anything
_EPSILON = 1e-9  # 3 × (200 ÷ 300) is 2


@dataclass(frozen=True, slots=True)
class Asked:
    """What one metric asks for.

    value   comparable to `target`: requests in flight are per wanted replica here
    total   of the requests in flight, None for the others
    waits   it would ask for more if no replica were on its way
    """

    metric: Metric
    value: float
    target: float
    count: int
    total: float | None = None
    waits: bool = False

    def as_input(self) -> dict[str, float]:
        """For the ledger."""
        found: dict[str, float] = {
            "value": round(self.value, 3),
            "target": self.target,
            "count": self.count,
        }
        if self.total is not None:
            found["total"] = round(self.total, 3)
        return found


def targets_of(limits: Limits) -> dict[Metric, float]:
    """The thresholds that are set."""
    return {metric: target for metric, target in limits.thresholds.items() if target and target > 0}


def asked_by(targets: dict[Metric, float], seen: Seen) -> tuple[list[Asked], list[Metric]]:
    """What each metric asks for, and the metrics that say nothing. At least one replica serves."""
    known = {metric: seen.values[metric] for metric in targets if _sane(seen.values.get(metric))}
    asked = [_asked(metric, targets[metric], value, seen, len(known) == 1) for metric, value in known.items()]
    return asked, [metric for metric in targets if metric not in known]


def _sane(value: float | None) -> bool:
    return value is not None and 0 <= value < math.inf


def _asked(metric: Metric, target: float, value: float, seen: Seen, alone: bool) -> Asked:
    if metric == Metric.IN_FLIGHT:
        mean = value / seen.wanted
        count = seen.wanted if _close(mean / target) else _ceil(value / target)
        return Asked(metric, mean, target, count, total=value)
    if metric == Metric.LATENCY:
        return _latency(target, value, seen, alone)
    count, waits = _mean(target, value, seen, seen.told.get(metric, seen.ready))
    return Asked(metric, value, target, count, waits=waits)


def _mean(target: float, value: float, seen: Seen, told: int) -> tuple[int, bool]:
    """A mean over replicas: the load is its product with them. And whether it only waits for those that come."""
    told = min(max(told, 1), seen.ready)
    ratio, mute, coming = value / target, seen.ready - told, max(seen.wanted - seen.ready, 0)
    if ratio > 1:
        everyone = told + mute + coming
        damped = ratio * told / everyone
        if damped < 1 or _close(damped):
            return seen.wanted, coming > 0 and not _close(ratio)
        return max(_ceil(damped * everyone), seen.wanted), False
    damped = (ratio * told + mute) / seen.ready
    return (seen.wanted if _close(damped) else min(_ceil(damped * seen.ready), seen.wanted)), False


def _latency(target: float, value: float, seen: Seen, alone: bool) -> Asked:
    """Latency is no sum: replicas that come may change it by anything, so they are waited for. Nor does it follow from
    the count in a straight line; where nothing else watches, it shrinks one by one as long as there is traffic."""
    ratio = value / target
    count = _ceil(seen.ready * ratio)
    if _close(ratio):
        return Asked(Metric.LATENCY, value, target, seen.wanted)
    if ratio > 1:
        coming = seen.ready < seen.wanted
        more = seen.wanted if coming else max(count, seen.wanted)
        return Asked(Metric.LATENCY, value, target, more, waits=coming)
    if alone and seen.active is not False:
        count = max(count, seen.wanted - 1)
    return Asked(Metric.LATENCY, value, target, min(count, seen.wanted))


def _close(ratio: float) -> bool:
    return abs(1 - ratio) <= TOLERANCE + _EPSILON


def _ceil(count: float) -> int:
    return math.ceil(min(count, _MOST) - _EPSILON)
