"""Tokens of callers and endpoints in each minute and month, by gateway, for their limits.

They are counted for everybody, with a limit or without: one that is set in the middle of a month counts what was used
since the month began, whichever gateway it went through. Told of are those who have a limit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import reduce
from operator import or_

from django.db.models import Q, Sum

from endpoints.models import Endpoint, TokenCount
from endpoints.usage.adding import add
from iam.models import ApiKey, ServiceAccount

KEPT_MINUTES = timedelta(minutes=5)  # more than clocks differ: nothing is decided by older ones
KEPT_MONTHS = timedelta(days=92)

Tokens = dict[str, dict[str, int]]  # subject → window → tokens


def count(gateway: str, tokens: Mapping[tuple[str, int], int], now: datetime) -> None:
    """Add them: (subject or endpoint, minute since 1970) → tokens. Raises DatabaseError."""
    oldest = minute_of(now - KEPT_MINUTES)
    windows: dict[tuple[str, str], int] = defaultdict(int)
    for (subject, minute), used in tokens.items():
        name = minute_of(datetime.fromtimestamp(minute * 60, UTC))
        windows[subject, name[:7]] += used
        if name >= oldest:
            windows[subject, name] += used
    rows = [
        {"gateway": gateway, "subject": subject, "window": window, "tokens": used, "updated_at": now}
        for (subject, window), used in windows.items()
    ]
    add(TokenCount, rows, key=("window", "subject", "gateway"), summed=("tokens",), latest=("updated_at",))


def told(gateway: str, now: datetime) -> tuple[Tokens, Tokens]:
    """What all other gateways counted, and what this one did, of those who have a limit, for its windows that are open
    or have just closed. One query."""
    before = now - timedelta(minutes=1)
    minutes, months = {minute_of(now), minute_of(before)}, {month_of(now), month_of(before)}
    limited = Q(_limited("tokens_per_minute"), window__in=minutes)
    limited |= Q(_limited("tokens_per_month"), window__in=months)
    sums = {"all": Sum("tokens"), "own": Sum("tokens", filter=Q(gateway=gateway), default=0)}
    rows = TokenCount.objects.filter(limited, window__in=minutes | months).values_list("subject", "window")
    elsewhere: Tokens = defaultdict(dict)
    own: Tokens = defaultdict(dict)
    for subject, window, everywhere, here in rows.annotate(**sums).order_by():
        if here:
            own[subject][window] = here
        if everywhere > here:
            elsewhere[subject][window] = everywhere - here
    return dict(elsewhere), dict(own)


def _limited(by: str) -> Q:
    """by: the limit's column."""
    having = {f"{by}__isnull": False}
    models = (Endpoint, ServiceAccount, ApiKey)
    return reduce(
        or_, (Q(subject__in=model.objects.filter(**having).order_by().values("pk")) for model in models)
    )


def prune(now: datetime) -> None:
    """Forget the counts of windows that are long over. Raises DatabaseError."""
    minutes = Q(window__contains="T", window__lt=minute_of(now - KEPT_MINUTES))
    months = Q(window__lt=month_of(now - KEPT_MONTHS))
    TokenCount.objects.filter(minutes | months).delete()


_pruned = datetime.min.replace(tzinfo=UTC)  # in this process


def prune_at_times(now: datetime) -> None:
    """`prune`, once in ten minutes. Raises DatabaseError."""
    global _pruned
    if now - _pruned > timedelta(minutes=10):
        _pruned = now
        prune(now)


def minute_of(moment: datetime) -> str:
    """The minute's window: "2026-11-22T10:15"."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M")


def month_of(moment: datetime) -> str:
    """The month's window: "2026-11"."""
    return moment.astimezone(UTC).strftime("%Y-%m")
