"""The Metrics tab in a real browser: what is drawn, read, zoomed, followed and survived."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, Page, expect

from endpoints.metrics.sample import FINEST
from tests.support_browser import chromium, new_context
from tests.support_console import PASSWORD, Console, console
from tests.support_metrics_seed import GAP, QUARTER

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.timeout(240)]
EDITOR = "editor@example.org"
SHOWN = ("requests", "replicas", "first_byte", "latency", "in_flight", "errors", "cpu", "memory")
HIDDEN = ("gpu", "gpu_memory", "tokens", "queued", "kv_cache")

# Painted pixels of a chart's canvas whose colour is near to the one given.
INK = """([name, wanted]) => {
  const canvas = document.querySelector(`[data-chart=${name}] canvas`);
  if (!canvas || !canvas.height) return 0;
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  let found = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i + 3] > 200 && wanted.every((part, k) => Math.abs(data[i + k] - part) < 12)) found++;
  }
  return found;
}"""
BLUE_ON_LIGHT, BLUE_ON_DARK = (0x00, 0x72, 0xB2), (0x56, 0xB4, 0xE9)
WATCH_SHIFTS = """() => {
  window.shifted = 0;
  new PerformanceObserver((list) => {
    for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.shifted += entry.value;
  }).observe({ type: "layout-shift" });
}"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    with console(tmp_path_factory.mktemp("metrics")) as ready:
        ready.do(f"member({EDITOR!r})")
        ready.do("from tests.support_metrics_seed import now_at, quarter")
        yield ready


@pytest.fixture(scope="module")
def measured(running: Console) -> tuple[str, int]:
    """(an endpoint with 15 minutes of figures, the moment of their first)."""
    endpoint = running.do(f"new('measured', {EDITOR!r}, max_replicas=4, cpu_percent=70, in_flight=8)")
    running.do(f"go_active({endpoint!r}, replica({endpoint!r}))")
    return endpoint, running.do(f"quarter({endpoint!r})")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def cookies(running: Console, browser: Browser) -> Any:
    """Of someone who signed in."""
    context = new_context(browser, base_url=running.url)
    page = context.new_page()
    page.goto("/accounts/login/")
    page.fill("[name=login]", EDITOR)
    page.fill("[name=password]", PASSWORD)
    page.press("[name=password]", "Enter")
    page.wait_for_url(lambda url: "login" not in url)
    state = context.storage_state()
    context.close()
    return state


@pytest.fixture
def page(running: Console, browser: Browser, cookies: Any) -> Iterator[Page]:
    """A tab. Any script error or violation of the content policy fails the test."""
    made = new_context(browser, base_url=running.url, storage_state=cookies, timezone_id="Asia/Tokyo")
    broken = watched(made)
    yield made.new_page()
    made.close()
    assert broken == []


def watched(context: BrowserContext) -> list[str]:
    """What goes wrong in its pages."""
    broken: list[str] = []
    context.on("weberror", lambda error: broken.append(str(error.error)))
    context.on("console", lambda said: broken.append(said.text) if is_bad(said) else None)
    return broken


def is_bad(said: ConsoleMessage) -> bool:
    """All but an answer that a test itself spoils; the browser logs those, too."""
    return "Security Policy" in said.text or (said.type == "error" and "load resource" not in said.text)


def look(page: Page, endpoint: str, query: str = "?range=15m") -> None:
    """Open the tab and wait for its figures."""
    page.goto(f"/inference/{endpoint}/metrics/{query}")
    expect(page.locator("#metrics")).to_have_attribute("data-feed", "ok")


def chart(page: Page, name: str) -> Locator:
    return page.locator(f"[data-chart={name}]")


def drawn(page: Page, name: str, colour: tuple[int, int, int]) -> None:
    """Wait until a chart has lines of that colour. It gets its size when the page has its own."""
    page.wait_for_function(f"args => ({INK})(args) > 100", arg=[name, colour])


def legend(page: Page, name: str) -> dict[str, str]:
    """label → value, as they are read."""
    lines = chart(page, name).locator("[data-legend] li")
    return dict(lines.evaluate_all("all => all.map(li => [...li.children].map(part => part.innerText))"))


def query_of(url: str) -> dict[str, float]:
    return {
        name: float(values[0]) for name, values in parse_qs(urlsplit(url).query).items() if name != "project"
    }


def point_at(page: Page, name: str, share: float) -> None:
    """The mouse over that share of the window."""
    chart(page, name).locator(".u-over").scroll_into_view_if_needed()
    over = chart(page, name).locator(".u-over").bounding_box()
    assert over is not None
    page.mouse.move(over["x"] + over["width"] * share, over["y"] + over["height"] / 2)


