"""What a gateway counted for each endpoint, and how agents and control plane write it. Pure.

Times are kept as histograms with fixed bins, so that gateways and moments can be added up and percentiles stay right.
A bin is a twentieth of a decade: its bounds are 12 % apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

BINS_PER_DECADE = 20
LAST_BIN = 131  # whatever takes longer than an hour
# Bin → how many. 0 is below 1 ms; n holds 10^((n-1)/20) ≤ ms < 10^(n/20).
Bins = Mapping[int, float]

CLASSES = ("2xx", "3xx", "4xx", "5xx", "other")  # other: no answer was given, as when the caller went away


def bin_of(milliseconds: float) -> int:
    """The bin of a time."""
    if not milliseconds >= 1:  # NaN, too
        return 0
    return min(1 + math.floor(BINS_PER_DECADE * math.log10(milliseconds) + 1e-9), LAST_BIN)


def bounds(number: int) -> tuple[float, float]:
    """Lower and upper bound of a bin, ms."""
    if number <= 0:
        return 0.0, 1.0
    return float(10 ** ((number - 1) / BINS_PER_DECADE)), float(10 ** (number / BINS_PER_DECADE))


def add_bins(items: Iterable[Bins]) -> dict[int, float]:
    """Their sum."""
    total: dict[int, float] = {}
    for bins in items:
        for number, count in bins.items():
            total[number] = total.get(number, 0) + count
    return total


def quantile(bins: Bins, q: float) -> float | None:
    """The time (ms) below which a share `q` (0…1) of them lies, interpolated within its bin; None of nothing."""
    total = sum(bins.values())
    if total <= 0:
        return None
    rank, seen = q * total, 0.0
    for number in sorted(bins):
        count = bins[number]
        if count > 0 and seen + count >= rank:
            low, high = bounds(number)
            return low + (high - low) * max(0.0, rank - seen) / count
        seen += count
    return bounds(max(bins))[1]


@dataclass(frozen=True, slots=True)
class EndpointFigures:
    """What one gateway saw of one endpoint since it told the last time.

    answered     requests that ended, by class of their status: CLASSES
    duration     from a request's first byte to its answer's last, of those that ended
    first_byte   from a request's first byte to its answer's first, of those that ended
    waiting      ages of requests that had no byte of an answer when they were looked at
    in_flight    requests that have not ended, at the moment of telling
    """

    answered: Mapping[str, int] = field(default_factory=dict)
    duration: Bins = field(default_factory=dict)
    first_byte: Bins = field(default_factory=dict)
    waiting: Bins = field(default_factory=dict)
    in_flight: int = 0

    def __bool__(self) -> bool:
        return bool(self.in_flight or any(self.answered.values()) or self.waiting)


def add(items: Iterable[EndpointFigures]) -> EndpointFigures:
    """Of several gateways, or of several moments in one of them: then `in_flight` is the newest's and not the sum."""
    found = list(items)
    return EndpointFigures(
        {name: total for name in CLASSES if (total := sum(item.answered.get(name, 0) for item in found))},
        add_bins(item.duration for item in found),
        add_bins(item.first_byte for item in found),
        add_bins(item.waiting for item in found),
        sum(item.in_flight for item in found),
    )


@dataclass(frozen=True, slots=True)
class Told:
    """One push of an agent.

    gateway_id   who tells
    number       counts its pushes from a random start: the same number twice is the same push
    seconds      how long it counted for this push; > 0
    endpoints    endpoint id → figures; one that is left out had no request at all
    """

    gateway_id: str
    number: int
    seconds: float
    endpoints: Mapping[str, EndpointFigures]

    def as_json(self) -> dict[str, Any]:
        """As it travels. Empty members are left out."""
        return {
            "gateway": self.gateway_id,
            "number": self.number,
            "seconds": round(self.seconds, 3),
            "endpoints": {name: _packed(item) for name, item in self.endpoints.items() if item},
        }

    @classmethod
    def of(cls, data: Any) -> Told:
        """From `as_json`'s. Raises ValueError for anything that a gateway can't have counted."""
        try:
            told = cls(
                str(data["gateway"])[:100],
                int(data["number"]),
                float(data["seconds"]),
                {str(name)[:40]: _unpacked(item) for name, item in dict(data["endpoints"]).items()},
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no figures: {error!r}") from error
        if not 0 < told.seconds < 86_400:
            raise ValueError(f"seconds = {told.seconds}")
        return told


def _packed(item: EndpointFigures) -> dict[str, Any]:
    bins = {"duration": item.duration, "first_byte": item.first_byte, "waiting": item.waiting}
    packed: dict[str, Any] = {name: pack_bins(found) for name, found in bins.items() if found}
    if item.answered:
        packed["answered"] = dict(item.answered)
    if item.in_flight:
        packed["in_flight"] = item.in_flight
    return packed


def pack_bins(bins: Bins) -> dict[str, float]:
    """For JSON, whose keys are texts."""
    return {str(number): round(count, 3) for number, count in sorted(bins.items()) if count > 0}


def unpack_bins(data: Any) -> dict[int, float]:
    """From `pack_bins`'s. Raises ValueError."""
    found = {int(number): float(count) for number, count in dict(data).items()}
    if any(not 0 <= number <= LAST_BIN for number in found) or any(
        not 0 <= count < math.inf for count in found.values()
    ):
        raise ValueError("no histogram")
    return found


def _unpacked(data: Any) -> EndpointFigures:
    answered = {str(name): int(count) for name, count in dict(data.get("answered", {})).items()}
    in_flight = int(data.get("in_flight", 0))
    if in_flight < 0 or set(answered) - set(CLASSES) or any(count < 0 for count in answered.values()):
        raise ValueError("no figures of an endpoint")
    return EndpointFigures(
        answered,
        unpack_bins(data.get("duration", {})),
        unpack_bins(data.get("first_byte", {})),
        unpack_bins(data.get("waiting", {})),
        in_flight,
    )
