"""What days that are over came to, by endpoint, account and model: a question about months reads these sums of days,
weeks and months, and single rows only for what no sum says exactly.

Sums are never believed: whoever adds to rows of summed days says so (`outdate`) in the same transaction, and then
those rows themselves are read until the sum is made anew (`renew`, after the days' hours were taken together).

A sum is made only when every transaction that could not have known of it is over: days are written down first
(`SummedDays`), and summed at a later run. From then on the two lock the same row.
"""

from __future__ import annotations

import calendar
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from django.db import transaction
from django.db.models import Max, Min, Model, Q, QuerySet, Sum

from endpoints.models import ReplicaTime, SummedDays, TimeSum, Usage, UsageSum
from endpoints.usage.figures import COUNTED, LONGEST_DAYS, By, Only, Span

SETTLED = timedelta(minutes=10)  # no transaction takes as long
AT_ONCE = 500
# By → the id's column and the name's. By day there is one sum of everything.
KEYS: Mapping[By, tuple[str, str]] = {
    By.ENDPOINT: ("endpoint_id", "endpoint_name"),
    By.ACCOUNT: ("subject", "subject_name"),
    By.MODEL: ("model_id", "model_name"),
}
_DAY = timedelta(days=1)
_ROWS_COST = 20  # a day's rows, in sums: there are several for each endpoint, as many for each hour of today
# In the order of COUNTED: of rows of Usage, and of sums.
_SPECIAL: Mapping[str, Any] = {
    "errors_4xx": Sum("requests", filter=Q(status__gte=400, status__lt=500), default=0),
    "errors_5xx": Sum("requests", filter=Q(status__gte=500), default=0),
    "aborted": Sum("requests", filter=Q(status=0), default=0),
}
SUMS: Mapping[str, Any] = {f"sum_{name}": _SPECIAL.get(name, Sum(name)) for name in COUNTED}
SUMS_OF_SUMS: Mapping[str, Any] = {f"sum_{name}": Sum(name) for name in COUNTED}


@dataclass(frozen=True, slots=True)
class Parts:
    """Of what a span is put together: the sums by `by` of `days` (ids of SummedDays), those of `key` alone if it is
    told; and rows, of what is the `rest`."""

    by: By
    key: str | None
    days: Sequence[int]
    rest: Sequence[Span]


# ---- reading


def parts(project_id: str, span: Span, by: By, only: Only) -> Parts:
    """Sums where there are any: by day those of days only, by hour none. One query."""
    of, key = _summed_by(by, only)
    if of is None:
        return Parts(by, None, (), (span,))
    found = SummedDays.objects.filter(
        project_id=project_id, exact=True, first__gte=span.first, last__lte=span.last
    ).values_list("id", "first", "last")
    used, rest = _fewest(span, found if by != By.DAY else (one for one in found if one[1] == one[2]))
    return Parts(of, key, used, _runs(rest))


def _fewest(span: Span, sums: Iterable[tuple[int, date, date]]) -> tuple[list[int], list[date]]:
    """The fewest sums that cover the days without covering one twice, and the days that none covers.

    sums: id, first and last day. Months and weeks overlap, so the best way on is found from the last day backwards.
    """
    starting: dict[date, list[tuple[int, date]]] = defaultdict(list)
    for number, first, last in sums:
        starting[first].append((number, last))
    # Day → what everything from there on costs, and the sum to take there; None: that day's rows.
    best: dict[date, tuple[int, int | None, date]] = {span.last + _DAY: (0, None, span.last)}
    for day in reversed(span.days):
        ways = [(best[last + _DAY][0] + 1, number, last) for number, last in starting[day]]
        rows = (best[day + _DAY][0] + _ROWS_COST, None, day)
        best[day] = min(ways, key=lambda way: way[0]) if ways else rows
    used, rest = list[int](), list[date]()
    day = span.first
    while day <= span.last:
        _cost, taken, last = best[day]
        if taken is None:
            rest.append(day)
        else:
            used.append(taken)
        day = last + _DAY
    return used, rest


def _summed_by(by: By, only: Only) -> tuple[By | None, str | None]:
    """Which sums hold the answer, and whose; (None, None) if none do, or an index finds the few rows as fast."""
    alone = [(By.ACCOUNT, only.account), (By.MODEL, only.model)]
    told = [(kind, key) for kind, key in alone if key is not None]
    if by == By.HOUR or only.endpoint is not None or len(told) > 1:
        return None, None
    if not told:
        return by, None
    return told[0] if by in (By.DAY, told[0][0]) else (None, None)


def _runs(days: Iterable[date]) -> list[Span]:
    found: list[Span] = []
    for day in days:
        if found and found[-1].last + _DAY == day:
            found[-1] = Span(found[-1].first, day)
        else:
            found.append(Span(day, day))
    return found


# ---- writing


