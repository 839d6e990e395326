"""What the charts of one endpoint show: its samples of a span of time as lines, and the decisions taken in it."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypedDict

from endpoints.autoscaling import reading
from endpoints.metrics.sample import COLUMNS, FINEST, RESOLUTIONS, SUMMED, Sample, merge, values_of
from endpoints.metrics.store import Moment, seconds, window
from endpoints.models import Decision, Endpoint
from gateway.figures import add_bins, bounds

POINTS = 500
# With a step that was asked for; a finer one is made coarser.
POINTS_MOST = 2000
REPLICAS_SHOWN = 10
DECISIONS_SHOWN = 500
# A page asks for "the last day" a moment later: this much of its beginning may be gone.
LATE = 1.01
PERCENTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
REPLICA_LINES = ("cpu", "memory", "gpu", "gpu_memory")
_THRESHOLDS = ("cpu_percent", "memory_percent", "gpu_percent", "latency_ms", "in_flight")

Line = list[float | None]
# A line's name of something that replicas tell → where it stands in ReplicaFigures.
_OF_REPLICAS = {
    "tokens_in_per_s": "tokens_in",
    "tokens_out_per_s": "tokens_out",
    "queued": "queued",
    "kv_cache": "kv_cache",
    "cpu": "cpu",
    "memory": "memory",
    "gpu": "gpu",
    "gpu_memory": "gpu_memory",
}
_OF_GATEWAYS: Mapping[str, Callable[[Sample], float]] = {
    "requests_per_s": lambda one: sum(one.answered.values()) / one.seconds,
    "errors_4xx_per_s": lambda one: one.answered.get("4xx", 0) / one.seconds,
    "errors_5xx_per_s": lambda one: one.answered.get("5xx", 0) / one.seconds,
    "aborted_per_s": lambda one: one.answered.get("other", 0) / one.seconds,
    "in_flight": lambda one: one.in_flight,
    "in_flight_max": lambda one: one.in_flight_max,
}
_OF_ENDPOINT: Mapping[str, Callable[[Sample], float]] = {
    "wanted": lambda one: one.wanted,
    "ready": lambda one: one.ready,
    "min": lambda one: one.low,
    "max": lambda one: one.high,
}
# By the order of COLUMNS: the line's name, "" for none, and whether it is a sum.
_NAMES = tuple(next((name for name, of in _OF_REPLICAS.items() if of == column), "") for column in COLUMNS)
_SUMMED = tuple(column in SUMMED for column in COLUMNS)
SERIES = (
    *_OF_GATEWAYS,
    *(f"{what}_{name}_ms" for what in ("latency", "first_byte") for name in PERCENTILES),
    *_OF_REPLICAS,
    *_OF_ENDPOINT,
)


class Mark(TypedDict):
    """A decision. id: the ledger's; at: seconds since 1970; before, after: wanted replicas; text: the sentence."""

    id: int
    at: float
    before: int
    after: int
    rule: str
    blocker: str | None
    text: str


# step      seconds between two points
# at        each point's beginning, seconds since 1970; every line has as many values
# series    by name, see SERIES; null: nobody measured, 0: measured, and nothing happened
# replicas  name → line's name → values, the newest REPLICAS_SHOWN replicas; per cent
Chart = TypedDict(
    "Chart",
    {
        "from": float,
        "to": float,
        "step": int,
        "at": list[int],
        "series": dict[str, Line],
        "replicas": dict[str, dict[str, Line]],
        "thresholds": dict[str, int],
        "decisions": list[Mark],
    },
)


def chart(
    endpoint: Endpoint, start: Moment, end: Moment, step: int | None = None, now: Moment | None = None
) -> Chart:
    """One endpoint between two moments, the newest seconds included.

    step   seconds between two points; if left out, as few as give no more than POINTS. It is made a multiple of the
           resolution that samples of that age are kept at.
    """
    begin, stop = seconds(start), seconds(end)
    resolution, step = steps(begin, stop, step, seconds(now) if now is not None else time.time())
    at = list(range(math.floor(begin / step) * step, math.ceil(stop), step))
    by_point = _by_slot(samples(endpoint.id, at[0] if at else begin, stop, resolution, now), step)
    points = [by_point.get(moment) for moment in at]
    return {
        "from": begin,
        "to": stop,
        "step": step,
        "at": at,
        "series": _lines(points),
        "replicas": _replica_lines(points),
        "thresholds": {name: value for name in _THRESHOLDS if (value := getattr(endpoint, name)) is not None},
        "decisions": _decisions(endpoint, begin, stop),
    }


def steps(start: float, end: float, step: int | None, now: float) -> tuple[int, int]:
    """(the resolution to read, seconds between two points)."""
    kept = [length for length, age in RESOLUTIONS.items() if start >= now - age * LATE] or [max(RESOLUTIONS)]
    span = max(end - start, 1.0)
    wanted = max(step, span / POINTS_MOST) if step else span / POINTS
    resolution = max([length for length in kept if length <= wanted], default=min(kept))
    return resolution, max(1, math.ceil(round(wanted / resolution, 6))) * resolution


