"""The audit log as a file: CSV for spreadsheets, JSON Lines for programs. Written as it is read, page by page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import AsyncIterator, Callable
from datetime import UTC
from typing import Any

from asgiref.sync import sync_to_async
from django.db.models import QuerySet

from config.csv_cells import safe
from iam.models import AuditEvent

COLUMNS = (
    *(
        "id",
        "at",
        "actor_kind",
        "actor_id",
        "actor_name",
        "action",
        "target_kind",
        "target_id",
        "target_name",
    ),
    *("before", "after", "address", "request_id"),
)
_AT_ONCE = 500


def as_json(event: AuditEvent) -> dict[str, Any]:
    """One row; `at` is UTC, ISO 8601."""
    values = {name: getattr(event, name) for name in COLUMNS}
    return values | {"at": event.at.astimezone(UTC).isoformat(timespec="microseconds")}


def _csv_line(cells: list[str]) -> str:
    line = io.StringIO()
    csv.writer(line).writerow(cells)
    return line.getvalue()


def _csv(event: AuditEvent) -> str:
    values = as_json(event)
    for name in ("before", "after"):
        values[name] = json.dumps(values[name], ensure_ascii=False) if values[name] else ""
    return _csv_line([safe(str(values[name])) for name in COLUMNS])


def _jsonl(event: AuditEvent) -> str:
    return json.dumps(as_json(event), ensure_ascii=False) + "\n"


# format → (media type, first line, one row)
FORMATS: dict[str, tuple[str, str, Callable[[AuditEvent], str]]] = {
    "csv": ("text/csv; charset=utf-8", _csv_line(list(COLUMNS)), _csv),
    "jsonl": ("application/x-ndjson; charset=utf-8", "", _jsonl),
}


def _piece(rows: QuerySet[AuditEvent], last: int | None) -> list[AuditEvent]:
    wanted = rows if last is None else rows.filter(pk__lt=last)
    return list(wanted[:_AT_ONCE])


async def lines(rows: QuerySet[AuditEvent], form: str) -> AsyncIterator[bytes]:
    """The file, in pieces of some hundred rows. Each is a short query of its own: one that lasts as long as a slow
    download would hold back the database. What is added meanwhile is not in it.

    rows: newest first
    """
    _media, head, row = FORMATS[form]
    if head:
        yield head.encode()
    last: int | None = None
    while True:
        piece = await sync_to_async(_piece)(rows, last)
        if piece:
            yield "".join(map(row, piece)).encode()
            last = piece[-1].pk
        if len(piece) < _AT_ONCE:
            return
