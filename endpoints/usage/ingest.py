"""Counts the gateways' access logs: what each request used, once.

A gateway ships whole lines with the position from which they are (gateway.shipping). They are counted in one
transaction with the new position, and only if the position before was the one that the gateway believes: what is
shipped twice, or late, counts once. A gateway that lost its home has another log, with a position of its own
(gateway.access_logs). What is no line of a log is left out and named in ours, it holds up nothing.

Everything in a line is untrusted: gateway.request_line bounds it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connection, transaction
from django.db.models import QuerySet
from django.db.models.functions import Coalesce

from endpoints.models import Endpoint, LastUse, LogPosition, Usage
from endpoints.usage import token_counts
from endpoints.usage.adding import add
from gateway.access_logs import START, Position
from gateway.control import Shipment
from gateway.request_line import NOBODY, NoRequestLine, Request, lines_of, parse
from iam.models import ApiKey, ServiceAccount

log = logging.getLogger(__name__)

KEY = ("hour", "project_id", "endpoint_id", "model_id", "subject", "status")
SUMMED = (
    *("requests", "prompt_tokens", "completion_tokens", "estimated", "unread", "duration_ms"),
    *("first_byte_ms", "first_bytes", "bytes_in", "bytes_out"),
)
NAMES = ("endpoint_name", "model_name", "subject_name")


class NotNext(Exception):
    """These lines do not follow what is counted of this gateway's log, which is `stored`."""

    def __init__(self, stored: Position) -> None:
        super().__init__(str(stored))
        self.stored = stored


def ingest(gateway: str, shipment: Shipment, lines: bytes, now: datetime) -> Position:
    """Count the lines of a shipment; the position after them. Raises NotNext, DatabaseError."""
    _check(shipment, stored(gateway, shipment.begin.log))  # before all the work
    counted = Counted()
    for line in lines_of(lines):
        counted.take(line)
    if counted.unreadable:
        log.warning("%d lines of %s's access log cannot be read: %s", *counted.unreadable_of(gateway))
    facts = _facts(counted)
    end = Position(shipment.begin.file, shipment.begin.offset + len(lines))
    with transaction.atomic():
        _check(shipment, _locked(gateway, end.log))
        _write(counted, facts)
        known = {subject: used for subject, used in counted.tokens.items() if facts.knows(subject[0])}
        token_counts.count(gateway, known, now)
        _rows(gateway, end.log).update(file=end.file, offset=end.offset, updated_at=now)
    return end


def _check(shipment: Shipment, counted: Position) -> None:
    after = shipment.after if shipment.after.log == shipment.begin.log else START
    if counted != after or shipment.begin < counted:
        raise NotNext(counted)


def stored(gateway: str, log: str) -> Position:
    """Up to where that log of a gateway's is counted."""
    row = _rows(gateway, log).values_list("file", "offset").first()
    return Position(*row) if row else START


def _locked(gateway: str, log: str) -> Position:
    rows = _rows(gateway, log)
    if not rows.exists():
        LogPosition.objects.bulk_create(
            [LogPosition(gateway=gateway, log=log, file="")], ignore_conflicts=True
        )
    return Position(*rows.select_for_update().values_list("file", "offset").get())


def _rows(gateway: str, log: str) -> QuerySet[LogPosition]:
    return LogPosition.objects.filter(gateway=gateway, log=log)


# --- adding up --------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Sum:
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated: int = 0
    unread: int = 0
    duration_ms: int = 0
    first_byte_ms: int = 0
    first_bytes: int = 0
    bytes_in: int = 0
    bytes_out: int = 0


_Key = tuple[int, str, str, int]  # hour since 1970, endpoint, subject, status


