"""IAM over real HTTP: an OAuth2 client that nobody here wrote, and the pages in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from authlib.integrations.base_client import OAuthError
from authlib.integrations.requests_client import OAuth2Session
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect, sync_playwright

from iam import invitations, services
from iam.actors import Actor
from iam.models import User
from iam.oauth import tokens
from iam.roles import Role
from tests.conftest import PASSWORD
from tests.support import require

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/iam/service-accounts/"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]


class TestAuthlib:
    @pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
    def test_it_gets_a_token(self, live_server: Any, owner_actor: Actor, method: str) -> None:
        account, secret = services.create_service_account(owner_actor, "caller", [Role.USER])
        found = httpx.get(f"{live_server.url}/.well-known/openid-configuration").json()
        assert found["token_endpoint"].endswith("/accounts-api/v2/auth/token")
        session = OAuth2Session(account.id, secret, token_endpoint_auth_method=method, scope="email")
        token = session.fetch_token(
            f"{live_server.url}/accounts-api/v2/auth/token", grant_type="client_credentials"
        )
        assert token["expires_in"] == 1800
        assert tokens.verify(token["access_token"])["sub"] == account.id

    def test_it_understands_the_refusal(self, live_server: Any, owner_actor: Actor) -> None:
        account, _secret = services.create_service_account(owner_actor, "caller", [Role.USER])
        session = OAuth2Session(account.id, "wrong", token_endpoint_auth_method="client_secret_basic")
        with pytest.raises(OAuthError) as caught:
            session.fetch_token(
                f"{live_server.url}/accounts-api/v2/auth/token", grant_type="client_credentials"
            )
        assert caught.value.error == "invalid_client"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium of this module's own."""
    require("Chromium", bool(CHROMIUM), "no chromium or google-chrome on the PATH")
    with pytest.MonkeyPatch.context() as patch, sync_playwright() as playwright:
        # Playwright's sync API keeps an event loop in this thread; the ORM is still used from this thread alone.
        patch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "true")
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield running
        running.close()


@pytest.fixture
def violations() -> list[str]:
    """What the browser refused because of the Content-Security-Policy, and what broke in scripts."""
    return []


@pytest.fixture
def page(browser: Browser, violations: list[str]) -> Iterator[Page]:
    """A fresh tab."""
    context = browser.new_context(accept_downloads=True)
    tab = context.new_page()
    tab.on(
        "console",
        lambda message: violations.append(message.text) if "Content Security" in message.text else None,
    )
    tab.on("pageerror", lambda error: violations.append(str(error)))
    yield tab
    context.close()


def sign_in(page: Page, base: str, email: str) -> None:
    page.goto(f"{base}/accounts/login/?next={LIST}")
    page.locator("input[name=login]").fill(email)
    page.locator("input[name=password]").fill(PASSWORD)
    page.get_by_role("button", name="Sign in", exact=True).click()
    page.wait_for_url(f"{base}{LIST}")


@pytest.mark.browser
class TestCredentialsPage:
    @pytest.fixture
    def shown(self, live_server: Any, owner: User, page: Page) -> str:
        """The secret, with the page that shows it open."""
        sign_in(page, live_server.url, owner.email)
        page.get_by_role("link", name="Create service account").first.click()
        page.get_by_label("Name").fill("caller")
        page.get_by_role("button", name="Create", exact=True).click()
        page.wait_for_url(f"{live_server.url}{LIST}")  # the script has made this a visit of the list
        return page.locator("#client-secret").input_value()

    def test_reloading_shows_the_list(self, shown: str, page: Page, violations: list[str]) -> None:
        page.reload()
        expect(page.get_by_role("heading", name="Service accounts")).to_be_visible()
        expect(page.get_by_role("link", name="caller")).to_be_visible()
        assert shown not in page.content()
        assert violations == []

    def test_going_back_shows_nothing(self, shown: str, page: Page, violations: list[str]) -> None:
        page.get_by_role("link", name="I have saved them").click()
        page.wait_for_load_state()
        assert shown not in page.content()
        page.go_back()
        page.wait_for_load_state()
        assert shown not in page.content()
        page.go_forward()
        page.wait_for_load_state()
        assert shown not in page.content()
        assert violations == []

    def test_copy_and_download(self, shown: str, page: Page, live_server: Any, violations: list[str]) -> None:
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=live_server.url)
        page.locator("[data-copy-from='#client-secret']").click()
        expect(page.locator("[data-copy-from='#client-secret']")).to_have_class(re.compile("is-copied"))
        assert page.evaluate("navigator.clipboard.readText()") == shown
        with page.expect_download() as download:
            page.get_by_role("button", name="Download both as a file").click()
        text = Path(download.value.path()).read_text()
        assert f"BERTH_CLIENT_SECRET={shown}\n" in text
        assert violations == []

    def test_deleting_asks_for_the_name(self, shown: str, page: Page, violations: list[str]) -> None:
        page.reload()
        page.get_by_role("button", name="Actions for caller").click()
        page.get_by_role("button", name="Delete").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
        dialog.get_by_role("textbox").fill("caller")
        dialog.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("No service account yet")).to_be_visible()
        assert violations == []

    def test_it_fits_a_phone(self, shown: str, page: Page) -> None:
        page.set_viewport_size({"width": 375, "height": 700})
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= 375


