"""The list of a project with a fleet in it, as a page and by the API: time in web, and queries."""

from __future__ import annotations

from tests.bench.fleet import ENDPOINTS, measured
from tests.bench.result import Result

GOAL_MS = 150.0
GOAL_QUERIES = 12


def run() -> list[Result]:
    """Each way to look at the list: medians, through all the middleware."""
    return [line for name, found in measured("listing").items() for line in _lines(name, found)]


def _lines(name: str, found: dict[str, float]) -> list[Result]:
    wall, queries = found["wall"] * 1000, int(found["queries"])
    label = f"list of {ENDPOINTS} endpoints, {name}"
    return [
        Result(f"{label}, p50", round(wall), "ms", f"<= {GOAL_MS:g}", wall <= GOAL_MS),
        Result(f"{label}, processor time", round(found["cpu"] * 1000), "ms", "", None),
        Result(f"{label}, queries", queries, "", f"<= {GOAL_QUERIES}", queries <= GOAL_QUERIES),
    ]
