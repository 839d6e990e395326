"""A report as a CSV file that spreadsheets open: UTF-8 with a mark that says so, and no cell that runs as a formula."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from django.http import StreamingHttpResponse

from config.csv_cells import safe
from endpoints.usage.figures import Figures, Report, Row

MEDIA_TYPE = "text/csv"
_MARK = "\ufeff"  # without it Excel takes the file for one of the machine's old code page
_AT_ONCE = 500
COLUMNS = (
    *("from", "to", "by", "id", "name", "requests", "errors_4xx", "errors_5xx", "aborted"),
    *("prompt_tokens", "completion_tokens", "estimated_requests", "unread_requests"),
    *("latency_ms", "first_byte_ms", "replica_hours"),
)


def answer(report: Report) -> StreamingHttpResponse:
    """The file as a download."""
    response = StreamingHttpResponse(pieces(report), content_type=f"{MEDIA_TYPE}; charset=utf-8")
    span = report.span
    name = f"berth-usage-{report.by}-{span.first:%Y%m%d}-{span.last:%Y%m%d}.csv"
    response["Content-Disposition"] = f'attachment; filename="{name}"'
    response["Cache-Control"] = "no-store"
    return response


async def pieces(report: Report) -> AsyncIterator[bytes]:
    """Some hundred rows at a time. What replicas cost has a column for each currency that occurs."""
    currencies = sorted(report.total.costs)
    yield (_MARK + _lines([[*COLUMNS, *(f"cost_{currency}" for currency in currencies)]])).encode()
    for start in range(0, len(report.rows), _AT_ONCE):
        rows = report.rows[start : start + _AT_ONCE]
        yield _lines(_cells(report, row, currencies) for row in rows).encode()


def _cells(report: Report, row: Row, currencies: Sequence[str]) -> list[Any]:
    span, figures = report.span, row.figures
    about = [span.first.isoformat(), span.last.isoformat(), report.by.value, safe(row.key), safe(row.name)]
    return [*about, *_figures(figures), *(_cost(figures, currency) for currency in currencies)]


def _figures(one: Figures) -> list[Any]:
    return [
        *(one.requests, one.errors_4xx, one.errors_5xx, one.aborted),
        *(one.prompt_tokens, one.completion_tokens, one.estimated, one.unread),
        *(_short(one.latency_ms, 1), _short(one.mean_first_byte_ms, 1), _short(one.replica_hours, 4)),
    ]


def _cost(one: Figures, currency: str) -> str:
    return "" if one.seconds is None else f"{one.costs.get(currency, 0):.4f}"


def _short(value: float | None, places: int) -> str:
    return "" if value is None else f"{value:.{places}f}"


def _lines(rows: Iterable[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
