"""The gateway's snapshot for a fleet: built from the database, and polled while nothing changes."""

from __future__ import annotations

from tests.bench.fleet import ENDPOINTS, REPLICAS, measured
from tests.bench.result import Result

GOAL_BUILD_S = 1.0
GOAL_POLL_MS = 3.0


def run() -> list[Result]:
    """Read, built, checked and stored in a real Redis; and a poll through web's own view, with its middleware."""
    found = measured("snapshot")
    build, poll = found["build"]["wall"], found["poll"]["wall"] * 1000
    label = f"snapshot of {ENDPOINTS} endpoints, {ENDPOINTS * REPLICAS} replicas"
    return [
        Result(f"{label}, built", round(build, 2), "s", f"<= {GOAL_BUILD_S:g}", build <= GOAL_BUILD_S),
        Result(f"{label}, built, processor time", round(found["build"]["cpu"], 2), "s", "", None),
        Result("unchanged poll, p50", round(poll, 2), "ms", f"<= {GOAL_POLL_MS:g}", poll <= GOAL_POLL_MS),
        Result("unchanged poll, queries", found["poll"]["queries"], "", "", None),
    ]