def samples(
    endpoint_id: str, start: Moment, end: Moment, resolution: int, now: Moment | None = None
) -> list[Sample]:
    """One endpoint's samples of that resolution, in order, until `end`: what is not rolled up yet is, here."""
    begin, stop = seconds(start) // resolution * resolution, seconds(end)
    today = seconds(now) if now is not None else time.time()
    found = window(endpoint_id, begin, stop, resolution)
    if resolution == FINEST:
        return found
    finer = max(length for length in RESOLUTIONS if length < resolution)
    fresh = max(begin, found[-1].at + resolution if found else 0, today - RESOLUTIONS[finer])
    if fresh >= stop:
        return found
    rest = _by_slot(samples(endpoint_id, fresh, stop, finer, today), resolution)
    return found + [rest[at] for at in sorted(rest) if not found or at > found[-1].at]


def _by_slot(found: Iterable[Sample], length: int) -> dict[int, Sample]:
    """Merged into slots of that length, by their beginning."""
    slots: dict[int, list[Sample]] = defaultdict(list)
    for sample in found:
        slots[sample.at // length * length].append(sample)
    return {at: several[0] if len(several) == 1 else merge(at, several) for at, several in slots.items()}


# ---- lines


def _lines(points: Sequence[Sample | None]) -> dict[str, Line]:
    lines: dict[str, Line] = {name: [None] * len(points) for name in SERIES}
    for number, sample in enumerate(points):
        if sample is not None:
            for name, value in _values(sample):
                lines[name][number] = _short(value)
    return lines


def _values(sample: Sample) -> Iterable[tuple[str, float]]:
    """What is known in one slot, by the line's name."""
    for name, of in _OF_ENDPOINT.items():
        yield name, of(sample)
    if sample.seconds > 0:
        for name, of in _OF_GATEWAYS.items():
            yield name, of(sample)
        yield from _percentiles("latency", sample.duration)
        # As the autoscaler sees it: requests that still wait for their first byte count with their age.
        waited = add_bins((sample.first_byte, sample.waiting)) if sample.waiting else sample.first_byte
        yield from _percentiles("first_byte", waited)
    if sample.replicas:
        columns = zip(*map(values_of, sample.replicas.values()), strict=True)
        for name, summed, column in zip(_NAMES, _SUMMED, columns, strict=True):
            known = [value for value in column if value is not None]
            if name and known:
                yield name, sum(known) if summed else sum(known) / len(known)


def _percentiles(what: str, bins: Mapping[int, float]) -> Iterable[tuple[str, float]]:
    """All of them in one pass: what gateway.figures.quantile says for each."""
    total = sum(bins.values())
    if total <= 0:
        return
    ranks = [(name, share * total) for name, share in PERCENTILES.items()]
    seen = 0.0
    for number in sorted(bins):
        count = bins[number]
        while ranks and count > 0 and seen + count >= ranks[0][1]:
            name, rank = ranks.pop(0)
            low, high = bounds(number)
            yield f"{what}_{name}_ms", low + (high - low) * max(0.0, rank - seen) / count
        seen += count
    for name, _rank in ranks:  # rounding has left them behind the last
        yield f"{what}_{name}_ms", bounds(max(bins))[1]


def _replica_lines(points: Sequence[Sample | None]) -> dict[str, dict[str, Line]]:
    chosen: dict[str, dict[str, Line]] = {}
    for number in range(len(points) - 1, -1, -1):  # the newest first: they stay where there are too many
        sample = points[number]
        for name, figures in sample.replicas.items() if sample else ():
            if name not in chosen and len(chosen) == REPLICAS_SHOWN:
                continue
            lines = chosen.setdefault(name, {})
            for column in REPLICA_LINES:
                value = getattr(figures, column)
                if value is not None:
                    lines.setdefault(column, [None] * len(points))[number] = _short(value)
    return dict(sorted(chosen.items()))


def _short(value: float) -> float:
    """To a thousandth: nobody sees more, and the answer is half as long."""
    return int(value) if value == int(value) else round(value, 3)


# ---- decisions


def _decisions(endpoint: Endpoint, start: float, end: float) -> list[Mark]:
    begin, stop = (datetime.fromtimestamp(moment, UTC) for moment in (start, end))
    newest = Decision.objects.filter(endpoint=endpoint, at__gte=begin, at__lte=stop).order_by("-at", "-id")
    return [
        {
            "id": row.pk,
            "at": round(row.at.timestamp(), 3),
            "before": row.before,
            "after": row.after,
            "rule": row.rule,
            "blocker": row.blocker or None,
            "text": reading.sentence(row),
        }
        for row in reversed(list(newest[:DECISIONS_SHOWN]))
    ]
