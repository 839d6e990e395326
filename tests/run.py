"""`make test`: front-end assets, then pytest: every test on SQLite, and those that touch a database on PostgreSQL too.

Arguments are pytest's, and `--database=sqlite` or `--database=postgresql` for one of the two passes. The default is
every test in both passes, two at a time.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import support_postgres

ROOT = Path(__file__).resolve().parents[1]
SQLITE, POSTGRESQL = "sqlite", "postgresql"
MISSING = """
  !! PostgreSQL is not installed: nothing was tested on it.
  !! Install Debian's package `postgresql` (its service is not needed), or run `.ci/prepare` as root."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What came of one run of pytest."""

    database: str
    status: int
    seconds: float


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """(the databases to run on, what is left for pytest). SystemExit for a database that there is none of."""
    databases = [SQLITE, POSTGRESQL]
    left = []
    for argument in arguments:
        if not argument.startswith("--database="):
            left.append(argument)
            continue
        name = argument.partition("=")[2]
        if name not in (SQLITE, POSTGRESQL, "both"):
            raise SystemExit(f"--database={name}: there are {SQLITE}, {POSTGRESQL} and both.")
        databases = [SQLITE, POSTGRESQL] if name == "both" else [name]
    return databases, left


def command(arguments: list[str]) -> list[str]:
    """What to call. Files stay whole on one worker: their servers and containers are started once a file."""
    chosen = any(argument.startswith("-n") for argument in arguments)
    # One more than there are cores, and no more than four: the tests start real servers, and wait for them.
    workers = min((os.cpu_count() or 1) + 1, 4)
    parallel = [] if chosen else ["-n", str(workers), "--dist", "loadfile", "--no-loadscope-reorder"]
    return [sys.executable, "-m", "pytest", *parallel, *arguments]


def run_on(database: str, arguments: list[str]) -> Pass:
    """One pass, with a server of its own if it needs one."""
    print(f"\n  tests on {'SQLite' if database == SQLITE else 'PostgreSQL'}", flush=True)
    began = time.monotonic()
    # make's own variables stay behind: a test that calls make would get the ARGS of this call.
    left_out = {support_postgres.URL_VARIABLE, "MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "MAKELEVEL", "ARGS"}
    environment = {key: value for key, value in os.environ.items() if key not in left_out}
    with ExitStack() as stack:
        if database == POSTGRESQL:
            server = stack.enter_context(support_postgres.server())
            environment[support_postgres.URL_VARIABLE] = server.url("berth")
        status = subprocess.run(command(arguments), cwd=ROOT, env=environment, check=False).returncode
    return Pass(database, status, time.monotonic() - began)


def verdict(passes: list[Pass], *, skipped: bool, strict: bool) -> int:
    """The exit status: the first failure's. That a pass finds none of the chosen tests is one only if all do."""
    nothing = int(pytest.ExitCode.NO_TESTS_COLLECTED)
    failed = [one.status for one in passes if one.status not in (0, nothing)]
    if failed:
        return failed[0]
    if skipped and strict:
        return 1
    return nothing if passes and all(one.status == nothing for one in passes) else 0


def main(arguments: list[str]) -> int:
    """Prepare, run, and pass on pytest's exit status."""
    databases, rest = split(arguments)
    prepared = subprocess.run([sys.executable, "platform/launcher/assets.py"], cwd=ROOT, check=False)
    if prepared.returncode:
        return prepared.returncode
    skipped = POSTGRESQL in databases and support_postgres.programs() is None
    passes: list[Pass] = []
    for database in databases:
        if not (database == POSTGRESQL and skipped):
            passes.append(run_on(database, rest))
            if passes[-1].status == pytest.ExitCode.INTERRUPTED:
                break
    print()
    for one in passes:
        ended = {0: "passed", 5: "none of these tests touches it"}.get(
            one.status, f"exit status {one.status}"
        )
        print(f"  {one.database:<10}  {one.seconds:5.0f} s  {ended}")
    if skipped:
        print(MISSING)
    return verdict(passes, skipped=skipped, strict=os.environ.get("CI") == "true")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
