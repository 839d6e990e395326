"""The Usage page: who sees what, its ranges, dimensions, order, links and file; and the month on the Metrics tab."""

from __future__ import annotations

import html
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from endpoints.models import Endpoint, ReplicaTime, Usage
from iam.actors import Actor
from iam.models import Project, ServiceAccount
from tests.support_endpoints import load_data, new_endpoint
from tests.unit.test_usage_api import rows_of

pytestmark = pytest.mark.django_db
URL = "/usage/"
NOW = datetime(2026, 11, 22, 8, 20, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _today(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is 22 November 2026."""
    monkeypatch.setattr(timezone, "now", lambda: NOW)


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


def used(project: Project, **fields: Any) -> None:
    plain: dict[str, Any] = {
        "hour": NOW - timedelta(days=2),
        "endpoint_id": "me-1",
        "status": 200,
        "requests": 10,
    }
    Usage.objects.create(project_id=project.id, **{**plain, **fields})


def words(answer: Any) -> str:
    """What a reader sees."""
    text = re.sub(r"<(title|svg|select).*?</\1>", " ", answer.content.decode(), flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())


def first_cells(answer: Any) -> list[str]:
    found = re.findall(r'<th scope="row".*?</th>', answer.content.decode(), flags=re.DOTALL)
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", " ", cell)).split()) for cell in found]


def fill(project: Project, endpoint: Endpoint) -> ServiceAccount:
    account = ServiceAccount.objects.create(project=project, name="nightly")
    mine = {"endpoint_id": endpoint.id, "subject": account.id, "model_id": "m-1", "model_name": "tiny"}
    used(project, **mine, prompt_tokens=1200, completion_tokens=34_567, estimated=4, duration_ms=15_000)
    used(project, **mine, status=503, requests=2, unread=1)
    used(project, endpoint_id="me-gone", endpoint_name="old", model_id="m-1", requests=3, status=0)
    ReplicaTime.objects.create(
        hour=NOW - timedelta(days=2),
        project_id=project.id,
        endpoint_id=endpoint.id,
        model_id="m-1",
        instance_type="a",
        price_month=Decimal(7_300_000),
        seconds=7200,
    )
    return account


def test_totals_rows_and_what_is_estimated(
    viewer_client: Client, project: Project, endpoint: Endpoint
) -> None:
    fill(project, endpoint)
    answer = viewer_client.get(URL)
    page = words(answer)
    assert "Requests 15 Errors 2 13 %" in page
    assert "0 of 4xx, 2 of 5xx; 3 broken off" in page
    assert "Tokens 35,767 1,200 read, 34,567 generated 4 requests estimated 1 not read" in page
    assert "Replica hours 2.00 VND 20,000" in page
    assert first_cells(answer) == ["embed-01", "old deleted"]
    assert 'aria-current="page"><svg' in answer.content.decode()  # the menu's entry


def test_every_dimension_has_its_rows_and_its_file(
    viewer_client: Client, project: Project, endpoint: Endpoint
) -> None:
    fill(project, endpoint)
    expected = {
        "endpoint": ["embed-01", "old deleted"],
        "account": ["nightly", "Without a token"],
        "model": ["tiny deleted"],
        "day": [f"2026-11-{day}" for day in (22, 21, 20, 19, 18, 17, 16)],
    }
    for by, rows in expected.items():
        page = viewer_client.get(URL, {"by": by, "range": "7d"})
        assert first_cells(page) == rows
        address = re.search(r'href="(/usage/usage\.csv\?[^"]*)"', page.content.decode())
        assert address
        file = rows_of(viewer_client.get(html.unescape(address[1])))
        assert sum(int(row["requests"]) for row in file) == 15
        assert {row["by"] for row in file} == {by}
    assert "their hours are no single account's" in words(viewer_client.get(URL, {"by": "account"}))


def test_narrowed_by_a_click_and_wide_again(
    viewer_client: Client, project: Project, endpoint: Endpoint
) -> None:
    account = fill(project, endpoint)
    page = viewer_client.get(URL, {"by": "account"}).content.decode()
    assert f'href="/usage/?by=day&amp;account={account.id}"' in page
    assert 'href="/usage/?by=day&amp;account=none"' in page
    narrowed = viewer_client.get(URL, {"by": "day", "account": account.id, "endpoint": endpoint.id})
    assert "Only Account nightly Show all" not in words(narrowed)  # endpoint first
    assert "Only Endpoint embed-01 Show all Account nightly Show all" in words(narrowed)
    assert "Requests 12 Errors" in words(narrowed)
    assert f'href="/usage/?by=day&amp;account={account.id}"' in narrowed.content.decode()
    tokenless = viewer_client.get(URL, {"account": "none"})
    assert "Account Without a token" in words(tokenless)
    assert "Requests 3 Errors" in words(tokenless)


@pytest.mark.parametrize(
    ("sort", "first"),
    [("", "me-2"), ("requests", "me-1"), ("-requests", "me-2"), ("name", "me-1"), ("-name", "me-3"),
     ("-errors", "me-3"), ("-latency", "me-1"), ("nonsense", "me-2")],
)  # fmt: skip
def test_sorted(viewer_client: Client, project: Project, sort: str, first: str) -> None:
    used(project, endpoint_id="me-1", requests=1, duration_ms=900)
    used(project, endpoint_id="me-2", requests=9)
    used(project, endpoint_id="me-3", requests=3, status=500)
    answer = viewer_client.get(URL, {"sort": sort})
    assert first_cells(answer)[0] == f"{first} deleted"


def test_fifty_rows_a_page(viewer_client: Client, project: Project) -> None:
    for number in range(51):
        used(project, endpoint_id=f"me-{number:02}", requests=100 - number)
    first, second, beyond = (viewer_client.get(URL, {"page": page}) for page in ("1", "2", "99"))
    assert len(first_cells(first)) == 50
    assert first_cells(second) == first_cells(beyond) == ["me-50 deleted"]
    assert "51–51 of 51" in words(second)


@pytest.mark.parametrize(
    ("chosen", "days"),
    [
        ("today", 1),
        ("7d", 7),
        ("90d", 90),
        ("2026-11", 22),
        ("2026-02", 28),
        ("", 30),
        ("2027-01", 30),
        ("x", 30),
    ],
)
def test_ranges(viewer_client: Client, project: Project, chosen: str, days: int) -> None:
    used(project, hour=NOW)
    answer = viewer_client.get(URL, {"range": chosen, "by": "day"})
    assert len(answer.context["chart"].bars) == (24 if chosen == "today" else days)


def test_htmx_gets_the_part_that_it_swaps(viewer_client: Client, project: Project) -> None:
    used(project)
    part = viewer_client.get(URL, headers={"hx-request": "true", "hx-target": "usage"})
    assert b"<html" not in part.content
    assert b"usage-totals" in part.content


def test_nothing_yet_leads_to_the_first_call(
    viewer_client: Client, editor_client: Client, owner_actor: Actor, project: Project
) -> None:
    assert "There is no endpoint yet: create one" in words(editor_client.get(URL))
    assert "Nobody has created an endpoint" in words(viewer_client.get(URL))
    load_data()
    endpoint = new_endpoint(owner_actor)
    page = viewer_client.get(URL)
    assert "Make the first one: the page of embed-01" in words(page)
    assert reverse("endpoints:use", args=[endpoint.id]) in page.content.decode()
    used(project, hour=NOW - timedelta(days=200))
    assert "There was no call and no replica in these days" in words(viewer_client.get(URL))


def test_another_projects_usage_is_not_there(
    viewer_client: Client, other_project: Project, project: Project
) -> None:
    used(other_project, endpoint_id="me-theirs", endpoint_name="their-name", requests=4711)
    for asked in ({}, {"endpoint": "me-theirs"}, {"by": "day"}):
        page = viewer_client.get(URL, asked).content.decode()
        assert "4711" not in page
        assert "4,711" not in page
        assert "their-name" not in page
    assert rows_of(viewer_client.get("/usage/usage.csv", {"endpoint": "me-theirs"})) == []


def test_nobody_looks_without_signing_in(client: Client, db: None) -> None:
    for address in (URL, "/usage/usage.csv"):
        assert client.get(address)["Location"].startswith("/accounts/login/")


def test_names_that_are_markup_stay_text(viewer_client: Client, project: Project) -> None:
    evil = "<script>alert(1)</script>"
    used(project, subject="sa-1", subject_name=evil)
    for asked in ({"by": "account"}, {"account": "sa-1"}):
        assert evil not in viewer_client.get(URL, asked).content.decode()


def test_the_page_costs_the_same_at_any_size(
    viewer_client: Client, project: Project, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    for number in range(60):
        used(project, endpoint_id=f"me-{number}", hour=NOW - timedelta(hours=number))
    viewer_client.get(URL)
    with django_assert_max_num_queries(18):
        viewer_client.get(URL)


def test_the_metrics_tab_tells_what_the_month_came_to(
    viewer_client: Client, project: Project, endpoint: Endpoint
) -> None:
    address = reverse("endpoints:metrics", args=[endpoint.id])
    assert "This month 0 requests, 0 tokens" in words(viewer_client.get(address))
    fill(project, endpoint)
    page = viewer_client.get(address)
    assert "This month 12 requests, 35,767 tokens, VND 20,000" in words(page)
    link = f"/usage/?range=2026-11&amp;by=day&amp;endpoint={endpoint.id}"
    assert link in page.content.decode()
    assert "Requests 12 Errors" in words(viewer_client.get(html.unescape(link)))