def test_charts_show_what_was_measured(measured: tuple[str, int], page: Page) -> None:
    look(page, measured[0])
    for name in SHOWN:
        drawn(page, name, BLUE_ON_LIGHT if name != "replicas" else (0, 0x85, 0x61))
    for name in HIDDEN:
        expect(chart(page, name)).to_be_hidden()
    assert legend(page, "requests") == {"Requests": "10/s"}
    assert legend(page, "cpu") == {"Mean": "50%", "Threshold": "70%", "Slot 0": "40%", "Slot 1": "60%"}
    assert legend(page, "replicas") == {"Wanted": "2", "Ready": "2", "Min": "1", "Max": "4"}
    assert legend(page, "in_flight") == {"Mean": "2.5", "Most": "7", "Threshold × ready replicas": "16"}
    assert re.fullmatch(r"2\d\d\sms", legend(page, "first_byte")["p95"])
    point_at(page, "cpu", (GAP.start + 6) / QUARTER)
    expect(chart(page, "requests").locator("[data-legend] b")).to_have_text("–")
    assert legend(page, "cpu")["Mean"] == "–"
    point_at(page, "requests", 0.2)
    expect(chart(page, "replicas").locator("[data-legend] b").first).to_have_text("1")


def test_a_decision_is_marked_told_and_led_to(measured: tuple[str, int], page: Page) -> None:
    look(page, measured[0])
    mark = page.locator(".chart-mark")
    expect(mark).to_have_count(1)
    mark.focus()
    tip = page.get_by_role("tooltip")
    expect(tip).to_contain_text("1 → 2")
    expect(tip).to_contain_text("70")
    expect(chart(page, "requests").locator("[data-at]")).not_to_be_empty()
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    mark.click()
    expect(page).to_have_url(re.compile(r"#decision-\d+$"))
    expect(page.locator(f"#{urlsplit(page.url).fragment}")).to_be_visible()


def test_dragging_zooms_all_charts_and_asks_anew(measured: tuple[str, int], page: Page) -> None:
    look(page, measured[0])
    with page.expect_response(lambda answer: "/metrics/?" in answer.url and "from=" in answer.url) as asked:
        point_at(page, "latency", 0.4)
        page.mouse.down()
        point_at(page, "latency", 0.6)
        page.mouse.up()
    zoomed = query_of(asked.value.url)
    assert abs(zoomed["to"] - zoomed["from"] - 180) < 12
    assert query_of(page.url) == zoomed
    expect(page.locator("[data-range][aria-current]")).to_have_count(0)
    expect(page.locator("[data-tail]")).to_be_hidden()
    page.reload()
    expect(page.locator("#metrics")).to_have_attribute("data-feed", "ok")
    assert query_of(page.url) == zoomed
    page.go_back()
    expect(page.locator("[data-range='15m']")).to_have_attribute("aria-current", "true")
    chart(page, "errors").locator(".u-over").dblclick()
    expect(page.locator("[data-range='1h']")).to_have_attribute("aria-current", "true")
    assert page.url.endswith("?range=1h")


def test_new_figures_come_by_themselves_and_move_nothing(
    running: Console, measured: tuple[str, int], page: Page
) -> None:
    look(page, measured[0])
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/metrics/?" in request.url else None)
    chart(page, "requests").locator("summary").click()
    expect(chart(page, "requests").locator("tbody tr").first).to_be_visible()
    page.evaluate(WATCH_SHIFTS)
    running.do(f"now_at({measured[0]!r}, 44)")
    expect(chart(page, "requests").locator("[data-legend] b")).to_have_text("44/s", timeout=12_000)
    expect(chart(page, "requests").locator("tbody tr").first).to_contain_text("44/s")
    assert page.evaluate("window.shifted") == 0
    tail = query_of(asked[-1])
    assert tail["to"] - tail["from"] < 60
    assert tail["step"] == FINEST
    expect(page.locator("[data-tail]")).to_have_text("Live")


def test_a_failed_fetch_is_said_and_leaves_the_picture(measured: tuple[str, int], page: Page) -> None:
    look(page, measured[0])
    page.route("**/metrics/?project*", lambda route: route.abort())
    page.get_by_role("link", name="6 h").click()
    state = page.locator("[data-state]")
    expect(state).to_contain_text("The figures could not be fetched: the server could not be reached")
    expect(state).to_contain_text("trying again in")
    drawn(page, "requests", BLUE_ON_LIGHT)
    page.unroute_all()
    problem = {"detail": "The database is away."}
    page.route("**/metrics/?project*", lambda route: route.fulfill(status=503, json=problem))
    expect(state).to_contain_text("the server answered 503 (The database is away)")
    page.unroute_all()
    page.get_by_role("link", name="24 h").click()
    expect(page.locator("#metrics")).to_have_attribute("data-feed", "ok")
    expect(state).to_contain_text("one point per 3 min")


