"""The console in a real browser: what a page shows, follows, keeps and survives."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from tests.support_browser import chromium, new_context
from tests.support_console import PASSWORD, Console, console
from tests.support_processes import eventually

pytestmark = [pytest.mark.browser, pytest.mark.redis, pytest.mark.timeout(240)]

WIDTHS = (375, 768, 1440)
EDITOR, OWNER = "editor@example.org", "owner@example.org"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console with two people."""
    with console(tmp_path_factory.mktemp("console")) as ready:
        ready.do(f"member({EDITOR!r}); member({OWNER!r}, Role.ADMIN)")
        yield ready


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium for all tests here."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def signed_in(running: Console, browser: Browser) -> dict[str, object]:
    """The editor's cookies, after signing in through the form."""
    context = new_context(browser, base_url=running.url)
    sign_in(context.new_page(), EDITOR)
    state = context.storage_state()
    context.close()
    return dict(state)


@pytest.fixture
def context(running: Console, browser: Browser, signed_in: dict[str, object]) -> Iterator[BrowserContext]:
    """The editor's browser. Any script error or violation of the content policy fails the test."""
    made = new_context(browser, base_url=running.url, storage_state=signed_in)
    broken: list[str] = []
    made.on("weberror", lambda error: broken.append(str(error.error)))
    made.on(
        "console",
        lambda message: (
            broken.append(message.text)
            if "Content Security Policy" in message.text or "Refused to" in message.text
            else None
        ),
    )
    yield made
    made.close()
    assert broken == []


@pytest.fixture
def page(context: BrowserContext) -> Page:
    """A tab."""
    return context.new_page()


def sign_in(page: Page, email: str) -> None:
    """Through the form."""
    page.goto("/accounts/login/")
    page.get_by_label("Email address").fill(email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_the_summary_follows_every_keystroke(running: Console, page: Page) -> None:
    running.do(
        "p = Project.objects.get(name='Alpha'); m = ready_model(p, 'summary-model');"
        "from endpoints.models import InstanceType;"
        "InstanceType.objects.filter(name='a1-standard-4x16').update(price_month=730000)"
    )
    page.goto("/inference/create/")
    shown = lambda name: page.locator(f"[data-sum={name}]")  # noqa: E731
    page.locator("#id_name").press_sequentially("embed")
    expect(shown("name")).to_have_text("embed")
    choose(page, "summary-model")
    expect(shown("model")).to_have_text("summary-model")
    page.locator("input[value='a1-standard-4x16']").check()
    expect(shown("cpu")).to_have_text("4")
    expect(shown("ram")).to_have_text("16 GiB")
    expect(shown("min_hour")).to_have_text("VND 1,000")
    page.locator("#id_max_replicas").fill("3")
    expect(shown("max_month")).to_have_text("VND 2,190,000")
    expect(shown("min_month")).to_have_text("VND 730,000")
    page.get_by_label("Private access").uncheck()
    expect(shown("private")).to_have_text("off")


def choose(page: Page, model: str) -> None:
    """Select a model by its name, and wait for the types that fit it."""
    option = page.locator("#id_model_id option", has_text=model)
    with page.expect_response(re.compile("instance-types")):
        page.locator("#id_model_id").select_option(option.get_attribute("value"))


def test_a_press_counts_although_the_page_moves_meanwhile(running: Console, page: Page) -> None:
    """Leaving a field by pressing a button may change the text above it."""
    page.goto("/inference/create/")
    button = page.get_by_role("button", name="Create endpoint")
    field_error = page.locator(".field-error").first
    box = button.bounding_box()
    assert box is not None
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)

    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(20, 20)  # who has second thoughts
    page.mouse.up()
    assert field_error.count() == 0
    page.mouse.move(*middle)
    page.mouse.down()
    page.locator("#summary").evaluate(
        "card => { for (let i = 0; i < 4; i++) card.prepend(card.cloneNode(true)); }"
    )
    page.mouse.up()
    expect(field_error).to_be_visible()


