"""From what was counted so far to what happens per second, and what of it can be believed. Pure: times are given."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field

SOONEST_S = 0.5  # between two readings: less would be noise
LATEST_S = 60.0  # more would not be about now


@dataclass
class Rates:
    """The last reading of each counter, by owner and by name."""

    _last: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)

    def rate(self, owner: str, name: str, value: float, at: float) -> float | None:
        """Per second since the reading before; None without one, and where the counter began anew meanwhile.

        at   steady seconds
        """
        if not math.isfinite(value):
            return None
        mine = self._last.setdefault(owner, {})
        before = mine.get(name)
        if before is not None and 0 <= at - before[1] < SOONEST_S and value >= before[0]:
            return None
        mine[name] = (value, at)
        if before is None or value < before[0] or not at - before[1] <= LATEST_S:
            return None
        return (value - before[0]) / (at - before[1]) if at > before[1] else None

    def forget_others(self, owners: Collection[str]) -> None:
        """Drop all counters but these owners'."""
        self._last = {owner: mine for owner, mine in self._last.items() if owner in owners}


def sensible(value: float | None, most: float) -> float | None:
    """The value if it is a number from 0 to `most`."""
    return value if value is not None and 0 <= value <= most else None


def percent(part: float | None, whole: float, most: float) -> float | None:
    """`part` of `whole` in per cent; None where there is no whole, and for what is no number from 0 to `most`."""
    if part is None or not 0 < whole < math.inf:
        return None
    return sensible(part / whole * 100, most)