def test_the_keyboard_moves_through_time(measured: tuple[str, int], page: Page) -> None:
    look(page, measured[0])
    plot = chart(page, "requests").get_by_role("slider")
    page.locator("[data-chart=requests] [data-legend] button").focus()
    page.keyboard.press("Tab")
    expect(plot).to_be_focused()
    expect(plot).to_have_attribute("aria-valuetext", re.compile(r": Requests [\d.]+/s$"))
    page.keyboard.press("Home")
    page.keyboard.press("PageDown")
    moment = datetime.fromtimestamp(measured[1], UTC) + timedelta(hours=9)
    expect(plot).to_have_attribute(
        "aria-valuetext", re.compile(rf"{moment:%b} {moment.day}, .*: Requests 10/s$")
    )
    before = plot.get_attribute("aria-valuetext")
    page.keyboard.press("ArrowRight")
    expect(plot).not_to_have_attribute("aria-valuetext", before or "")
    expect(chart(page, "cpu").locator("[data-at]")).not_to_be_empty()
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile("from="))
    page.keyboard.press("-")
    expect(page).to_have_url(re.compile("range=15m"))


def test_dark_light_and_language(running: Console, measured: tuple[str, int], page: Page) -> None:
    page.context.add_cookies([{"name": "django_language", "value": "vi", "url": running.url}])
    look(page, measured[0])
    drawn(page, "requests", BLUE_ON_LIGHT)
    page.evaluate("window.berthTheme.choose('dark')")
    drawn(page, "requests", BLUE_ON_DARK)
    assert page.evaluate(INK, ["requests", BLUE_ON_LIGHT]) == 0
    assert "2,5" in legend(page, "in_flight").values()


def test_a_table_says_the_same(measured: tuple[str, int], page: Page) -> None:
    look(page, measured[0])
    figure = chart(page, "cpu")
    expect(figure.locator("table")).to_have_count(0)
    figure.locator("summary").click()
    heads = figure.locator("thead th").all_inner_texts()
    assert heads == ["Time", "Mean", "Threshold", "Slot 0", "Slot 1"]
    rows = figure.locator("tbody tr").evaluate_all("all => all.map(r => [...r.cells].map(c => c.innerText))")
    assert 40 <= len(rows) <= 60
    assert rows[0][1:] == ["50%", "70%", "40%", "60%"]
    assert ["–", "70%", "–", "–"] in [row[1:] for row in rows]


def test_the_first_figures_take_the_place_of_the_words(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('fresh', {EDITOR!r})")
    look(page, endpoint)
    expect(page.locator("[data-empty]")).to_contain_text("the first come about 10 s after a replica serves")
    expect(page.locator("[data-charts]")).to_be_hidden()
    running.do(f"now_at({endpoint!r}, 3)")
    expect(chart(page, "requests").locator("[data-legend] b")).to_have_text("3/s", timeout=12_000)
    expect(page.locator("[data-empty]")).to_be_hidden()


@pytest.mark.parametrize(
    ("played", "words"),
    [
        ("set_status(e, Status.ASLEEP)", "The next request wakes it"),
        ("set_status(e, Status.INACTIVE)", "It is paused"),
    ],
)
def test_what_has_no_figures_says_why(played: str, words: str, running: Console, page: Page) -> None:
    endpoint = running.do(f"e = new('quiet-{abs(hash(played)) % 10**6}', {EDITOR!r}); {played}; e")
    look(page, endpoint)
    expect(page.locator("[data-empty]")).to_contain_text(words)
    expect(page.locator("[data-charts]")).to_be_hidden()


def test_charts_stack_on_a_phone(measured: tuple[str, int], page: Page) -> None:
    sides: Callable[[], set[float]] = lambda: {  # noqa: E731
        (chart(page, name).bounding_box() or {"x": -1})["x"] for name in SHOWN
    }
    look(page, measured[0])
    assert len(sides()) == 2
    page.set_viewport_size({"width": 375, "height": 800})
    assert len(sides()) == 1
    over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert over <= 0
    page.wait_for_function("() => document.querySelector('[data-chart=cpu] canvas').clientWidth < 340")
    for name in SHOWN:
        plot = chart(page, name).locator(".chart-plot")
        assert plot.evaluate("p => p.scrollWidth - p.clientWidth") <= 0, name