def test_a_model_that_needs_gpus_greys_the_types_without(running: Console, page: Page) -> None:
    running.do("ready_model(Project.objects.get(name='Alpha'), 'needs-gpu', 'vllm', size_bytes=15 * 1024**3)")
    page.goto("/inference/create/")
    page.locator("input[value='local-cpu']").check()
    choose(page, "needs-gpu")
    expect(page.locator("input[value='local-cpu']")).to_be_disabled()
    expect(page.locator("label.type", has_text="local-cpu")).to_contain_text("vLLM needs a GPU")
    expect(page.locator("[data-sum=type]")).to_have_text("–")
    expect(page.locator("details[data-framework=vllm]")).to_be_visible()
    expect(page.locator("details[data-framework='llama-cpp']")).to_be_hidden()


def test_what_is_chosen_while_a_list_is_under_way_stays_chosen(running: Console, page: Page) -> None:
    """The server greys the types for a model. Who knows what they want does not wait for its answer."""
    project = "Project.objects.get(name='Alpha')"
    running.do(f"ready_model({project}, 'quick-one'); ready_model({project}, 'quick-two')")
    page.goto("/inference/create/")
    model, size = page.locator("#id_model_id"), page.locator("input[value='a1-standard-4x16']")
    one, two = (
        model.locator("option", has_text=f"quick-{name}").get_attribute("value") for name in ("one", "two")
    )

    under_way = hold(page, "instance-types")
    model.select_option(one)
    size.check()
    outdated = size.element_handle()
    under_way()
    page.wait_for_function("radio => !radio.isConnected", arg=outdated)
    expect(size).to_be_checked()
    expect(size).to_be_focused()
    expect(page.locator("[data-sum=type]")).to_have_text("a1-standard-4x16")

    under_way = hold(page, "create/models")
    page.get_by_role("button", name="Refresh the list of models").click()
    model.select_option(two)
    outdated = model.locator("option").first.element_handle()
    under_way()
    page.wait_for_function("option => !option.isConnected", arg=outdated)
    expect(model).to_have_value(str(two))
    expect(page.locator("[data-sum=model]")).to_have_text("quick-two")
    expect(size).to_be_checked()


def test_of_two_lists_under_way_the_last_asked_for_stands(running: Console, page: Page) -> None:
    running.do(
        "ready_model(Project.objects.get(name='Alpha'), 'two-lists', 'vllm', size_bytes=15 * 1024**3);"
        "from endpoints.models import Region; Region.objects.create(code='elsewhere', name='Elsewhere')"
    )
    page.goto("/inference/create/")
    model, no_gpu = page.locator("#id_model_id"), page.locator("input[value='a1-standard-4x16']")
    under_way = hold(page, "instance-types")
    page.locator("#id_region").select_option("elsewhere")
    model.select_option(model.locator("option", has_text="two-lists").get_attribute("value"))
    outdated = no_gpu.element_handle()
    under_way(2)
    page.wait_for_function("radio => !radio.isConnected", arg=outdated)
    page.wait_for_load_state("networkidle")
    expect(no_gpu).to_be_disabled()


def hold(page: Page, address: str) -> Callable[..., None]:
    """Requests to what has `address` in it wait until the returned function is called, which waits until there are as
    many as it is told, and lets the last one through first."""
    held: list[Route] = []
    free = False
    page.route(re.compile(address), lambda route: route.continue_() if free else held.append(route))

    def let_go(many: int = 1) -> None:
        nonlocal free
        eventually(lambda: page.title() and len(held) >= many, f"{address} is asked for")
        free = True
        for route in reversed(held):
            route.continue_()

    return let_go


