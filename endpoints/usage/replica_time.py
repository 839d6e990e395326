"""Counts for how long replicas hold their places, by hour: what `ReplicaTime` keeps.

Each replica's row says until when its time is counted (`counted_until`), and that moves in the transaction that adds
to the hours: whatever is stopped or killed in between, no second is lost or counted twice. Whole seconds of the clock
are counted, from the one in which a replica got its place to the one in which it ended.

The sweep calls `count`. Whoever deletes rows of replicas calls `settle` first, in the same transaction.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Q, QuerySet

from endpoints.models import Replica, ReplicaTime
from endpoints.usage.adding import add

# A replica that runs is counted until so long ago: whoever ends it writes down a moment that lies a little back, and
# time that was counted can't be taken back.
LAG = timedelta(seconds=60)
STEP = timedelta(seconds=60)  # no row is written oftener for it
AT_ONCE = 500
KEY = ("hour", "endpoint_id", "model_id", "instance_type", "price_month", "currency")
_HOUR = timedelta(hours=1)


def count(now: datetime) -> int:
    """Count what is due; answers of how many replicas. Raises DatabaseError: what was counted by then stays."""
    due = Replica.objects.filter(
        Q(ended_at__isnull=False) | Q(counted_until__lte=now - LAG - STEP), counted_until__isnull=False
    )
    total = 0
    while due.exists():  # mostly not: then nobody has to wait for the write lock
        with transaction.atomic():
            # Who is being changed just now is counted next time.
            free = due.select_for_update(of=("self",), skip_locked=True)
            found = _count(free.order_by("pk")[:AT_ONCE], now)
        total += found
        if found < AT_ONCE:
            break
    return total


def settle(replicas: QuerySet[Replica], now: datetime) -> None:
    """Count all that is left of these, whose rows are about to go: inside the transaction that deletes them."""
    left = replicas.filter(counted_until__isnull=False).select_for_update(of=("self",))
    _count(left.order_by("pk"), now, last=True)


def _count(due: QuerySet[Replica], now: datetime, last: bool = False) -> int:
    seconds: dict[tuple[Any, ...], int] = defaultdict(int)
    names: dict[tuple[Any, ...], dict[str, str]] = {}
    changed = list(due.select_related("endpoint", "revision__model", "revision__instance_type"))
    for replica in changed:
        size, model = replica.revision.instance_type, replica.revision.model
        end = replica.ended_at or (now if last else now - LAG)
        for hour, length in hours(replica.counted_until, end) if replica.counted_until else ():
            key = (
                hour,
                replica.endpoint_id,
                str(model.pk),
                size.name,
                size.price_month or 0,
                size.currency,
            )
            seconds[key] += length
            names[key] = {
                "project_id": replica.endpoint.project_id,
                "endpoint_name": replica.endpoint.name,
                "model_name": model.name,
            }
        over = last or replica.ended_at is not None
        replica.counted_until = None if over else max(_whole(end), replica.counted_until or end)
    rows = [
        {**dict(zip(KEY, key, strict=True)), **names[key], "seconds": length}
        for key, length in seconds.items()
    ]
    add(ReplicaTime, rows, key=KEY, summed=("seconds",), latest=("endpoint_name", "model_name"))
    Replica.objects.bulk_update(changed, ["counted_until"], batch_size=AT_ONCE)
    return len(changed)


def hours(start: datetime, end: datetime) -> Iterator[tuple[datetime, int]]:
    """The whole seconds between two moments by the hour that they lie in; nothing if they are the wrong way round.

    Of stretches that follow each other the seconds add up to those of the whole."""
    at, until = _whole(start), _whole(end)
    while at < until:
        hour = at.replace(minute=0, second=0)
        stop = min(hour + _HOUR, until)
        yield hour, round((stop - at).total_seconds())
        at = stop


def _whole(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)
