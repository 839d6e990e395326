"""What was used, over the API and as a file: shapes, filters, errors, and nothing of another project."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client
from django.utils import timezone

from endpoints.models import ReplicaTime, Usage
from endpoints.usage.api import UsageFiguresSerializer, UsageRowSerializer
from endpoints.usage.figures import Figures, Row
from iam.models import Project

pytestmark = pytest.mark.django_db
URL = "/api/v1/usage/"
HOUR = datetime(2026, 11, 20, 9, tzinfo=UTC)
DAYS = {"from": "2026-11-19", "to": "2026-11-21"}


@pytest.fixture(autouse=True)
def _today(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 22 November 2026."""
    monkeypatch.setattr(timezone, "now", lambda: datetime(2026, 11, 22, 8, tzinfo=UTC))


def used(project: Project, **fields: Any) -> None:
    plain: dict[str, Any] = {
        "hour": HOUR,
        "endpoint_id": "me-1",
        "endpoint_name": "embed",
        "model_id": "m-1",
        "model_name": "tiny",
        "subject": "sa-1",
        "subject_name": "batch",
        "status": 200,
        "requests": 10,
    }
    Usage.objects.create(project_id=project.id, **{**plain, **fields})


def ran(project: Project, **fields: Any) -> None:
    plain: dict[str, Any] = {
        "hour": HOUR,
        "endpoint_id": "me-1",
        "endpoint_name": "embed",
        "model_id": "m-1",
        "instance_type": "a",
        "price_month": Decimal(730),
        "seconds": 1800,
    }
    ReplicaTime.objects.create(project_id=project.id, **{**plain, **fields})


def body(answer: Any) -> str:
    """What was streamed."""

    async def collect() -> bytes:
        return b"".join([piece async for piece in answer.streaming_content])

    return async_to_sync(collect)().decode()


def test_the_whole_shape(viewer_client: Client, project: Project) -> None:
    used(project, prompt_tokens=100, completion_tokens=50, estimated=4, unread=1, duration_ms=2000)
    used(project, status=500, requests=1, first_byte_ms=30, first_bytes=2)
    used(project, status=429, requests=2)
    used(project, status=0, requests=3)
    ran(project)
    got = viewer_client.get(URL, DAYS).json()
    figures = {
        "requests": 16,
        "errors_4xx": 2,
        "errors_5xx": 1,
        "aborted": 3,
        "prompt_tokens": 100,
        "completion_tokens": 50,
        "estimated_requests": 4,
        "unread_requests": 1,
        "latency_ms": 125.0,
        "first_byte_ms": 15.0,
        "replica_hours": 0.5,
        "cost": [{"amount": "0.5000", "currency": "VND"}],
    }
    assert got == {
        **DAYS,
        "by": "endpoint",
        "results": [{"id": "me-1", "name": "embed", "exists": False, **figures}],
        "total": figures,
    }


def test_by_account_nobody_is_charged_for_replicas(viewer_client: Client, project: Project) -> None:
    used(project)
    used(project, subject="", status=401, requests=99)
    ran(project)
    got = viewer_client.get(URL, {**DAYS, "by": "account"}).json()
    assert [(row["id"], row["name"], row["requests"]) for row in got["results"]] == [
        ("", "Without a token", 99),
        ("sa-1", "batch", 10),
    ]
    assert {row["replica_hours"] for row in got["results"]} == {None}
    assert got["total"]["replica_hours"] is None
    assert got["total"]["cost"] == []


@pytest.mark.parametrize(
    ("asked", "requests"),
    [
        ({}, 30),
        ({"endpoint": "me-2"}, 20),
        ({"account": "sa-1"}, 10),
        ({"account": "none"}, 20),
        ({"model": "m-1"}, 30),
        ({"model": "m-9"}, 0),
        ({"endpoint": "me-2", "account": "sa-1"}, 0),
        ({"from": "2026-11-21"}, 0),
        ({"to": "2026-11-20"}, 30),
    ],
)
def test_filters(viewer_client: Client, project: Project, asked: dict[str, str], requests: int) -> None:
    used(project)
    used(project, endpoint_id="me-2", subject="", requests=20)
    assert viewer_client.get(URL, {**DAYS, **asked}).json()["total"]["requests"] == requests


def test_days_come_in_their_order_all_of_them(viewer_client: Client, project: Project) -> None:
    used(project)
    used(project, hour=HOUR.replace(hour=0))
    rows = viewer_client.get(URL, {**DAYS, "by": "day"}).json()["results"]
    assert [(row["id"], row["requests"]) for row in rows] == [
        ("2026-11-19", 0),
        ("2026-11-20", 20),
        ("2026-11-21", 0),
    ]


def test_thirty_days_until_today_if_nothing_is_said(viewer_client: Client, project: Project) -> None:
    got = viewer_client.get(URL).json()
    assert (got["from"], got["to"]) == ("2026-10-24", "2026-11-22")
    later = viewer_client.get(URL, {"to": "2027-05-05"}).json()
    assert later["to"] == "2026-11-22"
    assert viewer_client.get(URL, {"to": "2026-10-01"}).json()["from"] == "2026-09-02"


