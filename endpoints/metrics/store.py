"""The samples in the database: written once a slot, looked up by slot. What becomes of them: endpoints.metrics.tidying.

Samples lie in the order of time (see models.MetricSample): a round appends its rows, and one endpoint's are looked up
with the list of all slots of a span.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime

from django.db import transaction
from django.db.models import Max

from endpoints.metrics import rows, tidying
from endpoints.metrics.sample import FINEST, Sample
from endpoints.metrics.totals import Totals, counts
from endpoints.models import Endpoint, MetricSample, MetricSeries

Moment = float | datetime
# The newest sample of an endpoint that is measured is no older, s.
LATEST_S = 60


def write(samples: Mapping[str, Sample]) -> None:
    """Store one slot of FINEST seconds: endpoint id → what it did. The same slot again replaces what was there.

    Endpoints that are gone are passed over. Raises DatabaseError.
    """
    packed = {key: rows.pack(sample, key) for key, sample in samples.items()}
    with transaction.atomic():
        series = _series(samples)
        _count(series, samples)
        rows.save(
            MetricSample(series_id=row.pk, resolution=FINEST, at=_slot(samples[key].at), figures=packed[key])
            for key, row in series.items()
        )


def tidy(now: Moment) -> None:
    """Roll up what is complete, remove what is too old, a bounded piece of it: see endpoints.metrics.tidying."""
    tidying.tidy(seconds(now))


def latest(only: Collection[str] | None = None, now: Moment | None = None) -> dict[str, Sample]:
    """The newest slot: endpoint id → what it did; {} if nothing was measured within LATEST_S. only: of these ids."""
    end = seconds(now) if now is not None else time.time()
    recently = MetricSample.objects.filter(resolution=FINEST, at__gt=int(end) - LATEST_S, at__lte=int(end))
    newest = recently.aggregate(at=Max("at"))["at"]
    if newest is None:
        return {}
    return {key: found[-1] for key, found in _of_all([newest], only).items()}


def recent(span_s: float, now: Moment | None = None) -> dict[str, list[Sample]]:
    """The samples of FINEST seconds of all endpoints over the last `span_s`, in order."""
    end = seconds(now) if now is not None else time.time()
    return _of_all(slots(end - span_s, end, FINEST))


def window(endpoint_id: str, start: Moment, end: Moment, resolution: int) -> list[Sample]:
    """One endpoint's samples of that resolution from the slot that `start` is in until before `end`, in order.

    What is not rolled up yet is not in it: see endpoints.metrics.query.samples.
    """
    series = MetricSeries.objects.filter(endpoint=endpoint_id).values_list("pk", flat=True).first()
    if series is None:
        return []
    found: list[tuple[int, str]] = []
    for piece in pieces(slots(seconds(start), seconds(end), resolution), rows.SLOTS_AT_ONCE):
        found += MetricSample.objects.filter(
            resolution=resolution, at__in=piece, series_id=series
        ).values_list("at", "figures")
    return [rows.unpack(at, figures, endpoint_id) for at, figures in sorted(found)]


def totals(only: Collection[str]) -> dict[str, Totals]:
    """All that was ever counted of these endpoints; none of one that had no request yet."""
    found = MetricSeries.objects.filter(endpoint__in=only).exclude(totals="")
    return {key: Totals.unpack(text) for key, text in found.values_list("endpoint_id", "totals")}


def slots(start: float, end: float, resolution: int) -> range:
    """The beginnings of the slots from the one that `start` is in until before `end`."""
    return range(int(start // resolution) * resolution, math.ceil(end), resolution)


def pieces(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """So many at a time."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))


def seconds(moment: Moment) -> float:
    """Since 1970."""
    return moment.timestamp() if isinstance(moment, datetime) else float(moment)


def _slot(at: int) -> int:
    return at // FINEST * FINEST


def _of_all(at: Sequence[int], only: Collection[str] | None = None) -> dict[str, list[Sample]]:
    """Those slots of all endpoints."""
    names = dict(MetricSeries.objects.exclude(endpoint=None).values_list("pk", "endpoint_id"))
    wanted = {pk: key for pk, key in names.items() if key is not None and (only is None or key in only)}
    found: dict[str, list[Sample]] = {}
    for piece in pieces(at, rows.SLOTS_AT_ONCE):
        query = MetricSample.objects.filter(resolution=FINEST, at__in=piece).order_by("at")
        for series, slot, figures in query.values_list("series_id", "at", "figures").iterator(10_000):
            if (key := wanted.get(series)) is not None:
                found.setdefault(key, []).append(rows.unpack(slot, figures, key))
    return found


def _series(samples: Mapping[str, Sample]) -> dict[str, MetricSeries]:
    """The rows of these endpoints, made where they are missing. Inside a transaction.

    They are read anew each time, in one query: an id that was remembered would outlive its endpoint.
    """
    found = _known_series(samples)
    missing = samples.keys() - found.keys()
    if missing:
        # Held until the commit: an endpoint that is being deleted at this moment gets no row.
        there = (
            Endpoint.objects.filter(pk__in=missing)
            .select_for_update(of=("self",), no_key=True)
            .order_by("pk")
        )
        made = [MetricSeries(endpoint_id=key) for key in there.values_list("pk", flat=True)]
        MetricSeries.objects.bulk_create(made, ignore_conflicts=True)
        found = _known_series(samples)
    return found


def _known_series(samples: Mapping[str, Sample]) -> dict[str, MetricSeries]:
    known = MetricSeries.objects.exclude(endpoint=None)
    return {row.endpoint_id: row for row in known if row.endpoint_id and row.endpoint_id in samples}


def _count(series: Mapping[str, MetricSeries], samples: Mapping[str, Sample]) -> None:
    """Add the slot to the totals; one that replaces another takes the place of that one's figures."""
    changed = []
    for key, row in series.items():
        sample = samples[key]
        again = row.counted_at == _slot(sample.at)
        if not (again or counts(sample)):
            continue
        total = Totals.unpack(row.totals)
        if again and (before := _stored(row, key)) is not None:
            total = total.plus(before, -1)
        row.totals, row.counted_at = total.plus(sample).pack(), _slot(sample.at)
        changed.append(row)
    MetricSeries.objects.bulk_create(
        changed,
        batch_size=200,
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["totals", "counted_at"],
    )


def _stored(row: MetricSeries, endpoint_id: str) -> Sample | None:
    stored = MetricSample.objects.filter(resolution=FINEST, at=row.counted_at, series_id=row.pk).first()
    return rows.unpack(stored.at, stored.figures, endpoint_id) if stored else None
