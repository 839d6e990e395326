"""Thresholds, what they would have done, and what was decided, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support_browser import signed_in
from tests.support_console import PASSWORD, Console, console

pytestmark = [pytest.mark.browser, pytest.mark.redis]
WHO = "editor@example.org"

# An hour in which two replicas were at 90 %, measured minute by minute.
MEASURED = """
from endpoints.metrics import rows
from endpoints.metrics.sample import ReplicaFigures, Sample
from endpoints.models import Decision, MetricSample, MetricSeries, ScaleState
def measured(endpoint_id):
    series = MetricSeries.objects.create(endpoint_id=endpoint_id)
    now = int(time.time()) // 60 * 60
    found = []
    for number in range(60):
        at = now - 3600 + number * 60
        replicas = {"a": ReplicaFigures(cpu=90.0), "b": ReplicaFigures(cpu=90.0)}
        sample = Sample(at, 60.0, {"2xx": 600}, wanted=2, ready=2.0, replica_seconds=120.0, replicas=replicas)
        figures = rows.pack(sample, endpoint_id)
        found.append(MetricSample(series=series, resolution=60, at=at, figures=figures))
    rows.save(found)
"""
DECIDED = """
def decided(endpoint_id, before, after):
    params = {"metric": "cpu_percent", "value": 91, "target": 70, "seconds": 15}
    inputs = {"cpu_percent": {"value": 91, "target": 70, "count": after}}
    row = Decision.objects.create(
        endpoint_id=endpoint_id, at=timezone.now(), rule="above", before=before, after=after, inputs=inputs,
        params=params,
    )
    live.endpoint_changed(get(endpoint_id))
    return row.id
def found(endpoint_id, left_s):
    params = {"metric": "cpu_percent", "value": 20, "target": 70, "count": 1, "left_s": left_s}
    finding = {"rule": "below", "blocker": "cooling_down", "before": 3, "after": 3, "params": params}
    defaults = {"finding": finding, "checked_at": timezone.now()}
    ScaleState.objects.update_or_create(endpoint_id=endpoint_id, defaults=defaults)
    live.endpoint_changed(get(endpoint_id))
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console with one member."""
    with console(tmp_path_factory.mktemp("console")) as running:
        running.do(f"member({WHO!r}); ready_model(Project.objects.get())")
        running.do(MEASURED)
        running.do(DECIDED)
        yield running


@pytest.fixture
def page(server: Console, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Signed in, on a phone; whatever the browser complains about fails the test."""
    with signed_in(
        server.url,
        WHO,
        PASSWORD,
        pictures=tmp_path,
        name=request.node.name,
        viewport={"width": 375, "height": 800},
    ) as page:
        yield page


def test_thresholds_are_told_while_typed_and_survive_an_error(server: Console, page: Page) -> None:
    page.goto(f"{server.url}/inference/create/")
    summary, notes = page.locator("[data-sum=scaling]"), page.locator(".scaling-notes")
    expect(summary).to_have_text("fixed number")
    expect(notes).to_have_text("", use_inner_text=True)
    page.get_by_label("Max replicas").fill("3")
    expect(summary).to_have_text("no threshold set")
    expect(notes).to_contain_text("nothing adds replicas", use_inner_text=True)
    page.locator("summary", has_text="Advanced").click()
    page.get_by_label("CPU (%)").fill("70.5")
    page.get_by_label("Requests in flight per replica").fill("4")
    expect(summary).to_have_text("by CPU, requests in flight")
    expect(notes).to_have_text("", use_inner_text=True)
    page.get_by_label("Min replicas").fill("3")
    expect(summary).to_have_text("fixed number")
    expect(notes).to_contain_text("the thresholds have no effect", use_inner_text=True)
    page.get_by_label("Min replicas").fill("0")
    expect(summary).to_have_text("by CPU, requests in flight; sleeps when idle")
    page.get_by_role("button", name="Create endpoint").click()
    expect(page.locator("[data-field=cpu_percent] .field-error")).to_contain_text("whole percentage")
    expect(page.locator("[data-field=idle_timeout_s] .field-error")).to_contain_text("idle seconds")
    for label, typed in (("CPU (%)", "70.5"), ("Requests in flight per replica", "4"), ("Min replicas", "0")):
        expect(page.get_by_label(label)).to_be_visible()
        expect(page.get_by_label(label)).to_have_value(typed)


