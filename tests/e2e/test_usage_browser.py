"""Usage and limits in a real browser: parts are swapped, the way back works, the file comes, nothing typed is lost."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support_browser import signed_in
from tests.support_console import PASSWORD, Console, console

pytestmark = [pytest.mark.browser, pytest.mark.redis]
WHO = "owner@example.org"
SEED = f"""
from endpoints.models import Usage
project = member({WHO!r}, Role.ADMIN)
e = new("embed-01", {WHO!r})
hour = timezone.now().replace(minute=0, second=0, microsecond=0)
for name, requests in (("=nightly", 7), ("backend", 3)):
    Usage.objects.create(hour=hour, project_id=project, endpoint_id=e, subject=f"sa-{{requests}}", subject_name=name,
                         status=200, requests=requests, estimated=1, model_id="m", model_name="tiny")
e
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console with one admin."""
    with console(tmp_path_factory.mktemp("console")) as running:
        yield running


def test_usage_and_limits(server: Console, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    endpoint = server.do(SEED)
    with signed_in(server.url, WHO, PASSWORD, pictures=tmp_path, name=request.node.name) as page:
        _look_at_usage(server, page)
        _set_limits(server, page, endpoint)


def _look_at_usage(server: Console, page: Page) -> None:
    page.goto(f"{server.url}/usage/")
    page.evaluate("window.stays = true")  # as long as no page is loaded anew
    rows = page.locator("#usage tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("2 estimated")
    page.get_by_role("link", name="Accounts", exact=True).click()
    expect(rows).to_have_count(2)
    expect(rows.nth(0)).to_contain_text("=nightly")
    expect(page.get_by_role("link", name="Accounts", exact=True)).to_be_focused()
    page.locator("#usage-sort-requests").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text("Requests")
    page.locator("#usage-sort-requests").click()
    expect(rows.nth(0)).to_contain_text("backend")
    page.set_viewport_size({"width": 375, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    page.get_by_role("link", name="backend").click()
    expect(page.locator(".usage-totals")).to_contain_text("3")
    expect(page.get_by_role("link", name="Account backend")).to_be_visible()
    assert page.evaluate("window.stays")
    page.go_back()
    expect(rows).to_have_count(2)
    page.get_by_label("Month").select_option(index=1)
    page.wait_for_url("**range=*")
    expect(rows).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        assert [row["name"] for row in csv.DictReader(file)] == ["'=nightly", "backend"]


def _set_limits(server: Console, page: Page, endpoint: str) -> None:
    page.set_viewport_size({"width": 1440, "height": 1000})
    page.goto(f"{server.url}/inference/{endpoint}/settings/")
    page.locator("#limits summary").click()
    page.get_by_label("Requests a minute").fill("600")
    page.get_by_label("Tokens a month").fill("many")
    summary = page.locator("[data-sum=limits]")
    expect(summary).to_have_text("600 requests a minute, many tokens a month")
    expect(page.locator("#changes")).to_contain_text("limit of requests a minute")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator("#limits")).to_contain_text("Enter a whole number from 1 to 1000000000000")
    expect(page.get_by_label("Requests a minute")).to_have_value("600")
    page.get_by_label("Tokens a month").fill("5000000")
    expect(summary).to_have_text("600 requests a minute, 5,000,000 tokens a month")
    page.get_by_role("button", name="Save changes").click()
    expect(page.get_by_text("Saved.", exact=True)).to_be_visible()
    assert server.do("(get(e).requests_per_minute, get(e).tokens_per_month, get(e).revisions.count())") == [
        600,
        5_000_000,
        1,
    ]
