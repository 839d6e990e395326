"""What the Usage page shows, and in which order: from an address' parameters to sorted, numbered rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from django.utils.translation import gettext_lazy as _

from endpoints.models import Endpoint
from endpoints.usage.asking import DEFAULT_DAYS, DIMENSIONS, TOKENLESS, last_days, month, only_of
from endpoints.usage.figures import By, Figures, Only, Row, Span
from endpoints.usage.query import total

if TYPE_CHECKING:
    from django_stubs_ext import StrOrPromise

ROWS = 50
RANGES: dict[str, tuple[int, StrOrPromise]] = {
    "today": (1, _("Today")),
    "7d": (7, _("7 days")),
    "30d": (DEFAULT_DAYS, _("30 days")),
    "90d": (90, _("90 days")),
}
DEFAULT_RANGE = "30d"
TABS: dict[By, StrOrPromise] = {
    By.ENDPOINT: _("Endpoints"),
    By.ACCOUNT: _("Accounts"),
    By.MODEL: _("Models"),
    By.DAY: _("Days"),
}


def _cost(one: Figures) -> float:
    return float(max(one.costs.values(), default=0))


# Column → what rows are sorted by; those with nothing to say come last.
SORTS: dict[str, Callable[[Row], float | str]] = {
    "name": lambda row: row.name.lower(),
    "requests": lambda row: row.figures.requests,
    "errors": lambda row: row.figures.errors,
    "aborted": lambda row: row.figures.aborted,
    "prompt": lambda row: row.figures.prompt_tokens,
    "completion": lambda row: row.figures.completion_tokens,
    "latency": lambda row: row.figures.latency_ms or 0.0,
    "first_byte": lambda row: row.figures.mean_first_byte_ms or 0.0,
    "hours": lambda row: row.figures.seconds or 0,
    "cost": lambda row: _cost(row.figures),
}


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """range: a key of RANGES, or a month as 2026-11. sort: a key of SORTS, with - in front for the greatest first; "":
    as the report comes."""

    range: str = DEFAULT_RANGE
    by: By = By.ENDPOINT
    only: Only = Only()  # noqa: RUF009 - frozen
    sort: str = ""
    page: int = 1

    def url_query(self, **changes: object) -> str:
        """For links: what is usual is left out."""
        new = replace(self, **changes)  # type: ignore[arg-type]
        account = TOKENLESS if new.only.account == "" else new.only.account
        values = {
            "range": "" if new.range == DEFAULT_RANGE else new.range,
            "by": "" if new.by == By.ENDPOINT else new.by.value,
            "endpoint": new.only.endpoint,
            "account": account,
            "model": new.only.model,
            "sort": new.sort,
            "page": "" if new.page == 1 else str(new.page),
        }
        return urlencode({name: value for name, value in values.items() if value})


def parse(params: Mapping[str, str], today: date) -> tuple[UsageQuery, Span]:
    """What is not understood is as if it had not been asked for: a page's address is no form."""
    chosen = params.get("range", DEFAULT_RANGE)
    span = last_days(RANGES[chosen][0], today) if chosen in RANGES else month(chosen, today)
    if span is None:
        chosen, span = DEFAULT_RANGE, last_days(DEFAULT_DAYS, today)
    by = params.get("by", "")
    sort = params.get("sort", "")
    number = params.get("page", "")
    query = UsageQuery(
        range=chosen,
        by=By(by) if by in DIMENSIONS else By.ENDPOINT,
        only=only_of(params, {}),
        sort=sort if sort.removeprefix("-") in SORTS else "",
        page=int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1,
    )
    return query, span


@dataclass(frozen=True, slots=True)
class Month:
    """What came together in a month. query: of the Usage page's address."""

    figures: Figures
    query: str


def this_month(endpoint: Endpoint, today: date) -> Month:
    """What an endpoint has used since the month's first day: two queries."""
    name, only = f"{today:%Y-%m}", Only(endpoint=endpoint.pk)
    figures = total(endpoint.project_id, Span(today.replace(day=1), today), only)
    return Month(figures, UsageQuery(range=name, by=By.DAY, only=only).url_query())


def ordered(rows: tuple[Row, ...], sort: str, by: By) -> list[Row]:
    """Sorted; as they are without `sort`, but days from the newest on."""
    if not sort:
        return list(reversed(rows)) if by == By.DAY else list(rows)
    return sorted(rows, key=SORTS[sort.removeprefix("-")], reverse=sort.startswith("-"))


# ---- the chart

WIDTH, HEIGHT = 1000, 100  # of the view box; the page stretches it
_GAP = 0.22  # of a slot


@dataclass(frozen=True, slots=True)
class Bar:
    """One day or hour. x, width, y, height: of the view box; errors: the height of that part, from the ground up."""

    row: Row
    x: float
    width: float
    y: float
    height: float
    errors_y: float
    errors: float


@dataclass(frozen=True, slots=True)
class Chart:
    """Requests by day, or by hour of today. top: the requests at the upper edge."""

    bars: tuple[Bar, ...]
    top: int


def chart(rows: tuple[Row, ...]) -> Chart:
    """Of rows in the order of time."""
    top = max((row.figures.requests for row in rows), default=0) or 1
    slot = WIDTH / max(len(rows), 1)
    bars = []
    for number, row in enumerate(rows):
        height = _visible(row.figures.requests, top)
        errors = min(_visible(row.figures.errors, top), height)
        place = (round(number * slot + slot * _GAP / 2, 2), round(slot * (1 - _GAP), 2))
        bars.append(Bar(row, *place, round(HEIGHT - height, 2), height, round(HEIGHT - errors, 2), errors))
    return Chart(tuple(bars), top)


def _visible(count: int, top: int) -> float:
    """Whatever there is shows."""
    return round(max(count / top * HEIGHT, 1.2), 2) if count else 0.0