@pytest.mark.browser
class TestApiKeyPage:
    def test_from_the_empty_page_to_a_deleted_key(
        self, live_server: Any, owner: User, page: Page, violations: list[str]
    ) -> None:
        sign_in(page, live_server.url, owner.email)
        page.get_by_role("link", name="API keys").click()
        page.get_by_role("link", name="Create API key").click()
        page.get_by_label("Name").fill("laptop")
        page.get_by_label("Only these").check()
        expect(page.get_by_text("This project has no endpoint yet.")).to_be_visible()
        page.get_by_label("All of the project").check()
        expect(page.get_by_text("This project has no endpoint yet.")).to_be_hidden()
        page.get_by_role("button", name="Create", exact=True).click()
        text = page.locator("#api-key").input_value()
        assert text.count(".") == 2
        page.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=live_server.url)
        page.locator("[data-copy-from='#python']").click()
        expect(page.locator("[data-copy-from='#python']")).to_have_class(re.compile("is-copied"))
        assert f'api_key="{text}"' in page.evaluate("navigator.clipboard.readText()")
        page.get_by_role("link", name="I have saved it").click()
        page.go_back()
        page.wait_for_load_state()
        assert text not in page.content()
        page.goto(f"{live_server.url}/iam/api-keys/")
        page.get_by_role("button", name="Delete").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_role("button", name="Delete")).to_be_disabled()
        dialog.get_by_role("textbox").fill("laptop")
        dialog.get_by_role("button", name="Delete").click()
        expect(page.get_by_text("You have no API key in this project")).to_be_visible()
        assert violations == []


@pytest.mark.browser
class TestInvitationLink:
    def test_its_secret_stays_in_the_browser(
        self, live_server: Any, owner_actor: Actor, page: Page, violations: list[str], settings: Any
    ) -> None:
        """It is in no address that is asked for, no Referer and no history; and the link works."""
        settings.BERTH_PUBLIC_URL = live_server.url
        link = invitations.create(owner_actor, Role.USER, timezone.now()).link
        secret = link.partition("#")[2]
        told: list[str] = []
        page.on("request", lambda asked: told.append(asked.url + str(asked.headers)))
        page.goto(link)
        page.get_by_role("heading", name="You are invited to Alpha").wait_for()
        assert page.url == f"{live_server.url}/invitation/"
        assert not any(secret in text.replace(link, "") for text in told)
        page.get_by_label("Email address").fill("new@example.org")
        page.get_by_label("Password", exact=True).fill("an ordinary wombat 71")
        page.get_by_role("button", name="Make the account and join").click()
        expect(page.get_by_text("Welcome to Alpha")).to_be_visible()
        for _step in range(3):
            page.go_back()
            assert secret not in page.url
        assert violations == []


@pytest.mark.browser
class TestDocs:
    def test_the_api_documentation_renders_under_our_policy(
        self, live_server: Any, page: Page, violations: list[str]
    ) -> None:
        response = page.goto(f"{live_server.url}/api/docs/")
        assert response is not None
        policy = response.headers["content-security-policy"]
        assert "unsafe" not in policy
        expect(page.get_by_role("heading", name="Berth management API")).to_be_visible()
        page.locator(".opblock", has_text="/api/v1/service-accounts/").first.click()
        expect(page.locator(".opblock.is-open .opblock-body")).to_be_visible()
        assert violations == []
