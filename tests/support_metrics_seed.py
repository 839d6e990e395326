"""Made-up figures for pages that draw them. Imported in a process that has Django set up (tests.support_console)."""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from endpoints.metrics import rows
from endpoints.metrics.sample import FINEST, ReplicaFigures, Sample
from endpoints.models import Decision, Endpoint, MetricSample, MetricSeries
from gateway.figures import bin_of

QUARTER = 180  # slots of FINEST in 15 minutes
GAP = range(60, 72)  # slots of it that nobody measured
RISE = 90  # the slot in which one replica became two
FAILING = 100  # the slot with errors


def names_of(endpoint_id: str) -> list[str]:
    """What its two replicas are called."""
    return [f"berth-{endpoint_id}-v1-r{slot}-1" for slot in (0, 1)]


def busy(endpoint_id: str, at: int, rate: float = 10.0, number: int = RISE, **changes: Any) -> Sample:
    """One slot of 10 requests/s of 200 ms, on one replica of 40 % CPU, from RISE on on a second of 60 %, too."""
    count = round(rate * FINEST)
    replicas = {
        name: ReplicaFigures(cpu=cpu, memory=30.0)
        for name, cpu in zip(names_of(endpoint_id)[: 1 + (number >= RISE)], (40.0, 60.0), strict=False)
    }
    values: dict[str, Any] = {
        "seconds": FINEST,
        "answered": {"2xx": count, **({"5xx": 5} if number == FAILING else {})},
        "duration": {bin_of(1500): count},
        "first_byte": {bin_of(200): count},
        "in_flight": 2.5,
        "in_flight_max": 7,
        "wanted": len(replicas),
        "ready": len(replicas),
        "low": 1,
        "high": 4,
        "replicas": replicas,
    }
    return Sample(at, **{**values, **changes})


def save(endpoint_id: str, samples: Iterable[Sample], resolution: int = FINEST) -> None:
    """As if they had been measured."""
    series, _ = MetricSeries.objects.get_or_create(endpoint=Endpoint.objects.get(pk=endpoint_id))
    rows.save(
        MetricSample(
            series=series, resolution=resolution, at=sample.at, figures=rows.pack(sample, endpoint_id)
        )
        for sample in samples
    )


def quarter(endpoint_id: str) -> int:
    """Its last 15 minutes, with a gap and a decision. Returns the first slot's beginning, seconds since 1970."""
    first = int(time.time()) // FINEST * FINEST - QUARTER * FINEST
    save(
        endpoint_id,
        (busy(endpoint_id, first + n * FINEST, number=n) for n in range(QUARTER) if n not in GAP),
    )
    Decision.objects.create(
        endpoint_id=endpoint_id,
        at=datetime.fromtimestamp(first + RISE * FINEST, UTC),
        rule="above",
        before=1,
        after=2,
        params={"metric": "cpu_percent", "value": 83.0, "target": 70.0, "seconds": 15},
    )
    return first


def now_at(endpoint_id: str, rate: float) -> None:
    """The slot that has just begun, at another rate."""
    save(endpoint_id, [busy(endpoint_id, int(time.time()) // FINEST * FINEST, rate)])