@pytest.mark.parametrize(
    ("asked", "field"),
    [
        ({"from": "yesterday"}, "from"),
        ({"from": "2026-02-30"}, "from"),
        ({"to": "2026-13-01"}, "to"),
        ({"from": "2026-11-22", "to": "2026-11-21"}, "from"),
        ({"from": "2030-01-01"}, "from"),
        ({"from": "2020-01-01"}, "from"),
        ({"from": "0001-01-01"}, "from"),
        ({"to": "0001-01-02"}, "to"),
        ({"from": "٢٠٢٦-11-22"}, "from"),
        ({"by": "hour"}, "by"),
        ({"by": "galaxy"}, "by"),
        ({"endpoint": "me-1\x00"}, "endpoint"),
        ({"model": "' OR 1=1"}, "model"),
        ({"account": "x" * 61}, "account"),
    ],
)
@pytest.mark.parametrize("accept", ["application/json", "text/csv"])
def test_what_is_not_understood_is_a_problem_with_its_field(
    viewer_client: Client, asked: dict[str, str], field: str, accept: str
) -> None:
    answer = viewer_client.get(URL, asked, headers={"accept": accept})
    assert answer.status_code == 400
    assert answer["Content-Type"] == "application/problem+json"
    assert list(answer.json()["errors"]) == [field]


def test_another_projects_usage_is_not_there(
    viewer_client: Client, outsider_client: Client, other_project: Project, project: Project
) -> None:
    """Neither by its ids nor in the sums."""
    used(other_project, endpoint_id="me-theirs", subject="sa-theirs", model_id="m-theirs")
    ran(other_project, endpoint_id="me-theirs", model_id="m-theirs")
    for asked in ({}, {"endpoint": "me-theirs"}, {"account": "sa-theirs"}, {"model": "m-theirs"}):
        for by in ("endpoint", "account", "model"):
            got = viewer_client.get(URL, {**DAYS, **asked, "by": by}).json()
            assert (got["results"], got["total"]["requests"]) == ([], 0)
    assert outsider_client.get(URL, DAYS).json()["total"]["requests"] == 10
    assert outsider_client.get(URL, {**DAYS, "project": project.id}).status_code == 404


def test_nobody_is_told_without_signing_in(client: Client, project: Project) -> None:
    assert client.get(URL).status_code in (401, 403)


# ---- the file


def rows_of(answer: Any) -> list[dict[str, str]]:
    assert answer.status_code == 200
    assert answer["Content-Type"] == "text/csv; charset=utf-8"
    text = body(answer)
    assert text.startswith("\ufeff")  # Excel knows by this that it is UTF-8
    return list(csv.DictReader(io.StringIO(text.removeprefix("\ufeff"))))


def test_the_same_as_a_file(viewer_client: Client, project: Project) -> None:
    used(project, endpoint_name="nhúng-tiếng-Việt", prompt_tokens=7, duration_ms=1234)
    ran(project)
    ran(project, currency="USD", seconds=3600)
    answer = viewer_client.get(URL, DAYS, headers={"accept": "text/csv"})
    assert answer["Content-Disposition"] == (
        'attachment; filename="berth-usage-endpoint-20261119-20261121.csv"'
    )
    assert rows_of(answer) == [
        {
            **DAYS,
            "by": "endpoint",
            "id": "me-1",
            "name": "embed",  # the replicas' row is as young, and says so
            "requests": "10",
            "errors_4xx": "0",
            "errors_5xx": "0",
            "aborted": "0",
            "prompt_tokens": "7",
            "completion_tokens": "0",
            "estimated_requests": "0",
            "unread_requests": "0",
            "latency_ms": "123.4",
            "first_byte_ms": "",
            "replica_hours": "1.5000",
            "cost_USD": "1.0000",
            "cost_VND": "0.5000",
        }
    ]


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\t=1", "tiếng Việt", 'a"b,c']
)
def test_no_cell_is_a_formula(viewer_client: Client, project: Project, name: str) -> None:
    used(project, subject_name=name)
    row = rows_of(viewer_client.get(URL, {**DAYS, "by": "account"}, headers={"accept": "text/csv"}))[0]
    dangerous = name[0] in "=+-@\t"
    assert row["name"] == (f"'{name}" if dangerous else name)


def test_many_rows_come_in_pieces(viewer_client: Client, project: Project) -> None:
    at = HOUR - timedelta(hours=1)
    Usage.objects.bulk_create(
        Usage(hour=at, project_id=project.id, endpoint_id=f"me-{number}", status=200, requests=1)
        for number in range(1203)
    )
    answer = viewer_client.get(URL, DAYS, headers={"accept": "text/csv"})
    found = rows_of(answer)
    assert len({row["id"] for row in found}) == 1203


def test_a_row_has_the_fields_that_the_schema_tells() -> None:
    row = Row("me-1", "one", Figures())
    assert set(UsageRowSerializer(row).data) == set(UsageRowSerializer().fields)
    assert set(UsageFiguresSerializer(Figures()).data) == set(UsageFiguresSerializer().fields)
