"""Figures of what was used, in words: `{% load usage %}`.

{{ figures|money }}      "VND 1,234 + USD 2.50"
{{ 1834.2|duration }}    "1.8 s"
{% sorted_by query "requests" as link %}   a column's link
{% narrowed query "endpoint" row.key as address %}   the same page, of that one alone
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from django import template

from endpoints.numbers import decimal
from endpoints.usage.figures import By, Figures
from endpoints.usage.page import UsageQuery

register = template.Library()


@register.filter
def money(figures: Figures) -> str:
    """Each currency's sum; "–" where nothing is to be paid, or nobody can say."""
    return " + ".join(_amount(float(sum_), name) for name, sum_ in sorted(figures.costs.items())) or "–"


def _amount(amount: float, currency: str) -> str:
    """As static/js/endpoint-form.js writes prices."""
    places = 0 if amount >= 1000 or amount == int(amount) else 2
    return f"{currency}\u00a0{decimal(amount, places, grouped=True)}"


@register.filter
def duration(ms: float | None) -> str:
    """Milliseconds up to ten seconds' worth of figures: "820 ms", "1.8 s", "12 s"; "–" for None."""
    if ms is None:
        return "–"
    if ms < 1000:
        return f"{ms:.0f}\u00a0ms"
    return f"{decimal(ms / 1000, 1 if ms < 10_000 else 0)}\u00a0s"


@register.filter
def hours(value: float | None) -> str:
    """Replica-hours."""
    if value is None:
        return "–"
    return decimal(value, 0 if value >= 100 else 2, grouped=True)


@register.filter
def percent(part: int, whole: int) -> str:
    """ "0.4", "12": per cent without its sign; "0" of nothing."""
    share = part / whole * 100 if whole else 0.0
    return decimal(share, 0 if share >= 10 or share == int(share) else 1)


@dataclass(frozen=True, slots=True)
class SortLink:
    """query: of the address. direction: of the present order by this column, "" for another one."""

    query: str
    direction: str


@register.simple_tag
def sorted_by(query: UsageQuery, key: str) -> SortLink:
    """By this column: figures from the greatest on, names from A; a second click turns it round."""
    first, second = (key, f"-{key}") if key == "name" else (f"-{key}", key)
    wanted = second if query.sort == first else first
    directions = {key: "ascending", f"-{key}": "descending"}
    return SortLink(query.url_query(sort=wanted, page=1), directions.get(query.sort, ""))


@register.simple_tag
def narrowed(query: UsageQuery, by: str, key: str) -> str:
    """To one endpoint, account or model, by day; "" where there is none."""
    if by == By.DAY or (not key and by != By.ACCOUNT):
        return ""
    only = replace(query.only, **{by: key})
    return query.url_query(only=only, by=By.DAY, page=1, sort="")


@register.simple_tag
def with_changes(query: UsageQuery, **changes: object) -> str:
    """The address' query with something else; always begins with the first page."""
    return query.url_query(**{"page": 1, **changes})