def outdate(rows: Iterable[Mapping[str, Any]]) -> None:
    """Rows of Usage or ReplicaTime are about to be added: the sums of their days are no more exact. Call it before
    they are, inside the same transaction."""
    projects: dict[date, set[str]] = defaultdict(set)
    for row in rows:
        projects[row["hour"].astimezone(UTC).date()].add(row["project_id"])
    of_days = Q(pk__in=())
    for day, ids in projects.items():
        of_days |= Q(project_id__in=ids, first__lte=day, last__gte=day)
    # The inexact too: whoever sums them up just now is waited for, or waits. In one order: nobody waits in a ring.
    found = SummedDays.objects.select_for_update().filter(of_days).order_by("pk")
    numbers = list(found.values_list("pk", flat=True))
    if numbers:
        SummedDays.objects.filter(pk__in=numbers).update(exact=False)


def renew(now: datetime) -> int:
    """Make the sums that are missing or not exact; answers how many. Raises DatabaseError: what is done stays."""
    today = now.astimezone(UTC).date()
    SummedDays.objects.filter(last__lt=today - (LONGEST_DAYS + 10) * _DAY).delete()
    due = SummedDays.objects.filter(exact=False, asked_at__lte=now - SETTLED).order_by("-last", "pk")
    numbers = list(due.values_list("pk", flat=True)[:AT_ONCE])
    for number in numbers:
        with transaction.atomic():
            days = SummedDays.objects.select_for_update().filter(pk=number, exact=False).first()
            if days is not None:
                _sum(days)
    _ask(now, today)
    return len(numbers)


def _ask(now: datetime, today: date) -> None:
    """Write down which days and weeks are over, since a project's first one."""
    firsts: dict[str, date] = {}
    for model in (Usage, ReplicaTime):
        begins = model._default_manager.order_by().values_list("project_id").annotate(begin=Min("hour"))
        for project_id, begin in begins:
            day = begin.astimezone(UTC).date()
            firsts[project_id] = min(day, firsts.get(project_id, day))
    for project_id, first in firsts.items():
        known = set(SummedDays.objects.filter(project_id=project_id).values_list("first", "last"))
        new = set(_over(max(first, today - LONGEST_DAYS * _DAY), today)) - known
        SummedDays.objects.bulk_create(
            [SummedDays(project_id=project_id, first=a, last=b, asked_at=now) for a, b in sorted(new)],
            ignore_conflicts=True,
        )


def _over(first: date, today: date) -> Iterator[tuple[date, date]]:
    day = first
    while day < today:
        yield day, day
        if day.weekday() == calendar.SUNDAY:
            yield day - 6 * _DAY, day
        if (day + _DAY).day == 1:
            yield day.replace(day=1), day
        day += _DAY


def _sum(days: SummedDays) -> None:
    for old in (UsageSum, TimeSum):
        old._default_manager.filter(days=days).delete()
    span = Span(days.first, days.last)
    rows: dict[type[Model], QuerySet[Any]] = {
        model: model._default_manager.filter(
            project_id=days.project_id, hour__gte=span.start, hour__lt=span.end
        ).order_by()
        for model in (Usage, ReplicaTime)
    }
    for by, (key, name) in KEYS.items():
        _sum_usage(days, by, rows[Usage].values(key).annotate(**SUMS), key, _names(rows[Usage], key, name))
        if by != By.ACCOUNT:
            names = _names(rows[ReplicaTime], key, name)
            _sum_time(days, by, rows[ReplicaTime].values(key, *_PRICE), key, names)
    if days.first == days.last and rows[Usage].exists():
        whole = rows[Usage].aggregate(**SUMS)
        _sum_usage(days, By.DAY, [whole], "", {})
    if days.first == days.last:
        _sum_time(days, By.DAY, rows[ReplicaTime].values(*_PRICE), "", {})
    days.exact = True
    days.save(update_fields=["exact"])


_PRICE = ("price_month", "currency")


def _names(rows: QuerySet[Any], key: str, name: str) -> dict[str, str]:
    """The last one of each that has any."""
    last: dict[str, tuple[datetime, str]] = {}
    for row in rows.exclude(**{name: ""}).values(key, name).annotate(last=Max("hour")):
        if row[key] not in last or row["last"] >= last[row[key]][0]:
            last[row[key]] = (row["last"], row[name])
    return {one: text for one, (_, text) in last.items()}


def _sum_usage(
    days: SummedDays, by: By, rows: Iterable[Mapping[str, Any]], key: str, names: Mapping[str, str]
) -> None:
    UsageSum.objects.bulk_create(
        [
            UsageSum(
                days=days,
                by=by.value,
                key=row[key] if key else "",
                name=names.get(row[key], "") if key else "",
                **{name: row[f"sum_{name}"] for name in COUNTED},
            )
            for row in rows
        ],
        batch_size=AT_ONCE,
    )


def _sum_time(days: SummedDays, by: By, rows: QuerySet[Any], key: str, names: Mapping[str, str]) -> None:
    TimeSum.objects.bulk_create(
        [
            TimeSum(
                days=days,
                by=by.value,
                key=row[key] if key else "",
                name=names.get(row[key], "") if key else "",
                price_month=row["price_month"],
                currency=row["currency"],
                seconds=row["sum_seconds"],
            )
            for row in rows.annotate(sum_seconds=Sum("seconds"))
        ],
        batch_size=AT_ONCE,
    )
