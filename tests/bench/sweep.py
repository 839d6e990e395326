"""A full sweep over a fleet that is as it should be, in one worker's processor time."""

from __future__ import annotations

from tests.bench.fleet import ENDPOINTS, measured
from tests.bench.result import Result

GOAL_S = 10.0
GOAL_QUERIES = 2.0


def run() -> list[Result]:
    """Everything that `endpoints.tasks.sweep` does; beside it a single reconcile of an endpoint that needs nothing."""
    found = measured("sweep")
    each = found["queries"] / ENDPOINTS
    label = f"sweep of {ENDPOINTS} endpoints, {found['replicas']} replicas"
    return [
        Result(
            f"{label}, processor time", round(found["cpu"], 2), "s", f"<= {GOAL_S:g}", found["cpu"] <= GOAL_S
        ),
        Result(f"{label}, wall time", round(found["wall"], 2), "s", "", None),
        Result(f"{label}, queries in all", found["queries"], "", "", None),
        Result(
            "sweep, queries an unchanged endpoint", each, "", f"<= {GOAL_QUERIES:g}", each <= GOAL_QUERIES
        ),
        Result(
            "reconcile of an unchanged endpoint", round(found["reconcile"]["cpu"] * 1000, 1), "ms", "", None
        ),
        Result("reconcile of an unchanged endpoint, queries", found["reconcile"]["queries"], "", "", None),
    ]
