"""Counting the gateways' access logs: lines a second, from an agent's request to the committed rows."""

from __future__ import annotations

from contextlib import ExitStack

from tests import support_postgres
from tests.bench.fleet import answer
from tests.bench.result import Result

LINES, ENDPOINTS, ACCOUNTS = 60_000, 30, 100
GOAL_LINES_S = 20_000


def run() -> list[Result]:
    """Read, parsed, added up and written by one process, on SQLite and on a PostgreSQL of its own.

    The goal is held against that process's own time: other work on the machine does not change it. PostgreSQL's server
    works beside it.
    """
    found = _measured("SQLite", "")
    if support_postgres.programs() is None:
        return [*found, Result("usage: PostgreSQL (is not installed)", 0, "missing", "-", None)]
    with ExitStack() as stack:
        server = stack.enter_context(support_postgres.server())
        return [*found, *_measured("PostgreSQL", support_postgres.new_database(server.url("berth")))]


def _measured(database: str, url: str) -> list[Result]:
    said = answer("tests.bench.usage_inside", str(LINES), str(ENDPOINTS), str(ACCOUNTS), database=url)
    label = f"usage: lines of access log counted, {ENDPOINTS} endpoints x {ACCOUNTS} accounts, {database}"
    a_second = round(said["lines"] / said["cpu"])
    return [
        Result(
            f"{label}, in a second of one core",
            a_second,
            "1/s",
            f">= {GOAL_LINES_S}",
            a_second >= GOAL_LINES_S,
        ),
        Result(f"{label}, by the clock", round(said["lines"] / said["wall"]), "1/s", "-", None),
    ]
