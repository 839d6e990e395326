"""What a project used in a span of days: a fixed number of queries, at any size; the database adds up, and what is
over is added up already (`sums`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime
from datetime import time as clock
from decimal import Decimal
from itertools import chain
from typing import Any

from django.db.models import Max, Q, QuerySet, Sum
from django.utils.translation import gettext as _

from endpoints.models import Endpoint, ReplicaTime, TimeSum, Usage, UsageSum
from endpoints.usage.figures import By, Figures, Only, Report, Row, Span, total_of
from endpoints.usage.sums import KEYS, SUMS, SUMS_OF_SUMS, Parts, parts
from iam.models import ApiKey, ServiceAccount
from registry.models import RegisteredModel

MOST_NAMED = 500  # ids in one statement
_Counts = tuple[str, Sequence[int]]  # slot, in the order of COUNTED
_Seconds = tuple[tuple[str, Decimal, str], int]  # (slot, price a month, currency), seconds


def usage(project_id: str, span: Span, by: By, only: Only = Only()) -> Report:  # noqa: B008 - frozen
    """What was used, by what `by` says, most requests first; days and hours in their order, all of them.

    Replicas run for all callers: by account, or of one account alone, no time and no cost is told.
    """
    made = parts(project_id, span, by, only)
    time = [] if _timeless(by, only) else _time(project_id, made, by, only)
    return _report(project_id, span, by, only, made, _requests(project_id, made, by, only), time)


def overview(project_id: str, span: Span, by: By, only: Only) -> tuple[Report, Report]:
    """`usage` by day and by what `by` says. Where no sum is made of today alone, as at most times, today's rows are
    read once for both."""
    made, days = parts(project_id, span, by, only), parts(project_id, span, By.DAY, only)
    if (
        by in (By.DAY, By.HOUR)
        or made.rest != days.rest
        or len(days.rest) != 1
        or len(days.rest[0].days) != 1
    ):
        return usage(project_id, span, By.DAY, only), usage(project_id, span, by, only)
    today = f"{days.rest[0].first:%Y-%m-%d}"
    rows, sums, of_days = replace(made, days=()), replace(made, rest=()), replace(days, rest=())
    requests = list(_requests(project_id, rows, by, only))
    time = list[_Seconds]()
    if not _timeless(By.DAY, only):  # by account it is told by day alone
        time = list(_time(project_id, rows, By.DAY if by == By.ACCOUNT else by, only))
    by_day = _report(
        *(project_id, span, By.DAY, only, days),
        chain(_requests(project_id, of_days, By.DAY, only), ((today, counts) for _key, counts in requests)),
        chain(
            [] if _timeless(By.DAY, only) else _time(project_id, of_days, By.DAY, only),
            (((today, price, currency), seconds) for (_key, price, currency), seconds in time),
        ),
    )
    times = [] if _timeless(by, only) else chain(time, _time(project_id, sums, by, only))
    both = chain(requests, _requests(project_id, sums, by, only))
    return by_day, _report(project_id, span, by, only, made, both, times)


def _timeless(by: By, only: Only) -> bool:
    return by == By.ACCOUNT or only.account is not None


def _report(
    project_id: str,
    span: Span,
    by: By,
    only: Only,
    made: Parts,
    requests: Iterable[_Counts],
    time: Iterable[_Seconds],
) -> Report:
    timeless = _timeless(by, only)
    found: dict[str, Figures] = defaultdict(lambda: Figures(seconds=None if timeless else 0))
    for key, counts in requests:
        found[key].count(counts)
    total: dict[tuple[str, Decimal, str], int] = defaultdict(int)
    for slot, seconds in time:
        total[slot] += seconds
    for (key, price_month, currency), seconds in total.items():
        found[key].ran(seconds, price_month, currency)
    of_time = by in (By.DAY, By.HOUR)
    rows = _moments(found, span, by, timeless) if of_time else _named(found, project_id, made, by)
    return Report(span, by, tuple(rows), total_of(rows, timeless))


def total(project_id: str, span: Span, only: Only) -> Figures:
    """All of it together."""
    return usage(project_id, span, By.DAY, only).total


def _of(
    model: type[Usage] | type[ReplicaTime], project_id: str, spans: Iterable[Span], only: Only
) -> QuerySet[Any]:
    moments = Q()
    for span in spans:
        moments |= Q(hour__gte=span.start, hour__lt=span.end)
    rows: QuerySet[Any] = model._default_manager.filter(moments, project_id=project_id)
    if only.endpoint is not None:
        rows = rows.filter(endpoint_id=only.endpoint)
    if only.model is not None:
        rows = rows.filter(model_id=only.model)
    if only.account is not None:
        rows = rows.filter(subject=only.account)
    return rows.order_by()


def _of_sums(model: type[UsageSum] | type[TimeSum], made: Parts) -> QuerySet[Any]:
    rows = model._default_manager.filter(days__in=made.days, by=made.by.value)
    return (rows if made.key is None else rows.filter(key=made.key)).order_by()


def _columns(by: By) -> tuple[str, str]:
    """What a slot is made of, in rows and in sums."""
    return ("hour", "days__first") if by in (By.DAY, By.HOUR) else (KEYS[by][0], "key")


def _requests(project_id: str, made: Parts, by: By, only: Only) -> Iterator[_Counts]:
    of_rows, of_sums = _columns(by)
    if made.rest:
        rows = _of(Usage, project_id, made.rest, only).values_list(of_rows).annotate(**SUMS)
        for slot, *counts in rows:
            yield _slot(slot, by), counts
    if made.days:
        rows = _of_sums(UsageSum, made).values_list(of_sums).annotate(**SUMS_OF_SUMS)
        for slot, *counts in rows:
            yield _slot(slot, by), counts


def _time(project_id: str, made: Parts, by: By, only: Only) -> Iterator[_Seconds]:
    of_rows, of_sums = _columns(by)
    found = []
    if made.rest:
        found.append((of_rows, _of(ReplicaTime, project_id, made.rest, only)))
    if made.days:
        found.append((of_sums, _of_sums(TimeSum, made)))
    for key, rows in found:
        priced = rows.values_list(key, "price_month", "currency").annotate(sum_seconds=Sum("seconds"))
        for slot, price_month, currency, seconds in priced:
            yield (_slot(slot, by), price_month, currency), seconds


def _slot(value: str | date, by: By) -> str:
    if not isinstance(value, datetime):
        return str(value)
    moment = value.astimezone(UTC)
    return f"{moment:%Y-%m-%d}" if by == By.DAY else f"{moment:%Y-%m-%dT%H:00Z}"


def _moments(found: Mapping[str, Figures], span: Span, by: By, timeless: bool) -> list[Row]:
    slots = [f"{day:%Y-%m-%d}" for day in span.days]
    if by == By.HOUR:
        slots = [f"{day}T{hour:02}:00Z" for day in slots for hour in range(24)]
    return [Row(slot, slot, found.get(slot) or Figures(seconds=None if timeless else 0)) for slot in slots]


def _named(found: Mapping[str, Figures], project_id: str, made: Parts, by: By) -> list[Row]:
    present = _present(project_id, by, found.keys())
    gone = {key for key in found if key and key not in present}
    names = {**present, **(_last_names(project_id, made, by, gone) if gone else {})}
    rows = []
    for key, figures in found.items():
        nameless = _("Without a token") if by == By.ACCOUNT else _("Unknown")
        name = names.get(key, key) if key else nameless
        rows.append(Row(key, name, figures, gone=key in gone))
    return sorted(
        rows, key=lambda row: (-row.figures.requests, -(row.figures.seconds or 0), row.name, row.key)
    )


def _present(project_id: str, by: By, keys: Collection[str]) -> dict[str, str]:
    """Today's names of those of them that exist."""
    kinds: tuple[type[Any], ...] = {
        By.ENDPOINT: (Endpoint,),
        By.MODEL: (RegisteredModel,),
        By.ACCOUNT: (ServiceAccount, ApiKey),
    }[by]
    found: dict[str, str] = {}
    for kind in kinds:
        rows = kind.objects.filter(project_id=project_id).values_list("pk", "name")
        found |= {str(key): name for key, name in rows if str(key) in keys}
    return found


