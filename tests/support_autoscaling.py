"""Endpoints that exist in arithmetic only: what the policy sees of them, and a replay of hours in milliseconds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from endpoints.autoscaling.policy import Limits, Memory, Metric, Seen, Verdict, decide

SLOT = 5.0
START = 1_800_000_000.0


@dataclass(slots=True)
class Replay:
    """An endpoint whose verdicts are carried out: replicas that are asked for serve `start_s` later."""

    limits: Limits
    wanted: int = 1
    at: float = START
    start_s: float = 0.0
    memory: Memory = field(default_factory=Memory)
    verdicts: list[Verdict] = field(default_factory=list)
    changes: list[tuple[float, int, int]] = field(default_factory=list)
    _coming: list[float] = field(default_factory=list)

    @property
    def ready(self) -> int:
        return self.wanted - sum(1 for at in self._coming if at > self.at)

    def look(
        self,
        values: Mapping[Metric, float] | None = None,
        *,
        load: float | None = 10.0,
        active: bool | None = True,
        told: Mapping[Metric, int] | None = None,
        ready: int | None = None,
    ) -> Verdict:
        """The next slot."""
        serving = self.ready if ready is None else ready
        view = Seen(self.at, self.wanted, serving, values or {}, load, active, SLOT, told or {})
        verdict, self.memory = decide(self.limits, view, self.memory)
        self.memory = Memory.unpack(self.memory.pack())
        self.verdicts.append(verdict)
        if verdict.wanted != self.wanted:
            self.changes.append((self.at - START, self.wanted, verdict.wanted))
            self._coming = [at for at in self._coming if at > self.at]
            more = verdict.wanted - self.wanted
            self._coming += [self.at + SLOT + self.start_s] * more
            if more < 0:
                self._coming = self._coming[: max(len(self._coming) + more, 0)]
            self.wanted = verdict.wanted
        self.at += SLOT
        return verdict

    def looks(self, values: Iterable[Mapping[Metric, float]], **more: object) -> list[Verdict]:
        """One slot each."""
        return [self.look(item, **more) for item in values]  # type: ignore[arg-type]


@dataclass(slots=True)
class Queue:
    """Requests that arrive at a constant rate and wait for one of n servers: M/M/n (Erlang's C formula) where it is
    stable, a backlog that grows where it is not.

    rate      requests per second
    service   seconds of one replica's work each
    """

    rate: float
    service: float
    backlog: float = 0.0

    def pass_by(self, servers: int, seconds: float = SLOT) -> tuple[dict[Metric, float], float]:
        """What is measured of a slot, and requests that ended per second."""
        capacity = servers / self.service
        came = self.rate * seconds
        done = min(capacity * seconds, self.backlog + came)
        self.backlog += came - done
        wait, mean = self._waits(servers, capacity)
        wait = max(wait, self.backlog / capacity if self.backlog > 1e-6 else 0.0)
        values = {
            Metric.LATENCY: (wait + self.service) * 1000,
            Metric.IN_FLIGHT: self.rate * (self.service + mean) + self.backlog,
            Metric.CPU: 100 * done / seconds / capacity,
        }
        return values, done / seconds

    def _waits(self, servers: int, capacity: float) -> tuple[float, float]:
        """95th percentile and mean, s."""
        busy = self.rate * self.service
        if busy >= servers:
            return 0.0, 0.0
        inverse = 1.0
        for server in range(1, servers + 1):
            inverse = 1 + inverse * server / busy
        blocked = 1 / inverse
        queued = blocked / (1 - busy / servers * (1 - blocked))
        spare = capacity - self.rate
        return max(0.0, math.log(max(queued, 1e-12) / 0.05)) / spare, queued / spare
