"""Editing, rolling out and rolling back in a real browser: what would happen is said before it does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.support_browser import signed_in
from tests.support_console import PASSWORD, Console, console

pytestmark = [pytest.mark.browser, pytest.mark.redis]
WHO = "editor@example.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Console]:
    """A console with one member."""
    with console(tmp_path_factory.mktemp("console")) as running:
        running.do(f"member({WHO!r})")
        yield running


@pytest.fixture
def page(server: Console, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """Signed in, at 1440 px; whatever the browser complains about fails the test."""
    with signed_in(server.url, WHO, PASSWORD, pictures=tmp_path, name=request.node.name) as page:
        yield page


def test_change_see_what_it_does_roll_out_and_roll_back(server: Console, page: Page) -> None:
    endpoint = server.do(f"e = new('chat-01', {WHO!r}, environment={{'TOKEN': 'hunter2', 'OLD': '1'}}); e")
    address = f"{server.url}/inference/{endpoint}/"
    page.goto(f"{address}settings/")
    changes = page.locator("#changes")
    expect(changes).to_contain_text("makes a new revision")
    page.locator("input[value='a1-standard-2x8']").check()
    expect(changes).to_contain_text("local-cpu → a1-standard-2x8")
    page.get_by_role("button", name="Remove OLD").click()
    expect(changes).to_contain_text("removed")
    page.get_by_role("button", name="Add a variable").click()
    page.keyboard.type("COLOUR")
    page.keyboard.press("Tab")
    page.keyboard.type("blue")
    expect(changes).to_contain_text("COLOUR")
    page.get_by_label("Max replicas").fill("3")
    expect(changes).to_contain_text("At once: max replicas")
    assert server.do("get(e).revisions.count()") == 1
    page.get_by_role("button", name="Save changes").click()
    expect(page.get_by_text("Saved. Revision 2 is being rolled out.")).to_be_visible()
    assert server.do("get(e).revision.environment") == {"COLOUR": "blue", "TOKEN": "hunter2"}

    page.get_by_role("navigation", name="Endpoint").get_by_role("link", name="Revisions").click()
    newest, first = page.locator("#rev-2"), page.locator("#rev-1")
    expect(newest).to_contain_text("Rolling out")
    expect(newest).to_contain_text(WHO)
    # What the reconciler does is seen without a reload.
    server.do("name = replica(e, 'starting'); live.endpoint_changed(get(e))")
    expect(newest).to_contain_text("1 × Starting")
    server.do("Replica.objects.filter(name=name).update(state='ready'); live.endpoint_changed(get(e))")
    expect(newest).to_contain_text("1 × Ready")
    server.do("Endpoint.objects.filter(pk=e).update(stable_revision=get(e).revision, status='ACTIVE')")
    server.do("live.endpoint_changed(get(e))")
    expect(newest).to_contain_text("Current")

    first.get_by_role("button", name="Roll back to this").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Roll back to revision 1?")
    expect(dialog).to_contain_text("instance type: a1-standard-2x8 → local-cpu")
    expect(dialog).to_contain_text("COLOUR: removed")
    dialog.get_by_role("button", name="Cancel").click()
    assert server.do("get(e).revisions.count()") == 2
    first.get_by_role("button", name="Roll back to this").click()
    dialog.get_by_role("button", name="Roll back").click()
    expect(page.get_by_text("it takes up revision 1 again")).to_be_visible()
    assert server.do("get(e).revision.environment") == {"TOKEN": "hunter2", "OLD": "1"}
    assert "hunter2" not in page.content()


def test_an_interruption_is_a_question_beside_the_button(server: Console, page: Page) -> None:
    endpoint = server.do(
        f"""
from endpoints.models import Gpu, Node
e = new('only-gpu', {WHO!r})
name = replica(e, 'ready')
node = Node.objects.create(name='alone', region_id='HCM', cpus=2, cpu_overcommit=1, memory_bytes=2**35)
Replica.objects.filter(name=name).update(claimed=True, node=node, cpus=2, memory_bytes=2**30)
e
"""
    )
    page.goto(f"{server.url}/inference/{endpoint}/settings/")
    page.locator("input[value='a1-standard-2x8']").check()
    expect(page.locator("#changes")).to_contain_text("Allow a short interruption?")
    page.get_by_label("Name", exact=True).fill("renamed")
    page.get_by_role("button", name="Save changes").click()
    expect(page.locator(".notice-bad")).to_contain_text("Allow a short interruption?")
    expect(page.get_by_label("Name", exact=True)).to_have_value("renamed")
    assert server.do("get(e).revisions.count()") == 1
    page.get_by_label("Allow a short interruption").check()
    page.get_by_role("button", name="Save changes").click()
    expect(page.get_by_text("Saved. Revision 2 is being rolled out.")).to_be_visible()
    assert server.do("r = get(e).revision; [r.number, r.allow_interruption, get(e).name]") == [
        2,
        True,
        "renamed",
    ]
    # The same question for a restart, on a page of its own.
    server.do("Replica.objects.filter(name=name).update(revision=get(e).revision)")
    page.get_by_role("button", name="Restart").click()
    page.get_by_role("dialog").get_by_role("button", name="Restart").click()
    expect(page.get_by_role("heading", name="Restart renamed?")).to_be_visible()
    page.get_by_role("button", name="Restart, with an interruption").click()
    expect(page.get_by_text("renamed is being restarted")).to_be_visible()
    assert server.do("get(e).epoch") == 1
