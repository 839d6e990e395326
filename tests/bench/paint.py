"""State change → painted: how long after an event of an endpoint has happened a browser shows it."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page

from tests.bench.inside import take_weights
from tests.bench.result import Result
from tests.support_browser import chromium, new_context
from tests.support_platform import Place, place, platform
from tests.support_processes import PYTHONPATH, ROOT, Running, python

CHANGES = 12  # pauses and resumes; each brings further events of the platform's own
GOAL_P95_MS = 300

# Notes for every event's row when it has been painted: after the frame that follows its insertion.
_WATCH = """() => {
  window.painted = {};
  const note = () => document.querySelectorAll("[id^=ev-]").forEach(row => {
    if (row.id in window.painted) return;
    window.painted[row.id] = 0;
    requestAnimationFrame(() => setTimeout(() => { window.painted[row.id] = Date.now(); }));
  });
  note();
  window.before = new Set(Object.keys(window.painted));
  new MutationObserver(note).observe(document.body, {childList: true, subtree: true});
}"""
_READ = "() => Object.fromEntries(Object.entries(window.painted).filter(([id]) => !window.before.has(id)))"


def run() -> list[Result]:
    """p50 and p95 over all events of some pauses and resumes, on the process runtime."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        where = place(Path(folder))
        take_weights(where.home / "models")
        with platform(where) as running:
            running.line(r"Berth is up after", timeout_s=180)
            endpoint_id = _inside(where, "deploy")
            with chromium() as browser:
                page = new_context(browser, base_url=where.console).new_page()
                _sign_in(page, running)
                page.goto(f"/inference/{endpoint_id}/events/")
                page.locator("[data-live-mark]").wait_for()
                page.evaluate(_WATCH)
                happened = _inside(where, "change", endpoint_id, str(CHANGES))
                page.wait_for_timeout(2000)
                painted = page.evaluate(_READ)
    delays = sorted(
        painted[f"ev-{number}"] - at for number, at in happened.items() if painted.get(f"ev-{number}")
    )
    assert len(delays) >= 0.9 * len(happened), f"{len(delays)} of {len(happened)} events were shown"
    p95 = delays[int(0.95 * (len(delays) - 1))]
    return [
        Result(
            f"state change → painted, p95 of {len(delays)}",
            round(p95),
            "ms",
            f"<= {GOAL_P95_MS}",
            p95 <= GOAL_P95_MS,
        ),
        Result("state change → painted, p50", round(statistics.median(delays)), "ms", "", None),
    ]


def _sign_in(page: Page, running: Running) -> None:
    login = running.line(r"first admin\s+(\S+)\s+password (\S+)")
    page.goto("/")
    page.get_by_label("Email address").fill(login[1])
    page.get_by_label("Password", exact=True).fill(login[2])
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("heading", level=1).wait_for()


def _inside(where: Place, *arguments: str) -> Any:
    """What tests.bench.paint_inside answers, run with the platform's own settings."""
    done = subprocess.run(
        python("-m", "tests.bench.paint_inside", *arguments),
        cwd=ROOT,
        env={**os.environ, **where.env, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
