"""All that was ever counted of an endpoint, for Prometheus, which wants what only grows. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from endpoints.metrics.sample import FINEST, Sample
from gateway.figures import BINS_PER_DECADE, CLASSES, LAST_BIN, Bins, bounds

# The bins whose upper bounds are the buckets' bounds: two a decade at both ends, four from 10 ms to 100 s.
_FOUR, _TWO = BINS_PER_DECADE // 4, BINS_PER_DECADE // 2
_LAST_BINS = (
    *range(0, BINS_PER_DECADE, _TWO),
    *range(BINS_PER_DECADE, 5 * BINS_PER_DECADE, _FOUR),
    *range(5 * BINS_PER_DECADE, 6 * BINS_PER_DECADE + 1, _TWO),
)
# The buckets' upper bounds, seconds; one more bucket is without a bound.
EDGES_S = tuple(bounds(number)[1] / 1000 for number in _LAST_BINS)
BUCKETS = len(EDGES_S) + 1


@dataclass(frozen=True, slots=True)
class Times:
    """How long it took, counted in buckets. sum_ms: from the bins' middles, so within 6 % of the truth."""

    counts: tuple[float, ...] = (0,) * BUCKETS
    sum_ms: float = 0.0

    def plus(self, bins: Bins, sign: int = 1) -> Times:
        """With these as well, or with -1 without them."""
        if not bins:
            return self
        counts, total = list(self.counts), self.sum_ms
        for number, count in bins.items():
            counts[_BUCKETS[number]] += sign * count
            total += sign * count * _MIDDLES[number]
        return Times(tuple(counts), total)

    def cumulated(self) -> list[float]:
        """How many took no longer than each edge; the last is all of them."""
        found: list[float] = []
        for count in self.counts:
            found.append(count + (found[-1] if found else 0))
        return found


_MIDDLES: list[float] = [sum(bounds(number)) / 2 for number in range(LAST_BIN + 1)]
_BUCKETS: list[int] = [sum(number > last for last in _LAST_BINS) for number in range(LAST_BIN + 1)]


@dataclass(frozen=True, slots=True)
class Totals:
    """Since the endpoint's first request.

    answered                requests that ended, in the order of gateway.figures.CLASSES
    duration, first_byte    as in EndpointFigures
    tokens_in, tokens_out   from the model servers' own figures a second, so that what they did between two looks at
                            a replica that ended is not in it
    """

    answered: tuple[int, ...] = (0,) * len(CLASSES)
    duration: Times = Times()
    first_byte: Times = Times()
    tokens_in: float = 0.0
    tokens_out: float = 0.0

    def plus(self, sample: Sample, sign: int = 1) -> Totals:
        """With a slot of FINEST seconds as well, or with -1 without it."""
        return Totals(
            tuple(
                count + sign * sample.answered.get(name, 0)
                for name, count in zip(CLASSES, self.answered, strict=True)
            ),
            self.duration.plus(sample.duration, sign),
            self.first_byte.plus(sample.first_byte, sign),
            self.tokens_in + sign * FINEST * _sum(sample, "tokens_in"),
            self.tokens_out + sign * FINEST * _sum(sample, "tokens_out"),
        )

    def pack(self) -> str:
        """For the database."""
        times = [[*_lean(item.counts), round(item.sum_ms, 1)] for item in (self.duration, self.first_byte)]
        return json.dumps(
            [list(self.answered), *times, round(self.tokens_in, 1), round(self.tokens_out, 1)],
            separators=(",", ":"),
        )

    @classmethod
    def unpack(cls, text: str) -> Self:
        """From `pack`'s; nothing counted from "" and from buckets of another version."""
        if not text:
            return cls()
        answered, duration, first_byte, tokens_in, tokens_out = json.loads(text)
        if len(answered) != len(CLASSES) or not len(duration) == len(first_byte) == BUCKETS + 1:
            return cls()
        return cls(tuple(answered), _times(duration), _times(first_byte), tokens_in, tokens_out)


def counts(sample: Sample) -> bool:
    """Whether a slot has something in it that is counted."""
    return bool(sample.answered) or any(
        item.tokens_in or item.tokens_out for item in sample.replicas.values()
    )


def _sum(sample: Sample, name: str) -> float:
    return sum(getattr(item, name) or 0.0 for item in sample.replicas.values())


def _times(values: Sequence[float]) -> Times:
    return Times(tuple(values[:-1]), values[-1])


def _lean(values: Sequence[float]) -> list[float]:
    return [int(value) if value == int(value) else round(value, 3) for value in values]
