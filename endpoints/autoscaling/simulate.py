"""What other limits would have done with what was measured: the dry run. Pure.

The policy is the live one. What would have been measured with another number of replicas is not known; this assumes:

- The load stays as it was and spreads over the replicas that serve: a mean per replica (CPU, memory, GPU) becomes
  mean × real replicas ÷ simulated ones; requests in flight stay as many as they were.
- Latency follows the same ratio. Near saturation it grows faster than that, far from it it hardly changes: so the
  times above the threshold are an estimate, and the page says so.
- A replica serves `start_s` after it was asked for, and there is always room for it. Until the first one serves after a
  sleep, requests are held.
- Where nothing was measured nothing changes, and nothing is counted for either side.

Coarse slots (a minute, a quarter of an hour) hide what happened within them: a short peak, a short silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, SupportsFloat

from endpoints.autoscaling.observing import seen
from endpoints.autoscaling.policy import Blocker, Limits, Memory, Metric, Rule, Seen, Verdict, decide
from endpoints.metrics.sample import Sample

HOURS_A_MONTH = 730  # 365 × 24 ÷ 12, as in the price of an instance type
START_S = 30.0
# What stands in the way of a change for as long as the load stays: told once, not slot by slot.
_TOLD_ONCE = (Blocker.AT_MAX, Blocker.LEARNED, Blocker.SILENT)
_SCALED = (Metric.CPU, Metric.MEMORY, Metric.GPU, Metric.LATENCY)
_WAITED = (Metric.LATENCY, Metric.IN_FLIGHT)
_FROM_REQUESTS = (Metric.CPU, Metric.GPU)  # of these nothing is used where nothing is asked


@dataclass(frozen=True, slots=True)
class Point:
    """One slot. simulated, real: wanted replicas; ready: simulated ones that serve; latency_ms: simulated, None where
    it is not known."""

    at: int
    simulated: int
    real: int
    ready: int
    latency_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision as the ledger would have it; words: endpoints.autoscaling.words.sentence(rule, blocker, before, after,
    params)."""

    at: float
    before: int
    after: int
    rule: Rule
    blocker: Blocker | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One side of the comparison.

    replica_hours   while they held their resources
    cost            in the instance type's currency, None without a price
    late_slots      slots whose latency was above the threshold, None without such a threshold; late_s: their time
    """

    replica_hours: float
    cost: float | None
    late_slots: int | None
    late_s: float | None


@dataclass(frozen=True, slots=True)
class Simulation:
    """What would have been, beside what was.

    seconds      how much time the samples cover
    resolution   length of a slot, s
    wakes        times it would have been woken
    held_slots   slots with requests that would have been held because no replica served at their beginning; held_s
    """

    points: tuple[Point, ...]
    decisions: tuple[Decided, ...]
    simulated: Outcome
    real: Outcome
    seconds: float
    resolution: float
    wakes: int = 0
    held_slots: int = 0
    held_s: float = 0.0


def simulate(
    limits: Limits,
    samples: Iterable[Sample],
    resolution: float,
    *,
    price_month: SupportsFloat | None = None,
    start: int | None = None,
    start_s: float = START_S,
) -> Simulation:
    """Replay `samples` (of one endpoint, `resolution` seconds each) under other limits.

    price_month   of one replica
    start         replicas at the beginning, all of them serving; None: as many as there were
    start_s       how long a replica takes from being asked for until it serves
    """
    ordered = sorted(samples, key=lambda item: item.at)
    first = ordered[0].wanted if ordered and start is None else start or 0
    run = _Run(limits, resolution, max(start_s, 0.0), first)
    for sample in ordered:
        run.step(sample)
    return run.result(price_month)


@dataclass(slots=True)
class _Run:
    """The state of a replay."""

    limits: Limits
    resolution: float
    start_s: float
    wanted: int
    coming: list[float] = field(default_factory=list)  # when each will serve, of those that do not yet
    memory: Memory = field(default_factory=Memory)
    points: list[Point] = field(default_factory=list)
    decisions: list[Decided] = field(default_factory=list)
    told: set[tuple[Any, ...]] = field(default_factory=set)
    simulated_s: float = 0.0
    real_s: float = 0.0
    late: int = 0
    late_real: int = 0
    wakes: int = 0
    held: int = 0

    def step(self, sample: Sample) -> None:
        """One slot."""
        real = seen(sample, sample.wanted, self.resolution)
        if self.wanted == 0 and real.active:
            self.wakes += 1
            self._scale(1, sample.at, Verdict(1, Rule.WOKEN))
        if real.active and not self._ready(sample.at):
            self.held += 1
        ready = self._ready(sample.at + self.resolution / 2)
        view = _as_if(sample, real, self.wanted, ready)
        latency = view.values.get(Metric.LATENCY) if ready else None
        self._count(sample, real, latency)
        self.points.append(Point(sample.at, self.wanted, sample.wanted, ready, latency))
        verdict, self.memory = decide(self.limits, view, self.memory)
        self._scale(verdict.wanted, sample.at + self.resolution, verdict)

    def result(self, price_month: SupportsFloat | None) -> Simulation:
        """After the last slot."""
        price = None if price_month is None else float(price_month) / HOURS_A_MONTH
        return Simulation(
            tuple(self.points),
            tuple(self.decisions),
            self._outcome(self.simulated_s, price, self.late),
            self._outcome(self.real_s, price, self.late_real),
            len(self.points) * self.resolution,
            self.resolution,
            self.wakes,
            self.held,
            self.held * self.resolution,
        )

    def _outcome(self, replica_s: float, price: float | None, late: int) -> Outcome:
        hours = replica_s / 3600
        cost = None if price is None else hours * price
        if not self.limits.thresholds.get(Metric.LATENCY):
            return Outcome(hours, cost, None, None)
        return Outcome(hours, cost, late, late * self.resolution)

    def _ready(self, at: float) -> int:
        return self.wanted - sum(1 for serves_at in self.coming if serves_at > at)

    def _count(self, sample: Sample, real: Seen, latency: float | None) -> None:
        self.simulated_s += self.wanted * self.resolution
        self.real_s += sample.replica_seconds
        target = self.limits.thresholds.get(Metric.LATENCY)
        if target:
            self.late += latency is not None and latency > target
            self.late_real += real.values.get(Metric.LATENCY, 0.0) > target

    def _scale(self, count: int, at: float, verdict: Verdict) -> None:
        before = self.wanted
        self.coming = [serves_at for serves_at in self.coming if serves_at > at]
        if count > before:
            self.coming += [at + self.start_s] * (count - before)
        elif count < before:  # those that do not serve yet go first
            self.coming = self.coming[: max(len(self.coming) - (before - count), 0)]
        self.wanted = count
        self._tell(Decided(at, before, count, verdict.rule, verdict.blocker, verdict.params, verdict.inputs))

    def _tell(self, decided: Decided) -> None:
        if decided.before != decided.after:
            self.told.clear()
        else:
            kind = (decided.rule, decided.blocker, decided.params.get("metric"))
            if decided.blocker not in _TOLD_ONCE or kind in self.told:
                return
            self.told.add(kind)
        self.decisions.append(decided)


def _as_if(sample: Sample, real: Seen, wanted: int, ready: int) -> Seen:
    """What would have been seen with so many replicas."""
    values = dict(real.values)
    if real.ready > 0 and ready > 0:
        for metric in _SCALED:
            if metric in values:
                values[metric] *= sample.ready / ready
    elif real.active:  # nobody served then: what waited says nothing about those that would have
        for metric in _WAITED:
            values.pop(metric, None)
    elif real.active is False:
        values.update(dict.fromkeys(_FROM_REQUESTS, 0.0))
    return replace(real, wanted=wanted, ready=ready, values=values, told={})
