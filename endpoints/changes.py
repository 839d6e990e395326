"""Whether anything has changed of which the gateways are told: what the database itself says.

Redis says it sooner, but Redis may be away, and a process may be killed between its commit and its word to Redis. A web
process asks here, twice a second at most and only while gateways poll: one query over a few rows.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import DatabaseError
from django.db.models import Count, Sum

from endpoints.models import Change

LOOK_S = 0.5
_KEPT = 1000  # rows; fewer are not worth a removal, after which gateways' snapshot is built once for nothing
_KEPT_FOR = timedelta(minutes=1)  # no transaction of ours takes so long


def note() -> None:
    """Something has changed. In the transaction of the change."""
    Change.objects.create()


def mark() -> str:
    """Another one after every change that was committed. Raises DatabaseError.

    Number and sum of ids: transactions end in another order than their rows were numbered, so the newest id would not
    do. Rows that are added have higher ids than those that are removed: no two states have the same sums.
    """
    found = Change.objects.aggregate(rows=Count("pk"), ids=Sum("pk"))
    return f"{found['rows']}:{found['ids'] or 0}"


@dataclass(frozen=True, slots=True)
class _Look:
    mark: str | None
    at: float


_last = _Look(None, float("-inf"))
_looking = threading.Lock()


def recent_mark() -> str | None:
    """At most LOOK_S old, whoever asks in this process; None while the database does not answer."""
    global _last
    with _looking:
        if time.monotonic() - _last.at >= LOOK_S:
            began = time.monotonic()
            try:
                _last = _Look(mark(), began)
            except DatabaseError:
                _last = _Look(None, time.monotonic())
        return _last.mark


def prune(now: datetime, kept: int = _KEPT) -> None:
    """Forget old rows, if there are many."""
    if Change.objects.count() > kept:
        Change.objects.filter(at__lt=now - _KEPT_FOR).delete()
