"""What a page or a program asks for: days, a dimension, and what shall be counted alone. Pure."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta

from django.utils.translation import gettext as _

from endpoints.usage.figures import LONGEST_DAYS, By, Only, Span

DEFAULT_DAYS = 30
TOKENLESS = "none"  # the account of calls without a token, in addresses
DIMENSIONS = (By.ENDPOINT, By.ACCOUNT, By.MODEL, By.DAY)
# What ids are made of; the database is asked for nothing else.
_ID = re.compile(r"[A-Za-z0-9_-]{1,60}")
_DAY = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_MONTH = re.compile(r"\d{4}-\d\d", re.ASCII)
Errors = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Question:
    """errors: what was not understood, by parameter; the rest is then as if it had not been asked for."""

    span: Span
    by: By = By.ENDPOINT
    only: Only = field(default_factory=Only)
    errors: Errors = field(default_factory=dict)


def asked(params: Mapping[str, str], today: date) -> Question:
    """From an address' parameters: from, to, by, endpoint, account, model."""
    errors: Errors = {}
    span = _span(params, today, errors)
    by = params.get("by") or By.ENDPOINT
    if by not in DIMENSIONS:
        errors["by"] = [_("There are: %(names)s.") % {"names": ", ".join(DIMENSIONS)}]
        by = By.ENDPOINT
    return Question(span, By(by), only_of(params, errors), errors)


def only_of(params: Mapping[str, str], errors: Errors) -> Only:
    """What is to be counted alone; empty parameters count for nothing."""
    found: dict[str, str] = {}
    for name in ("endpoint", "account", "model"):
        value = params.get(name, "")
        if value and not _ID.fullmatch(value):
            errors[name] = [_("This is no id.")]
        elif value:
            found[name] = "" if name == "account" and value == TOKENLESS else value
    return Only(**found)


def last_days(count: int, today: date) -> Span:
    """So many days, today included."""
    return Span(today - timedelta(days=count - 1), today)


def month(text: str, today: date) -> Span | None:
    """The days of "2026-11" until today; None if that is no month, or one to come."""
    try:
        first = date.fromisoformat(f"{text}-01") if _MONTH.fullmatch(text) else None
    except ValueError:
        return None
    if first is None or first > today:
        return None
    last = first.replace(day=calendar.monthrange(first.year, first.month)[1])
    return Span(first, min(last, today))


def months(today: date, count: int = 12) -> list[date]:
    """First days of this month and those before it."""
    found = [today.replace(day=1)]
    while len(found) < count:
        found.append((found[-1] - timedelta(days=1)).replace(day=1))
    return found


def _span(params: Mapping[str, str], today: date, errors: Errors) -> Span:
    usual = last_days(DEFAULT_DAYS, today)
    first, last = _day(params, "from", errors), _day(params, "to", errors)
    if "from" in errors or "to" in errors:
        return usual
    last = min(last or today, today)
    first = first or last_days(DEFAULT_DAYS, last).first
    if first > last:
        errors["from"] = [_("The first day is after the last one, or lies in the future.")]
    elif (last - first).days >= LONGEST_DAYS:
        errors["from"] = [_("At most %(days)s days at once.") % {"days": LONGEST_DAYS}]
    return usual if errors else Span(first, last)


def _day(params: Mapping[str, str], name: str, errors: Errors) -> date | None:
    text = params.get(name, "")
    if not text:
        return None
    try:
        found = date.fromisoformat(text) if _DAY.fullmatch(text) else None
    except ValueError:  # well formed, and no such day
        found = None
    if found is None or found.year < 1971:
        errors[name] = [_("This is no day. Write it like 2026-11-22; days are UTC's.")]
        return None
    return found
