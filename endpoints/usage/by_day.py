"""Makes one row of a day's hours, once the day is over: nobody asks for the hours of last month, and a table that is a
twenty-fourth is read as fast.

The day's row is that of its first hour. A gateway that was away for days still adds to hours long past; they are
taken together like the others. It goes in small transactions: what is counted is in exactly one row at any time.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, datetime, time, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Model

from endpoints.models import ReplicaTime, Usage
from endpoints.usage import replica_time, sums
from endpoints.usage.adding import add

KEPT_BY_HOUR = timedelta(days=1)  # before today
LOOKED_BACK_DAYS = 40  # hours that are told later stay as they are
ROWS_AT_ONCE = 2000
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
USAGE_KEY = ("hour", "project_id", "endpoint_id", "model_id", "subject", "status")
USAGE_SUMS = (
    *("requests", "prompt_tokens", "completion_tokens", "estimated", "unread", "duration_ms"),
    *("first_byte_ms", "first_bytes", "bytes_in", "bytes_out"),
)
_NAMES = ("endpoint_name", "model_name")
# table, key, sums, names
_TABLES: tuple[tuple[type[Model], tuple[str, ...], tuple[str, ...], tuple[str, ...]], ...] = (
    (Usage, USAGE_KEY, USAGE_SUMS, (*_NAMES, "subject_name")),
    (ReplicaTime, replica_time.KEY, ("seconds",), ("project_id", *_NAMES)),
)


def roll_up(now: datetime) -> int:
    """Take the hours of old days together, then sum up what is over; answers how many rows went. Raises DatabaseError:
    what is done stays."""
    start = datetime.combine(now.astimezone(UTC).date(), time(), UTC) - KEPT_BY_HOUR
    gone = 0
    for model, key, summed, names in _TABLES:
        for hour in _hours(model, start):
            while joined := _join(hour, model, key, summed, names):
                gone += joined
    sums.renew(now)
    return gone


def _hours(model: type[Model], before: datetime) -> list[datetime]:
    """Those of old days that have rows and are not the day's first: asked for one by one, each in the index."""
    days = [before - number * _DAY for number in range(1, LOOKED_BACK_DAYS + 1)]
    asked = [day + number * _HOUR for day in days for number in range(1, 24)]
    rows = model._default_manager.filter(hour__in=asked).order_by("hour")
    return list(rows.values_list("hour", flat=True).distinct())


def _join(
    hour: datetime, model: type[Model], key: tuple[str, ...], summed: tuple[str, ...], names: tuple[str, ...]
) -> int:
    """Add some of this hour's rows to those of the day; answers how many."""
    first = hour.astimezone(UTC).replace(hour=0)
    totals: dict[tuple[Any, ...], dict[str, Any]] = defaultdict(lambda: dict.fromkeys(summed, 0))
    with transaction.atomic():
        ids = model._default_manager.filter(hour=hour).values_list("project_id", flat=True)
        sums.outdate(
            {"hour": hour, "project_id": one} for one in set(ids)
        )  # as whoever adds: sums first, then rows
        # Whoever adds to one of them meanwhile waits, finds it gone and makes it anew: it is joined the next time.
        rows = model._default_manager.filter(hour=hour).select_for_update().order_by("pk")
        found = list(rows.values("pk", *key, *summed, *names)[:ROWS_AT_ONCE])
        for row in found:
            whole = totals[(first, *(row[name] for name in key[1:]))]
            for name in summed:
                whole[name] += row[name]
            whole |= {name: row[name] for name in names}
        new = [{**dict(zip(key, values, strict=True)), **whole} for values, whole in totals.items()]
        add(model, new, key=key, summed=summed, latest=names)
        model._default_manager.filter(pk__in=[row["pk"] for row in found]).delete()
    return len(found)
