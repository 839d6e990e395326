"""What a project used in a span of days: a fixed number of queries, at any size; the database adds up."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime
from typing import Any

from django.db.models import Max, Q, QuerySet, Sum
from django.utils.translation import gettext as _

from endpoints.models import Endpoint, ReplicaTime, Usage
from endpoints.usage.figures import COUNTED, By, Figures, Only, Report, Row, Span, total_of
from iam.models import ApiKey, ServiceAccount
from registry.models import RegisteredModel

MOST_NAMED = 500  # ids in one statement
_SUMS = {
    **{f"sum_{name}": Sum(name) for name in COUNTED if not name.startswith(("errors_", "aborted"))},
    "sum_errors_4xx": Sum("requests", filter=Q(status__gte=400, status__lt=500), default=0),
    "sum_errors_5xx": Sum("requests", filter=Q(status__gte=500), default=0),
    "sum_aborted": Sum("requests", filter=Q(status=0), default=0),
}
# The id's column and the name's.
_COLUMNS: Mapping[By, tuple[str, str]] = {
    By.ENDPOINT: ("endpoint_id", "endpoint_name"),
    By.ACCOUNT: ("subject", "subject_name"),
    By.MODEL: ("model_id", "model_name"),
    By.DAY: ("hour", ""),
    By.HOUR: ("hour", ""),
}


def usage(project_id: str, span: Span, by: By, only: Only = Only()) -> Report:  # noqa: B008 - frozen
    """What was used, by what `by` says, most requests first; days and hours in their order, all of them.

    Replicas run for all callers: by account, or of one account alone, no time and no cost is told.
    """
    timeless = by == By.ACCOUNT or only.account is not None
    found: dict[str, Figures] = defaultdict(lambda: Figures(seconds=None if timeless else 0))
    _add_requests(found, _of(Usage, project_id, span, only), by)
    if not timeless:
        _add_time(found, _of(ReplicaTime, project_id, span, only), by)
    of_time = by in (By.DAY, By.HOUR)
    rows = _moments(found, span, by, timeless) if of_time else _named(found, project_id, span, by)
    return Report(span, by, tuple(rows), total_of(rows, timeless))


def total(project_id: str, span: Span, only: Only) -> Figures:
    """All of it together."""
    return usage(project_id, span, By.DAY, only).total


def _of(model: type[Usage] | type[ReplicaTime], project_id: str, span: Span, only: Only) -> QuerySet[Any]:
    rows: QuerySet[Any] = model._default_manager.filter(
        project_id=project_id, hour__gte=span.start, hour__lt=span.end
    )
    if only.endpoint is not None:
        rows = rows.filter(endpoint_id=only.endpoint)
    if only.model is not None:
        rows = rows.filter(model_id=only.model)
    if only.account is not None:
        rows = rows.filter(subject=only.account)
    return rows.order_by()


def _add_requests(found: dict[str, Figures], rows: QuerySet[Any], by: By) -> None:
    key = _COLUMNS[by][0]
    for row in rows.values(key).annotate(**_SUMS):
        found[_slot(row[key], by)].add({name: row[f"sum_{name}"] for name in COUNTED})


def _add_time(found: dict[str, Figures], rows: QuerySet[Any], by: By) -> None:
    key = _COLUMNS[by][0]
    for row in rows.values(key, "price_month", "currency").annotate(sum_seconds=Sum("seconds")):
        found[_slot(row[key], by)].ran(row["sum_seconds"], row["price_month"], row["currency"])


def _slot(value: str | datetime, by: By) -> str:
    if not isinstance(value, datetime):
        return value
    moment = value.astimezone(UTC)
    return f"{moment:%Y-%m-%d}" if by == By.DAY else f"{moment:%Y-%m-%dT%H:00Z}"


def _moments(found: Mapping[str, Figures], span: Span, by: By, timeless: bool) -> list[Row]:
    slots = [f"{day:%Y-%m-%d}" for day in span.days]
    if by == By.HOUR:
        slots = [f"{day}T{hour:02}:00Z" for day in slots for hour in range(24)]
    return [Row(slot, slot, found.get(slot) or Figures(seconds=None if timeless else 0)) for slot in slots]


def _named(found: Mapping[str, Figures], project_id: str, span: Span, by: By) -> list[Row]:
    present = _present(project_id, by, found.keys())
    gone = {key for key in found if key and key not in present}
    names = {**present, **(_last_names(project_id, span, by, gone) if gone else {})}
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


def _last_names(project_id: str, span: Span, by: By, gone: Collection[str]) -> dict[str, str]:
    """What those were called at last that are no more."""
    key, name = _COLUMNS[by]
    last: dict[str, tuple[datetime, str]] = {}
    tables: tuple[type[Usage] | type[ReplicaTime], ...] = (Usage, ReplicaTime)
    for model in tables[:1] if by == By.ACCOUNT else tables:
        rows = _of(model, project_id, span, Only()).exclude(**{name: ""})
        if len(gone) <= MOST_NAMED:
            rows = rows.filter(**{f"{key}__in": gone})
        for row in rows.values(key, name).annotate(last=Max("hour")):
            if row[key] not in last or row["last"] >= last[row[key]][0]:
                last[row[key]] = (row["last"], row[name])
    return {key: name for key, (_, name) in last.items()}


def name_of(project_id: str, by: By, key: str) -> str:
    """Today's name of one of them, the last one if it is gone, else its id. Another project's has none."""
    if not key:
        return _("Without a token") if by == By.ACCOUNT else _("Unknown")
    present = _present(project_id, by, {key})
    if key in present:
        return present[key]
    ever = Span(date(2020, 1, 1), date(9000, 1, 1))
    return _last_names(project_id, ever, by, {key}).get(key, key)
