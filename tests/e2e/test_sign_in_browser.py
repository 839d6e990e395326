"""Second factors in a real browser: an authenticator app, and a passkey of Chromium's virtual authenticator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from playwright.sync_api import Browser, BrowserContext, Page, expect

from iam.models import User
from tests.conftest import PASSWORD
from tests.support_browser import chromium, new_context

pytestmark = [pytest.mark.browser, pytest.mark.timeout(120), pytest.mark.django_db(transaction=True)]

VIRTUAL = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium. Playwright has a loop in this thread, which Django takes for asynchronous code."""
    with pytest.MonkeyPatch.context() as patched, chromium() as started:
        patched.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
        yield started


@pytest.fixture
def context(browser: Browser, live_server: Any, settings: Any) -> Iterator[BrowserContext]:
    """A clean browser at the configured address. Whatever it complains about fails the test."""
    settings.BERTH_PUBLIC_URL = live_server.url
    made = new_context(browser, base_url=live_server.url)
    broken: list[str] = []
    made.on("weberror", lambda error: broken.append(str(error.error)))
    made.on("console", lambda line: broken.append(line.text) if "Content Security" in line.text else None)
    yield made
    made.close()
    assert broken == []


def enter(page: Page, user: User) -> None:
    """Address and password."""
    page.goto("/accounts/login/")
    page.get_by_label("Email address").fill(user.email)
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()


def confirm(page: Page) -> None:
    """It is still the same person."""
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Confirm").click()


def test_an_authenticator_app(owner: User, context: BrowserContext) -> None:
    page = context.new_page()
    enter(page, owner)
    page.get_by_role("button", name="Account").click()
    page.get_by_role("link", name="Security").click()
    page.get_by_role("link", name="Set up").click()
    confirm(page)
    qr = page.get_by_alt_text("QR code")
    assert qr.evaluate("image => image.complete && image.naturalWidth") > 50, "the policy lets it through"
    secret = page.locator("#totp-secret").input_value()
    now = int(time.time()) // 30
    page.get_by_label("Code").fill(format_hotp_value(hotp_value(secret, now)))
    page.get_by_role("button", name="Switch on").click()
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download").click()
    codes = saved.value.path().read_text().split()
    assert page.locator(".codes li").all_text_contents() == codes
    page.reload()
    expect(page.get_by_role("heading", name="Security", exact=True)).to_be_visible()
    page.goto("/accounts/two-step/recovery-codes/")
    expect(page.get_by_text("The codes were shown once")).to_be_visible()
    page.get_by_role("button", name="Account").click()
    page.get_by_role("button", name="Sign out").click()
    enter(page, owner)
    expect(page.get_by_role("heading", name="Second step")).to_be_visible()
    page.get_by_label("Code").fill(format_hotp_value(hotp_value(secret, now + 1)))
    page.get_by_role("button", name="Sign in", exact=True).click()
    expect(page.get_by_role("button", name="Account")).to_be_visible()


def test_a_passkey(owner: User, context: BrowserContext) -> None:
    page = context.new_page()
    devtools = context.new_cdp_session(page)
    devtools.send("WebAuthn.enable")
    made = devtools.send("WebAuthn.addVirtualAuthenticator", {"options": VIRTUAL})
    enter(page, owner)
    page.goto("/accounts/passkeys/add/")
    confirm(page)
    page.get_by_label("Name").fill("My laptop")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("link", name="I have saved them").click()
    expect(page.locator("#passkeys")).to_contain_text("My laptop")
    expect(page.locator("#passkeys")).to_contain_text("signs in by itself")
    page.get_by_role("button", name="Account").click()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/accounts/login/?next=/accounts/security/")
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_role("heading", name="Security", exact=True)).to_be_visible()
    page.get_by_role("link", name="Make new codes").click()
    page.get_by_role("link", name="passkey").click()
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_role("heading", name="New recovery codes")).to_be_visible()
    page.get_by_role("button", name="Account").click()
    page.get_by_role("button", name="Sign out").click()
    enter(page, owner)  # the password alone is not enough any more
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_role("button", name="Account")).to_be_visible()
    page.get_by_role("button", name="Account").click()
    page.get_by_role("button", name="Sign out").click()
    devtools.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": made["authenticatorId"]})
    devtools.send("WebAuthn.addVirtualAuthenticator", {"options": VIRTUAL})
    page.goto("/accounts/login/")
    page.get_by_role("button", name="Use a passkey").click()
    expect(page.get_by_text("No passkey was used")).to_be_visible()