def test_what_is_typed_is_tried_before_it_is_saved(server: Console, page: Page) -> None:
    endpoint = server.do(f"e = new('try-01', {WHO!r}, max_replicas=4, cpu_percent=70); measured(e); e")
    page.goto(f"{server.url}/inference/{endpoint}/settings/")
    page.get_by_role("button", name="Last day").click()
    trial = page.locator("#dry-run")
    expect(trial.get_by_role("row", name="Replica-hours")).to_contain_text("2.0")
    picture_of = trial.get_by_role("img", name="really from 2 to 2, under these limits from 2 to 3")
    expect(picture_of).to_be_visible()
    expect(page.get_by_role("button", name="Last day", pressed=True)).to_be_visible()
    # It follows what is typed; what can't be saved can't be tried, and says so in the same words.
    page.get_by_label("Max replicas").fill("2")
    expect(trial.get_by_role("img", name="under these limits from 2 to 2")).to_be_visible()
    expect(page.locator("#announce")).to_contain_text("under these limits from 2 to 2")
    page.get_by_label("Max replicas").fill("99")
    expect(trial).to_contain_text("Max replicas: Enter a whole number from 1 to 10.")
    page.get_by_label("Max replicas").fill("4")
    page.get_by_label("CPU (%)").fill("45")
    trial.get_by_text("it would have made").click()
    expect(trial.get_by_text("CPU 90 % > 45 %").first).to_be_visible()
    page.get_by_label("CPU (%)").fill("44")
    expect(trial.get_by_text("CPU 90 % > 44 %").first).to_be_visible()  # what was unfolded stays so
    page.get_by_label("CPU (%)").fill("45")
    assert server.do("get(e).cpu_percent, get(e).max_replicas") == [70, 4]
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.get_by_role("button", name="Save changes").click()
    expect(page.get_by_text("Saved.", exact=True)).to_be_visible()
    assert server.do("get(e).cpu_percent") == 45


def test_the_scaling_tab_follows_what_is_decided(server: Console, page: Page) -> None:
    endpoint = server.do(f"s = new('scale-01', {WHO!r}, max_replicas=4, cpu_percent=70); s")
    server.do("Endpoint.objects.filter(pk=s).update(stable_revision=get(s).revision)")
    page.goto(f"{server.url}/inference/{endpoint}/")
    page.get_by_role("navigation", name="Endpoint").get_by_role("link", name="Scaling").click()
    expect(page.get_by_text("Nothing has been decided yet")).to_be_visible()
    expect(page.locator("#ep-scaling")).to_contain_text("has not looked at it yet")
    expect(page.get_by_role("link", name="Scaling")).to_be_in_viewport()
    first = server.do("decided(s, 1, 2)")
    row = page.locator(f"#decision-{first}")
    expect(row).to_contain_text("CPU 91 % > 70 % for 15 s: 1 → 2")
    row.get_by_text("What was measured").click()
    second = server.do("decided(s, 2, 3)")
    expect(page.locator(".decision").first).to_have_id(f"decision-{second}")
    expect(row.get_by_role("table")).to_be_visible()  # what was unfolded stays so
    server.do("found(s, 200)")
    expect(page.locator("#ep-scaling")).to_contain_text("left of the cool-down")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    page.goto(f"{server.url}/inference/{endpoint}/scaling/?before={first + 1}#decision-{first}")
    expect(page.locator(".decision")).to_have_count(1)
    page.get_by_role("link", name="Newest").click()
    expect(page.locator(".decision")).to_have_count(2)
