"""What one endpoint did in one slot of time, as plain data. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, Self

from gateway.figures import CLASSES, Bins, add_bins

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
        """In the order of the fields, to a tenth; what is not known at the end is left out."""
        values = [_rounded(value, 1) for value in values_of(self)]
        while values and values[-1] is None:
            values.pop()
        return values

    @classmethod
    def unpack(cls, values: Sequence[float | None]) -> Self:
        """From `pack`'s."""
        return cls(*values)


COLUMNS = tuple(item.name for item in fields(ReplicaFigures))
# Those of which an endpoint has the sum of its replicas', where of the others it has their mean.
SUMMED = frozenset({"running", "queued", "tokens_in", "tokens_out"})
_IS_SUMMED = tuple(name in SUMMED for name in COLUMNS)
# A replica's figures in the order of COLUMNS.
values_of: Callable[[ReplicaFigures], tuple[float | None, ...]] = attrgetter(*COLUMNS)


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

    def pack(self, prefix: str = "") -> dict[str, Any]:
        """For the database. Short names: there are many of them. What is empty or 0 is left out.

        prefix   what the names of the endpoint's replicas begin with as a rule; it is not repeated
        """
        packed = {
            "s": _known(self.seconds),
            "a": _trimmed([self.answered.get(name, 0) for name in CLASSES]),
            "d": pack_dense(self.duration),
            "f": pack_dense(self.first_byte),
            "w": pack_dense(self.waiting),
            "i": _known(self.in_flight),
            "m": self.in_flight_max,
            "n": _trimmed([self.wanted, _known(self.ready), self.low, self.high]),
            "c": _known(self.replica_seconds),
            "r": {_shortened(name, prefix): item.pack() for name, item in self.replicas.items()},
        }
        return {name: value for name, value in packed.items() if value}

    @classmethod
    def unpack(cls, at: int, data: Mapping[str, Any], prefix: str = "") -> Self:
        """From `pack`'s with the same prefix. Without one, names stay as they are stored."""
        get = data.get
        wanted, ready, low, high = (*get("n", ()), 0, 0, 0, 0)[:4]
        return cls(
            at,
            get("s", 0.0),
            {name: count for name, count in zip(CLASSES, get("a", ()), strict=False) if count},
            unpack_dense(get("d", ())),
            unpack_dense(get("f", ())),
            unpack_dense(get("w", ())),
            get("i", 0.0),
            get("m", 0),
            wanted,
            ready,
            low,
            high,
            get("c", 0.0),
            {
                prefix + name[1:] if prefix and name[0] == _AS_USUAL else name: ReplicaFigures(*values)
                for name, values in get("r", {}).items()
            },
        )


_AS_USUAL = "~"  # in the place of the prefix; no container's name begins with it


def _shortened(name: str, prefix: str) -> str:
    return _AS_USUAL + name[len(prefix) :] if prefix and name.startswith(prefix) else name


def pack_dense(bins: Bins) -> list[float]:
    """[first bin, its count, the next one's count, …], with -n for n empty bins; [] for nothing. Half of pack_bins's
    room: neighbours are the rule."""
    packed: list[float] = []
    after = 0
    for number in sorted(bins):
        count = bins[number]
        if not count > 0:
            continue
        if not packed:
            packed.append(number)
        elif number > after:
            packed.append(after - number)
        packed.append(_rounded(count, 3) or 0.001)
        after = number + 1
    return packed


def unpack_dense(data: Sequence[float]) -> dict[int, float]:
    """From `pack_dense`'s."""
    bins: dict[int, float] = {}
    if data:
        number = int(data[0])
        for count in data[1:]:
            if count < 0:
                number -= int(count)
            else:
                bins[number] = count
                number += 1
    return bins


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
        # A slot whose figures came late covers more than its own length: it counts no more for that.
        sum(item.in_flight for item in told) / len(told) if told else 0.0,
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
    present = sum(1 for sample in samples if sample.replicas)
    kept = list(by_name.items())[:REPLICAS_KEPT]
    return {name: _mean(items, present) for name, items in kept}


def _mean(items: Sequence[ReplicaFigures], present: int) -> ReplicaFigures:
    """Over the time in which it told; of what is summed up over replicas over all the time in which any did: one that
    ran for half of it has done half as much. present: samples with replicas in them."""
    if len(items) == 1 and present == 1:
        return items[0]
    absent = present - len(items)
    means: list[float | None] = []
    for column, is_summed in zip(zip(*map(values_of, items), strict=True), _IS_SUMMED, strict=True):
        known = [value for value in column if value is not None] if None in column else column
        means.append(sum(known) / (len(known) + absent * is_summed) if known else None)
    return ReplicaFigures(*means)


def _trimmed(values: list[float]) -> list[float]:
    while values and not values[-1]:
        values.pop()
    return values


def _known(value: float) -> float:
    return _rounded(value, 2) or 0


def _rounded(value: float | None, digits: int) -> float | None:
    """What is no number is not known: neither database takes NaN in JSON."""
    if value is None or not math.isfinite(value):
        return None
    return int(value) if value == int(value) else round(value, digits)
