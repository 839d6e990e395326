"""From fine samples to coarse ones, and what is too old goes. A bounded piece of work at each call, done every round.

Where it stands is read from the samples themselves, so that nothing has to be remembered: the newest coarse slot, and
in it the highest series, are the last that were rolled up. A slot is rolled up once, GRACE_S after its end; what a
clock that was set back measures a second time replaces fine samples alone.

A clock that jumps ahead makes everything look old. Three things keep it from taking the history with it: what counts
as now is the newest sample that was measured; nothing goes before it is rolled up; and no call removes more than
SLOTS_REMOVED of the oldest slots of each resolution. A day too far ahead costs 15 s of the finest samples every 5 s
until the clock is right again, an hour's worth after 20 minutes, and 90 days of the coarsest after four hours.
"""

from __future__ import annotations

import math
from collections import defaultdict

from django.db.models import QuerySet

from endpoints.metrics import rows
from endpoints.metrics.sample import FINEST, RESOLUTIONS, Sample, merge
from endpoints.models import MetricSample, MetricSeries

# A slot's last figures are written a moment after its end.
GRACE_S = 10
# What one call reads at most to roll it up: a minute of 1,000 endpoints.
SAMPLES_A_CALL = 12_000
SERIES_AT_ONCE = 250
SLOTS_REMOVED = 3
# Spans of a deleted endpoint's slots that one call removes.
SPANS_A_CALL = 2

# (fine, coarse)
_STEPS = tuple(zip(RESOLUTIONS, tuple(RESOLUTIONS)[1:], strict=False))


def tidy(now: float) -> None:
    """Roll up, then remove. now: seconds since 1970. Raises DatabaseError; what was done by then stays."""
    left = SAMPLES_A_CALL
    rolled_up = {FINEST: math.floor(now) - GRACE_S}
    for fine, coarse in _STEPS:
        rolled_up[coarse], left = _roll_up(fine, coarse, rolled_up[fine], left)
    _remove_old(now, rolled_up)
    _remove_deleted(now)


def _of(resolution: int) -> QuerySet[MetricSample]:
    return MetricSample.objects.filter(resolution=resolution)


# ---- rolling up


def _roll_up(fine: int, coarse: int, until: int, left: int) -> tuple[int, int]:
    """Make the coarse samples of all slots that end by `until`, from at most so many fine ones, and a few more.

    Returns (until when all is rolled up now, how many samples may still be read).
    """
    slot = _of(coarse).filter(at__lte=until - coarse).order_by("-at").values_list("at", flat=True).first()
    after = _highest(coarse, slot) if slot is not None else 0
    if slot is None:
        slot = _next_slot(fine, coarse, 0)
    while slot is not None and slot + coarse <= until:
        if left <= 0:
            return slot, 0
        read, after = _roll_piece(slot, fine, coarse, after)
        left -= read
        if not read:
            slot, after = _next_slot(fine, coarse, slot + coarse), 0
    return until // coarse * coarse, left


def _highest(coarse: int, slot: int) -> int:
    """The last series of that slot that is rolled up."""
    found = _of(coarse).filter(at=slot).order_by("-series_id").values_list("series_id", flat=True).first()
    return found or 0


def _next_slot(fine: int, coarse: int, begin: int) -> int | None:
    """The coarse slot of the next fine sample from `begin` on: gaps of any length cost nothing."""
    found = _of(fine).filter(at__gte=begin).order_by("at").values_list("at", flat=True).first()
    return None if found is None else found // coarse * coarse


def _roll_piece(slot: int, fine: int, coarse: int, after: int) -> tuple[int, int]:
    """Roll up some series of one slot, those after that one; (how many samples that took, the last of them)."""
    found = _of(fine).filter(at__in=range(slot, slot + coarse, fine), series_id__gt=after)
    chosen = list(found.order_by("series_id").values_list("series_id", flat=True).distinct()[:SERIES_AT_ONCE])
    if not chosen:
        return 0, after
    by_series: dict[int, list[Sample]] = defaultdict(list)
    stored = found.filter(series_id__lte=chosen[-1]).values_list("series_id", "at", "figures")
    for series, at, figures in stored:
        by_series[series].append(rows.unpack(at, figures))
    rows.save(
        MetricSample(series_id=series, resolution=coarse, at=slot, figures=rows.pack(merge(slot, samples)))
        for series, samples in by_series.items()
    )
    return sum(map(len, by_series.values())), chosen[-1]


# ---- removing


def _remove_old(now: float, rolled_up: dict[int, int]) -> None:
    newest = _of(FINEST).filter(at__lte=math.floor(now)).order_by("-at").values_list("at", flat=True).first()
    if newest is None:
        return
    needed_by = dict(_STEPS)
    for resolution, age in RESOLUTIONS.items():
        before = newest - age
        if resolution in needed_by:
            before = min(before, rolled_up[needed_by[resolution]])
        for _ in range(SLOTS_REMOVED):
            oldest = _of(resolution).order_by("at").values_list("at", flat=True).first()
            if oldest is None or oldest >= before:
                break
            _of(resolution).filter(at=oldest).delete()


def _spans() -> list[tuple[int, int]]:
    """(resolution, number of the span before now): all slots in which an endpoint may have samples."""
    found = []
    for resolution, age in RESOLUTIONS.items():
        slots = math.ceil(age * 1.1) // resolution
        found += [(resolution, number) for number in range(slots // rows.SLOTS_AT_ONCE + 1)]
    return found


def _remove_deleted(now: float) -> None:
    """Some samples of one endpoint that is gone: they lie in as many places as there are slots. What is newer than
    now, from a clock that was ahead, goes by its age when that comes."""
    series = MetricSeries.objects.filter(endpoint=None).order_by("pk").first()
    if series is None:
        return
    spans = _spans()
    for resolution, number in spans[series.removed : series.removed + SPANS_A_CALL]:
        length = resolution * rows.SLOTS_AT_ONCE
        end = (int(now) // resolution + 1) * resolution - number * length
        slots = range(max(0, end - length), end, resolution)
        _of(resolution).filter(at__in=slots, series_id=series.pk).delete()
    series.removed += SPANS_A_CALL
    if series.removed >= len(spans):
        series.delete()
    else:
        series.save(update_fields=["removed"])