@dataclass(slots=True)
class Counted:
    """Lines, added up. No database.

    tokens     (subject or endpoint, minute since 1970) → tokens
    last_use   (subject, endpoint) → (seconds since 1970, address)
    passed     endpoint → a subject that it let in
    """

    sums: dict[_Key, _Sum] = field(default_factory=dict)
    tokens: dict[tuple[str, int], int] = field(default_factory=dict)
    last_use: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    passed: dict[str, str] = field(default_factory=dict)
    unreadable: int = 0
    problem: str = ""

    def take(self, line: str) -> None:
        """Add a line of a log."""
        try:
            request = parse(line)
        except NoRequestLine as problem:
            self.unreadable += 1
            self.problem = str(problem)[:200]
            return
        if request is not None:
            self.add(request)

    def add(self, request: Request) -> None:
        """Add a request."""
        key = (request.at // 3600, request.endpoint, request.subject, request.status)
        total = self.sums.get(key)
        if total is None:
            total = self.sums[key] = _Sum()
        total.requests += 1
        total.prompt_tokens += request.prompt_tokens
        total.completion_tokens += request.completion_tokens
        total.estimated += request.estimated
        total.unread += request.unread
        total.duration_ms += request.duration_ms
        if request.first_byte_ms is not None:
            total.first_byte_ms += request.first_byte_ms
            total.first_bytes += 1
        total.bytes_in += request.bytes_in
        total.bytes_out += request.bytes_out
        self._add_tokens(request)
        if request.subject != NOBODY and not request.refused:
            self.passed[request.endpoint] = request.subject
            self._add_use(request)

    def _add_tokens(self, request: Request) -> None:
        used = request.prompt_tokens + request.completion_tokens
        if used:
            minute = request.at // 60
            for subject in (request.endpoint, request.subject):
                if subject != NOBODY:
                    self.tokens[subject, minute] = self.tokens.get((subject, minute), 0) + used

    def _add_use(self, request: Request) -> None:
        pair = (request.subject, request.endpoint)
        if self.last_use.get(pair, (0, ""))[0] <= request.at:
            self.last_use[pair] = (request.at, request.client)

    def unreadable_of(self, gateway: str) -> tuple[int, str, str]:
        """For the log."""
        return self.unreadable, gateway, self.problem

    @property
    def endpoint_ids(self) -> set[str]:
        """All that were called."""
        return {key[1] for key in self.sums}

    @property
    def subjects(self) -> set[str]:
        """All that called."""
        return {key[2] for key in self.sums if key[2] != NOBODY}


# --- what ids are -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of an endpoint."""

    project_id: str
    name: str = ""
    model_id: str = ""
    model_name: str = ""


@dataclass(frozen=True, slots=True)
class _Caller:
    """A service account or an API key."""

    project_id: str
    name: str


@dataclass(frozen=True, slots=True)
class _Facts:
    """By id."""

    places: Mapping[str, _Place]
    callers: Mapping[str, _Caller]

    def knows(self, subject: str) -> bool:
        """Whether it is, or was, an endpoint or a caller."""
        return subject in self.places or subject in self.callers

    def shown(self, subject: str, place: _Place, status: int) -> str:
        """Another project's caller was told that there is no such endpoint: who that is, is nobody's business here."""
        caller = self.callers.get(subject)
        known = status != 404 if caller is None else caller.project_id == place.project_id
        return subject if known else NOBODY

    def name(self, subject: str) -> str:
        """What they are called, "" if they are gone."""
        return self.callers[subject].name if subject in self.callers else ""


def _facts(counted: Counted) -> _Facts:
    """From the database, in a few queries whatever was shipped."""
    places = _present_places(counted.endpoint_ids)
    callers: dict[str, _Caller] = {}
    for model in (ServiceAccount, ApiKey):
        rows = model.objects.filter(id__in=counted.subjects)
        for subject, project, name in rows.values_list("id", "project_id", "name"):
            callers[subject] = _Caller(str(project), name)
    gone = counted.endpoint_ids - places.keys()
    if gone:
        places |= _past_places(gone)
        for endpoint_id in gone - places.keys():  # whoever was let in belongs to its project
            caller = callers.get(counted.passed.get(endpoint_id, NOBODY))
            if caller is not None:
                places[endpoint_id] = _Place(caller.project_id)
    return _Facts(places, callers)


_PAST = 1000


def _present_places(endpoint_ids: Iterable[str]) -> dict[str, _Place]:
    """The model is that of the revision that serves, while a new one is rolled out."""
    rows = (
        Endpoint.objects.filter(id__in=endpoint_ids)
        .annotate(
            served_id=Coalesce("stable_revision__model_id", "revision__model_id"),
            served_name=Coalesce("stable_revision__model__name", "revision__model__name"),
        )
        .values_list("id", "project_id", "name", "served_id", "served_name")
    )
    return {
        endpoint_id: _Place(str(project), name, str(model_id or ""), model_name or "")
        for endpoint_id, project, name, model_id, model_name in rows
    }


def _past_places(endpoint_ids: Iterable[str]) -> dict[str, _Place]:
    """Of endpoints that are deleted: as their usage was counted last."""
    rows = Usage.objects.filter(endpoint_id__in=endpoint_ids).order_by("-hour")
    columns = ("endpoint_id", "project_id", "endpoint_name", "model_id", "model_name")
    return {row[0]: _Place(*row[1:]) for row in reversed(rows.values_list(*columns)[:_PAST])}


# --- writing ----------------------------------------------------------------------------------------------


def _write(counted: Counted, facts: _Facts) -> None:
    add(Usage, _usage_rows(counted, facts), key=KEY, summed=SUMMED, latest=NAMES)
    _write_uses({pair: use for pair, use in counted.last_use.items() if pair[0] in facts.callers})


def _usage_rows(counted: Counted, facts: _Facts) -> list[dict[str, Any]]:
    """Requests to what was never an endpoint count nowhere."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for (hour, endpoint_id, caller, status), total in counted.sums.items():
        place = facts.places.get(endpoint_id)
        if place is None:
            continue
        subject = facts.shown(caller, place, status)
        key = (hour, endpoint_id, subject, status)
        row = rows.get(key)
        if row is None:
            row = rows[key] = {
                "hour": datetime.fromtimestamp(hour * 3600, UTC),
                "project_id": place.project_id,
                "endpoint_id": endpoint_id,
                "endpoint_name": place.name,
                "model_id": place.model_id,
                "model_name": place.model_name,
                "subject": subject,
                "subject_name": facts.name(subject),
                "status": status,
            } | dict.fromkeys(SUMMED, 0)
        for name in SUMMED:
            row[name] += getattr(total, name)
    return list(rows.values())


def _write_uses(uses: Mapping[tuple[str, str], tuple[int, str]]) -> None:
    """An older use than the one that is known changes nothing: gateways ship in any order."""
    rows, latest = [], dict[str, int]()
    for (subject, endpoint_id), (at, address) in uses.items():
        moment = datetime.fromtimestamp(at, UTC)
        rows.append({"subject": subject, "endpoint_id": endpoint_id, "address": address, "at": moment})
        latest[subject] = max(at, latest.get(subject, at))
    add(
        LastUse,
        rows,
        key=("subject", "endpoint_id"),
        summed=(),
        latest=("address", "at"),
        newest_by="at",
    )
    moments = {subject: datetime.fromtimestamp(at, UTC) for subject, at in latest.items()}
    for model in (ServiceAccount, ApiKey):
        _note_use(model, moments)


def _note_use(model: type[ServiceAccount] | type[ApiKey], latest: Mapping[str, datetime]) -> None:
    quote = connection.ops.quote_name
    table, used = quote(model._meta.db_table), quote("last_used_at")
    adapt = connection.ops.adapt_datetimefield_value
    # The names are the models' own, the values are parameters.
    statement = f"UPDATE {table} SET {used} = %s WHERE id = %s AND ({used} IS NULL OR {used} < %s)"  # noqa: S608
    with connection.cursor() as cursor:
        cursor.executemany(
            statement, [(adapt(at), subject, adapt(at)) for subject, at in sorted(latest.items())]
        )
