"""Reading a project's audit log: what is asked for, and the rows, newest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import urlencode

from django.core.exceptions import ValidationError
from django.db.models import Q, QuerySet
from django.utils.dateparse import parse_date, parse_datetime
from django.utils.translation import gettext as _

from iam.audit_words import KINDS
from iam.models import AuditEvent, Project

PAGE = 50
_LONGEST = 200  # characters of anything asked for


@dataclass(frozen=True, slots=True)
class AuditQuery:
    """What to show. "" and None: everything.

    actor    an id, or part of a name
    action   "endpoint.pause", or "endpoint" for all that is done to endpoints
    target   an id, a kind, or part of a name
    text     part of any id, name, address or request id
    since    not before; until: before
    cursor   rows older than the one of that id
    """

    actor: str = ""
    action: str = ""
    target: str = ""
    text: str = ""
    since: datetime | None = None
    until: datetime | None = None
    cursor: int | None = None

    @property
    def narrowed(self) -> bool:
        """Whether anything is left out."""
        return replace(self, cursor=None) != AuditQuery()

    def filters(self) -> dict[str, str]:
        """As `parse` reads them, without the cursor; only what is set. For links, and for the record of an export."""
        named = {"actor": self.actor, "action": self.action, "target": self.target, "text": self.text}
        moments = {"from": self.since, "to": self.until}
        told = {name: value for name, value in named.items() if value}
        return told | {name: moment.isoformat() for name, moment in moments.items() if moment}

    def address(self, **more: int) -> str:
        """The query part of a link to it."""
        return urlencode({**self.filters(), **more})


def parse(asked: Mapping[str, str]) -> AuditQuery:
    """From a request's parameters. Raises ValidationError({name: [..]}) for what can't be read."""
    errors: dict[str, list[str]] = {}

    def moment(name: str, *, end: bool) -> datetime | None:
        text = _clean(asked.get(name, ""))
        try:
            return _moment(text, end=end) if text else None
        except (ValueError, OverflowError):
            errors[name] = [_("Write a date like 2026-11-22 or a time like 2026-11-22T10:15:00Z.")]
            return None

    query = AuditQuery(
        actor=_clean(asked.get("actor", "")),
        action=_clean(asked.get("action", "")),
        target=_clean(asked.get("target", "")),
        text=_clean(asked.get("text", "")),
        since=moment("from", end=False),
        until=moment("to", end=True),
    )
    before = _clean(asked.get("before", ""))
    if before:
        if not before.isdecimal() or len(before) > 18:
            errors["before"] = [_("This is no row of the audit log.")]
        else:
            query = replace(query, cursor=int(before))
    if errors:
        raise ValidationError(errors)
    return query


def events(project: Project, query: AuditQuery) -> QuerySet[AuditEvent]:
    """The rows of the project that are asked for. Acts that belong to no project are in no project's log."""
    rows = AuditEvent.objects.filter(project_id=project.pk)
    if query.cursor is not None:
        rows = rows.filter(pk__lt=query.cursor)
    if query.actor:
        rows = rows.filter(Q(actor_id=query.actor) | Q(actor_name__icontains=query.actor))
    if query.action:
        rows = rows.filter(Q(action=query.action) | Q(action__startswith=f"{query.action}."))
    if query.target:
        rows = rows.filter(_target(query.target))
    if query.text:
        rows = rows.filter(_text(query.text))
    if query.since:
        rows = rows.filter(at__gte=query.since)
    if query.until:
        rows = rows.filter(at__lt=query.until)
    return rows.order_by("-pk")


def page(project: Project, query: AuditQuery) -> tuple[list[AuditEvent], int | None]:
    """One page of rows, and the cursor of the next one. One query."""
    rows = list(events(project, query)[: PAGE + 1])
    return rows[:PAGE], rows[PAGE - 1].pk if len(rows) > PAGE else None


def _target(asked: str) -> Q:
    if asked in KINDS:
        return Q(target_kind=asked)
    return Q(target_id=asked) | Q(target_name__icontains=asked)


def _text(text: str) -> Q:
    columns = ("target_id", "target_name", "actor_id", "actor_name", "address", "request_id")
    wanted = Q()
    for column in columns:
        wanted |= Q(**{f"{column}__icontains": text})
    return wanted


def _clean(text: str) -> str:
    # A NUL is in no row, and PostgreSQL refuses to look for it.
    return text.replace("\x00", "").strip()[:_LONGEST]


def _moment(text: str, *, end: bool) -> datetime:
    """A whole day counts to its end. Without a zone it is UTC."""
    day: date | None = parse_date(text) if len(text) == 10 else None
    if day is not None:
        return datetime.combine(day, time(), UTC) + timedelta(days=1 if end else 0)
    found = parse_datetime(text) or parse_datetime(text.replace(" ", "+"))  # a plus that was not encoded
    if found is None:
        raise ValueError(text)
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
