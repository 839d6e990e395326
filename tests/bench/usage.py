"""Counting the gateways' access logs: lines a second, from an agent's request to the committed rows."""

from __future__ import annotations

from contextlib import ExitStack

from tests import support_postgres
from tests.bench.fleet import answer
from tests.bench.result import Result

LINES, ENDPOINTS, ACCOUNTS = 60_000, 30, 100
GOAL_LINES_S = 20_000


def run() -> list[Result]:
    """Read, parsed, added up and written by one process. On PostgreSQL its server works on the same cores, which is why
    no goal stands there."""
    found = [_measured("SQLite", "", GOAL_LINES_S)]
    if support_postgres.programs() is None:
        return [*found[0], Result("usage: PostgreSQL (is not installed)", 0, "missing", "-", None)]
    with ExitStack() as stack:
        server = stack.enter_context(support_postgres.server())
        found.append(_measured("PostgreSQL", support_postgres.new_database(server.url("berth"))))
    return [result for part in found for result in part]


def _measured(database: str, url: str, goal: int | None = None) -> list[Result]:
    said = answer("tests.bench.usage_inside", str(LINES), str(ENDPOINTS), str(ACCOUNTS), database=url)
    label = f"usage: lines of access log counted, {ENDPOINTS} endpoints x {ACCOUNTS} accounts, {database}"
    a_second = round(said["lines"] / said["wall"])
    return [
        Result(label, a_second, "1/s", f">= {goal}" if goal else "-", a_second >= goal if goal else None),
        Result(
            f"{label}, a line's processor time", round(said["cpu"] / said["lines"] * 1e6, 1), "us", "", None
        ),
    ]
