"""What one endpoint did in one slot of time, as plain data. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from gateway.figures import Bins, add_bins, pack_bins, unpack_bins

# Slot lengths in seconds → for how long such samples are kept.
RESOLUTIONS = {5: 3600, 60: 86_400, 900: 90 * 86_400}
FINEST = 5
REPLICAS_KEPT = 32  # in one sample; a coarse one of an endpoint that crash-loops would grow without end


@dataclass(frozen=True, slots=True)
class ReplicaFigures:
    """One replica. None is what its source did not say; never a number that was made up.

    cpu, memory        per cent of its limits (of its node where it has none)
    gpu, gpu_memory    per cent, the mean over its GPUs; None without one
    running, queued    requests that its model server computes, and that wait inside it
    kv_cache           per cent of the cache in use
    tokens_in, tokens_out   a second: read from prompts, generated
    """

    cpu: float | None = None
    memory: float | None = None
    gpu: float | None = None
    gpu_memory: float | None = None
    running: float | None = None
    queued: float | None = None
    kv_cache: float | None = None
    tokens_in: float | None = None
    tokens_out: float | None = None

    def pack(self) -> list[float | None]:
        """In the order of the fields; what is not known at the end is left out."""
        values = [_rounded(getattr(self, item.name)) for item in fields(self)]
        while values and values[-1] is None:
            values.pop()
        return values

    @classmethod
    def unpack(cls, values: Sequence[float | None]) -> Self:
        """From `pack`'s."""
        return cls(*values)


@dataclass(frozen=True, slots=True)
class Sample:
    """One endpoint in one slot.

    at               the slot's beginning, seconds since 1970
    seconds          how much of the slot the gateways' figures cover; 0: no gateway told anything, and the figures
                     from `answered` to `in_flight_max` say nothing
    answered         requests that ended, by class of their status (gateway.figures.CLASSES)
    duration, first_byte, waiting   ms, in bins: see gateway.figures.EndpointFigures
    in_flight        requests that had not ended, the mean over the slot, those that wait for a replica included
    in_flight_max    and the most
    wanted           replicas that should serve, the most of the slot
    ready            replicas that served, the mean
    low, high        the endpoint's min and max at the slot's end
    replica_seconds  replicas that held their resources × seconds: what it cost
    replicas         name → figures of those that served
    """

    at: int
    seconds: float = 0.0
    answered: Mapping[str, int] = field(default_factory=dict)
    duration: Bins = field(default_factory=dict)
    first_byte: Bins = field(default_factory=dict)
    waiting: Bins = field(default_factory=dict)
    in_flight: float = 0.0
    in_flight_max: int = 0
    wanted: int = 0
    ready: float = 0.0
    low: int = 0
    high: int = 0
    replica_seconds: float = 0.0
    replicas: Mapping[str, ReplicaFigures] = field(default_factory=dict)

    def pack(self) -> dict[str, Any]:
        """For the database. Short names: there are many of them. What is empty or 0 is left out."""
        packed = {
            "s": _rounded(self.seconds),
            "a": dict(self.answered),
            "d": pack_bins(self.duration),
            "f": pack_bins(self.first_byte),
            "w": pack_bins(self.waiting),
            "i": _rounded(self.in_flight),
            "m": self.in_flight_max,
            "n": [self.wanted, _rounded(self.ready), self.low, self.high],
            "c": _rounded(self.replica_seconds),
            "r": {name: item.pack() for name, item in self.replicas.items()},
        }
        return {name: value for name, value in packed.items() if value}

    @classmethod
    def unpack(cls, at: int, data: Mapping[str, Any]) -> Self:
        """From `pack`'s."""
        wanted, ready, low, high = data.get("n", (0, 0, 0, 0))
        return cls(
            at,
            data.get("s", 0.0),
            data.get("a", {}),
            unpack_bins(data.get("d", {})),
            unpack_bins(data.get("f", {})),
            unpack_bins(data.get("w", {})),
            data.get("i", 0.0),
            data.get("m", 0),
            wanted,
            ready,
            low,
            high,
            data.get("c", 0.0),
            {name: ReplicaFigures.unpack(values) for name, values in data.get("r", {}).items()},
        )


def merge(at: int, samples: Iterable[Sample]) -> Sample:
    """One coarser slot, beginning at `at`, from the finer ones in it (equally long, at least one)."""
    found = sorted(samples, key=lambda item: item.at)
    told = [item for item in found if item.seconds]
    seconds = sum(item.seconds for item in told)
    last = found[-1]
    return Sample(
        at,
        seconds,
        _sum(item.answered for item in told),
        add_bins(item.duration for item in told),
        add_bins(item.first_byte for item in told),
        add_bins(item.waiting for item in told),
        sum(item.in_flight * item.seconds for item in told) / seconds if told else 0.0,
        max((item.in_flight_max for item in told), default=0),
        max(item.wanted for item in found),
        sum(item.ready for item in found) / len(found),
        last.low,
        last.high,
        sum(item.replica_seconds for item in found),
        _replicas(found),
    )


def _sum(items: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for counts in items:
        for name, count in counts.items():
            total[name] = total.get(name, 0) + count
    return total


def _replicas(samples: Sequence[Sample]) -> dict[str, ReplicaFigures]:
    by_name: dict[str, list[ReplicaFigures]] = {}
    for sample in reversed(samples):  # the newest first: they stay where there are too many
        for name, item in sample.replicas.items():
            by_name.setdefault(name, []).append(item)
    return {name: _mean(items) for name, items in list(by_name.items())[:REPLICAS_KEPT]}


def _mean(items: Sequence[ReplicaFigures]) -> ReplicaFigures:
    means: dict[str, float] = {}
    for column in fields(ReplicaFigures):
        known = [value for item in items if (value := getattr(item, column.name)) is not None]
        if known:
            means[column.name] = sum(known) / len(known)
    return ReplicaFigures(**means)


def _rounded(value: float | None) -> float | None:
    if value is None:
        return None
    return int(value) if value == int(value) else round(value, 2)