def _last_names(project_id: str, made: Parts, by: By, gone: Collection[str]) -> dict[str, str]:
    """What those were called at last that are no more."""
    last: dict[str, tuple[datetime, str]] = {}
    for key, name, at in _past_names(project_id, made, by, gone):
        if key not in last or at >= last[key][0]:
            last[key] = (at, name)
    return {key: name for key, (_, name) in last.items()}


def _past_names(
    project_id: str, made: Parts, by: By, gone: Collection[str]
) -> Iterator[tuple[str, str, datetime]]:
    """Id, name, and when it was called that."""
    few = len(gone) <= MOST_NAMED
    for sums, model in ((UsageSum, Usage), (TimeSum, ReplicaTime)):
        if by == By.ACCOUNT and model is ReplicaTime:
            continue
        if made.days:
            rows = _of_sums(sums, made).exclude(name="").filter(**({"key__in": gone} if few else {}))
            for key, name, day in rows.values_list("key", "name").annotate(last=Max("days__first")):
                yield key, name, datetime.combine(day, clock(), UTC)
        if made.rest:
            key, name = KEYS[by]
            rows = _of(model, project_id, made.rest, Only()).exclude(**{name: ""})
            rows = rows.filter(**({f"{key}__in": gone} if few else {}))
            yield from rows.values_list(key, name).annotate(last=Max("hour"))


def name_of(project_id: str, by: By, key: str) -> str:
    """Today's name of one of them, the last one if it is gone, else its id. Another project's has none."""
    if not key:
        return _("Without a token") if by == By.ACCOUNT else _("Unknown")
    present = _present(project_id, by, {key})
    if key in present:
        return present[key]
    ever = Span(date(2020, 1, 1), date(9000, 1, 1))
    return _last_names(project_id, Parts(by, None, (), (ever,)), by, {key}).get(key, key)
