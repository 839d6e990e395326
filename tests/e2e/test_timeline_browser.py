"""The timeline's clock in a real browser: it ticks without the server, moves nothing, and says what stands still."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.support_browser import chromium, new_context
from tests.support_console import PASSWORD, Console, console

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.timeout(240)]
EDITOR = "editor@example.org"
USUAL = {"creating": 1, "loading": 9, "health_check": 2, "routing": 1}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with console(tmp_path_factory.mktemp("timeline")) as ready:
        ready.do(f"member({EDITOR!r})")
        ready.do("from endpoints.models import PhaseTimes; from endpoints.specs import image_for")
        yield ready


@pytest.fixture
def page(running: Console) -> Iterator[Page]:
    """On a phone."""
    with chromium() as browser:
        context = new_context(browser, base_url=running.url, viewport={"width": 375, "height": 900})
        page = context.new_page()
        page.goto("/accounts/login/")
        page.fill("[name=login]", EDITOR)
        page.fill("[name=password]", PASSWORD)
        page.press("[name=password]", "Enter")
        page.wait_for_url(lambda url: "login" not in url)
        yield page


def second_deployment(running: Console) -> tuple[str, str]:
    """(endpoint, replica) whose model loads; an earlier one took USUAL."""
    endpoint = running.do(f"e = new('again', {EDITOR!r}); e")
    running.do(
        f"made = get(e).revision\nfor name, seconds in {USUAL!r}.items(): PhaseTimes.objects.create("
        "image=image_for(made), model=made.model, instance_type=made.instance_type, name=name, seconds=[seconds])"
    )
    replica = running.do("r = replica(e); phase(r, PhaseName.QUEUED); phase(r, PhaseName.CREATING); r")
    return endpoint, replica


# Sums up what moved without anybody having touched the page.
WATCH_SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver((list) => { for (const entry of list.getEntries()) window.shifted += entry.value; })
    .observe({ type: "layout-shift" });
}"""


def test_the_clock_ticks_by_itself_and_says_when_it_takes_longer(running: Console, page: Page) -> None:
    endpoint, _ = second_deployment(running)
    page.goto(f"/inference/{endpoint}/")
    eta = page.locator("#ep-eta")
    running.do("phase(r, PhaseName.LOADING)")
    expect(page.locator("#ep-step-loading")).to_have_attribute("aria-current", "step")
    expect(eta).to_have_text(re.compile(r"about (15|1\d|\d) s left"))
    card = page.locator("#ep-timeline")
    before = card.bounding_box()
    page.evaluate(WATCH_SHIFTS)
    running.stop_web()
    said: list[str] = []
    while not said or said[-1] != "longer than usual":
        now = eta.inner_text()
        if not said or said[-1] != now:
            said.append(now)
        assert len(said) < 30, said
        page.wait_for_timeout(100)
    left = [int(found[1]) for text in said if (found := re.search(r"about (\d+) s left", text))]
    assert len(left) >= 4, said
    assert left == sorted(left, reverse=True), said
    assert min(left) >= 1
    assert card.bounding_box() == before
    assert page.evaluate("window.shifted") < 0.02
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    running.start_web()

    # Nothing is told to the page: it finds out within its few seconds that the phase stands still.
    expect(page.locator("[data-live-mark]").first).to_have_attribute("data-live", "on", timeout=15_000)
    assert page.locator("#ep-alarm").count() == 0
    running.do(
        "DeployPhase.objects.filter(name='loading').update(started_at=timezone.now() - timedelta(seconds=70))"
    )
    alarm = page.locator("#ep-alarm")
    expect(alarm).to_contain_text("Loading model usually takes about 9\u00a0s", timeout=12_000)
    expect(alarm).to_contain_text(re.compile(r"now 1 min \d+ s"))
    expect(alarm.get_by_role("link", name="Open the log")).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") == 375

    running.do("go_active(e, r)")
    expect(alarm).to_have_count(0)
    expect(eta).to_have_count(0)