def test_a_deployment_is_followed_without_a_request_or_reload(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('followed', {EDITOR!r})")
    asked: list[str] = []
    frames: list[str] = []
    page.on("websocket", lambda ws: ws.on("framereceived", lambda frame: frames.append(str(frame))))
    page.goto(f"/inference/{endpoint}/")
    expect(page.locator("[data-live-mark]").first).to_have_attribute("data-live", "on")
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate("window.same = true")
    name = running.do(
        f"n = replica({endpoint!r}, ReplicaState.WAITING); phase(n, PhaseName.PULLING, 30, 120); n"
    )
    expect(page.locator("#ep-step-pulling progress")).to_have_js_property("value", 30)
    expect(page.locator("#ep-step-pulling")).to_contain_text("30 B / 120 B")
    running.do(f"phase({name!r}, PhaseName.PULLING, 90, 120)")
    expect(page.locator("#ep-step-pulling progress")).to_have_js_property("value", 90)
    for step in ("CREATING", "STARTING", "LOADING", "HEALTH_CHECK", "ROUTING"):
        running.do(
            f"phase({name!r}, PhaseName.{step}); set_status({endpoint!r}, Status.DEPLOYING, 'starting')"
        )
        expect(page.locator(f"#ep-step-{step.lower()}")).to_have_class(re.compile("phase-now"))
    running.do(f"go_active({endpoint!r}, {name!r})")
    expect(page.locator("#ep-status")).to_have_attribute("data-status", "ACTIVE")
    expect(page.locator("#ep-timeline")).to_contain_text("active after")
    expect(page.locator("#ep-cause")).to_be_empty()
    assert page.evaluate("window.same") is True
    assert asked == []
    assert any("phase-now" in frame for frame in frames)


def test_a_failure_brings_its_card_and_the_way_out(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('failing', {EDITOR!r})")
    page.goto(f"/inference/{endpoint}/")
    running.do(f"fail({endpoint!r}, replica({endpoint!r}), 'loading weights, then Killed')")
    card = page.locator("#ep-cause")
    expect(card).to_contain_text("more than its 4 GiB of memory")
    expect(card).to_contain_text("137 (SIGKILL)")
    expect(card).to_contain_text("loading weights")
    card.get_by_role("link", name="Change the configuration").click()
    expect(page.get_by_role("heading", name="Resources")).to_be_visible()
    page.goto(f"/inference/{endpoint}/")
    card.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("failing is tried again.")).to_be_visible()


def test_a_ticked_row_and_an_open_menu_survive_live_updates(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('ticked', {EDITOR!r})")
    page.goto("/inference/?search=ticked")
    row = page.locator(f"#ep-{endpoint}")
    row.locator("[data-tick]").check()
    row.locator("[data-bs-toggle]").click()
    expect(row.get_by_role("link", name="Logs")).to_be_visible()
    running.do(f"set_status({endpoint!r}, Status.ACTIVE)")
    expect(row.locator(".badge-state")).to_have_text("Active")
    expect(row.get_by_role("link", name="Logs")).to_be_visible()
    expect(row.locator("[data-tick]")).to_be_checked()
    expect(page.locator("#bulk")).to_be_visible()
    running.do(f"new('ticked-too', {EDITOR!r})")
    expect(page.locator("#ep-rows tr")).to_have_count(2)
    expect(row.locator("[data-tick]")).to_be_checked()


def test_delete_wants_the_name_typed(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('precious', {EDITOR!r})")
    page.goto(f"/inference/{endpoint}/")
    page.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
    dialog.get_by_role("textbox").fill("precios")
    expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
    page.keyboard.press("Escape")
    assert running.do(f"get({endpoint!r}).deleting_at") is None
    page.get_by_role("button", name="Delete").click()
    dialog.get_by_role("textbox").fill("precious")
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("precious is being deleted.")).to_be_visible()
    assert running.do(f"get({endpoint!r}).deleting_at") is not None


def test_a_press_before_the_scripts_are_there_is_kept_until_then(running: Console, page: Page) -> None:
    """A page is seen before all of its scripts have come. A dangerous button asks even then."""
    endpoint = running.do(f"new('hasty', {EDITOR!r})")
    for button, then in (("Delete", "Type hasty to confirm"), ("Copy URL", "Copied")):
        under_way = hold(page, r"berth(\.\w+)?\.js")
        page.goto(f"/inference/{endpoint}/", wait_until="commit")
        page.get_by_role("button", name=button, exact=True).first.click()
        assert page.evaluate("window.berth") is None, "they are not there yet"
        under_way()
        expect(page.get_by_text(then).first).to_be_visible()
        page.unroute_all()
    assert running.do(f"get({endpoint!r}).deleting_at") is None


def test_copy_says_that_it_copied(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('copied', {EDITOR!r})")
    page.goto("/inference/?search=copied")
    page.get_by_role("button", name="Copy the URL of copied").click()
    expect(page.locator("[data-said]")).to_have_attribute("data-said", "Copied")
    assert page.evaluate("navigator.clipboard.readText()").endswith(f"/v1/{endpoint}")
    page.goto(f"/inference/{endpoint}/use/")
    page.get_by_role("tab", name="Python").click()
    page.locator("#use-python").get_by_role("button", name="Copy").click()
    assert "from openai import OpenAI" in page.evaluate("navigator.clipboard.readText()")


def test_search_keeps_what_is_being_typed(running: Console, page: Page) -> None:
    running.do(f"new('findme', {EDITOR!r})")
    page.goto("/inference/")
    page.keyboard.press("/")
    page.keyboard.type("findme", delay=120)
    expect(page.locator("#ep-rows tr")).to_have_count(1)
    expect(page.locator("#search")).to_be_focused()
    expect(page.locator("#search")).to_have_value("findme")
    assert "search=findme" in page.url
    page.go_back()
    expect(page.locator("#search")).to_have_value("")


def test_a_crashed_server_is_named_and_come_back_to(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('crashed', {EDITOR!r})")
    page.goto(f"/inference/{endpoint}/")
    mark = page.locator("[data-live-mark]")
    expect(mark).to_have_attribute("data-live", "on")
    running.stop_web()
    try:
        expect(mark).to_have_attribute("data-live", "off")
        expect(mark).to_have_text("Reconnecting…")
        running.do(f"set_status({endpoint!r}, Status.ACTIVE, tell=False)")
    finally:
        running.start_web()
    back = time.monotonic()
    expect(page.locator("#ep-status")).to_have_attribute("data-status", "ACTIVE")
    expect(mark).to_have_attribute("data-live", "on")
    assert time.monotonic() - back < 3


def test_signing_out_elsewhere_ends_the_page(running: Console, browser: Browser) -> None:
    context = new_context(browser, base_url=running.url)
    first, second = context.new_page(), context.new_page()
    sign_in(first, OWNER)
    first.goto("/inference/")
    expect(first.locator("[data-live-mark]").first).to_have_attribute("data-live", "on")
    second.goto("/")
    second.get_by_role("button", name="Account").click()
    second.get_by_role("button", name="Sign out").click()
    expect(first.locator("[data-live-mark]").first).to_have_attribute("data-live", "ended")
    expect(first.locator("[data-live-mark]").first).to_contain_text("signed out")
    context.close()


def test_a_log_is_followed_and_bounded(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('logged', {EDITOR!r})")
    name = running.do(f"replica({endpoint!r})")
    running.do(f"log_tail.publish({name!r}, ['first line <b>', 'second'])")
    page.goto(f"/inference/{endpoint}/logs/")
    box = page.locator("[data-log-lines]")
    expect(box).to_contain_text("first line <b>")
    running.do(f"log_tail.publish({name!r}, ['third'])")
    expect(box).to_contain_text("third")
    running.do(f"[log_tail.publish({name!r}, [f'{{b}}-{{i}}' for i in range(500)]) for b in range(12)] and 0")
    expect(box).to_contain_text("11-499")
    eventually(
        lambda: box.evaluate("b => b.textContent.split('\\n').length") <= 2001, "the page keeps 2,000 lines"
    )
    assert box.evaluate("b => b.scrollHeight - b.scrollTop - b.clientHeight") < 30
    page.locator("[data-log-filter]").fill("11-49")
    expect(box).not_to_contain_text("10-1")
    expect(box).to_contain_text("11-490")


def test_the_log_of_a_replica_that_ended_is_shown_and_downloaded(running: Console, page: Page) -> None:
    endpoint = running.do(f"new('ended', {EDITOR!r})")
    name = running.do(f"replica({endpoint!r}, 'failed')")
    running.do(
        "from endpoints import replica_logs; from django.utils import timezone\n"
        f"get({endpoint!r}).replicas.update(ended_at=timezone.now())\n"
        f"path = replica_logs.path_of({name!r}); path.parent.mkdir(exist_ok=True)\n"
        "path.write_text(''.join(f'line {n} <i>\\n' for n in range(5000)))"
    )
    page.goto(f"/inference/{endpoint}/logs/")
    box = page.locator("[data-log-lines]")
    expect(box).to_contain_text("line 4999 <i>")
    assert box.evaluate("b => b.textContent.split('\\n').length") == 2001
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download").click()
    assert saved.value.suggested_filename == f"{name}.log"
    lines = saved.value.path().read_text().splitlines()
    assert lines == [f"line {number} <i>" for number in range(5000)]


def test_a_change_is_painted_soon(running: Console, page: Page) -> None:
    """The figure itself is a benchmark's (tests.bench.paint); here it only must not be a poll's."""
    endpoint = running.do(f"new('painted', {EDITOR!r})")
    page.goto(f"/inference/{endpoint}/")
    expect(page.locator("[data-live-mark]")).to_have_attribute("data-live", "on")
    page.wait_for_timeout(300)
    at = running.do(f"set_status({endpoint!r}, Status.ACTIVE)")
    expect(page.locator("#ep-status")).to_have_attribute("data-status", "ACTIVE")
    assert page.evaluate("Date.now()") - at < 1500


def test_light_and_dark_stand_before_the_first_paint(running: Console, page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="Light or dark").click()
    page.get_by_role("button", name="Dark", exact=True).click()
    assert page.evaluate("getComputedStyle(document.body).colorScheme") is not None
    page.add_init_script(
        "new MutationObserver(() => { if (document.body && !window.first)"
        " window.first = document.documentElement.dataset.bsTheme; })"
        ".observe(document, {childList: true, subtree: true})"
    )
    page.goto("/inference/")
    assert page.evaluate("window.first") == "dark"
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(14, 20, 23)"


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_sticks_out_at_any_width(width: int, running: Console, page: Page) -> None:
    long = "a-fifty-character-name-that-goes-on-and-on-until-fi"[:50]
    found = running.do(f"Endpoint.objects.filter(name={long!r}).values_list('pk', flat=True).first()")
    endpoint = found or running.do(f"new({long!r}, {EDITOR!r})")
    page.set_viewport_size({"width": width, "height": 800})
    tabs = [f"/inference/{endpoint}/{tab}" for tab in ("", "use/", "logs/", "events/", "settings/")]
    for address in (
        "/",
        "/inference/",
        "/inference/create/",
        "/accounts/security/",
        "/accounts/sessions/",
        *tabs,
    ):
        page.goto(address)
        over = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert over <= 0, address


def test_the_whole_create_page_works_by_keyboard(running: Console, page: Page) -> None:
    running.do(
        "p = Project.objects.get(name='Alpha');"
        "RegisteredModel.objects.filter(project=p, name='by-key').exists() or ready_model(p, 'by-key') and 0"
    )
    page.goto("/inference/create/")
    page.locator("#id_name").focus()
    page.keyboard.type("typed-only")
    choose(page, "by-key")
    page.locator("#id_model_id").focus()
    for _ in range(12):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.name") == "instance_type":
            break
    page.keyboard.press("Space")
    expect(page.locator("[data-sum=type]")).to_have_text("local-cpu")
    page.keyboard.press("Enter")
    expect(page.get_by_text("typed-only is being deployed.")).to_be_visible()
    assert running.do("Endpoint.objects.filter(name='typed-only').count()") == 1
