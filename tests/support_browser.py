"""Chromium for tests, as an operator's machine has it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tests.support import require

PATIENCE_MS = 15_000  # nothing on a page may take longer, beside other work too

FLAGS = (
    "--no-sandbox",  # tests run as root on bare machines
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless Chromium from PATH, ended with the block."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    require("chromium", program is not None, "no chromium on PATH")
    expect.set_options(timeout=PATIENCE_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=list(FLAGS))
        yield browser
        browser.close()


def new_context(browser: Browser, **options: Any) -> BrowserContext:
    """A clean profile that may use the clipboard; nothing on a page may take longer than PATIENCE_MS."""
    context = browser.new_context(
        **{
            "viewport": {"width": 1440, "height": 1000},
            "permissions": ["clipboard-read", "clipboard-write"],
            **options,
        }
    )
    context.set_default_timeout(PATIENCE_MS)
    return context


def picture(page: Any, folder: Path, name: str) -> None:
    """A picture of the whole page for whoever looks at a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png", full_page=True)


@contextmanager
def signed_in(
    url: str, who: str, password: str, *, pictures: Path, name: str, **options: Any
) -> Iterator[Page]:
    """A page on which `who` has signed in. Whatever the browser complains about fails the block; a picture of its end
    is left in `pictures`."""
    with chromium() as browser:
        context = new_context(browser, **options)
        page = context.new_page()
        complaints: list[str] = []
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "console",
            lambda line: complaints.append(line.text) if "Content Security Policy" in line.text else None,
        )
        page.goto(f"{url}/accounts/login/")
        page.fill("[name=login]", who)
        page.fill("[name=password]", password)
        page.press("[name=password]", "Enter")
        page.wait_for_url(f"{url}/")
        try:
            yield page
        finally:
            picture(page, pictures, name)
        assert complaints == []
        context.close()
