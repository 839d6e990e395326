"""What `make test` does: which databases, what counts as a failure, and a PostgreSQL that never outlives its run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from django.db import connection

from tests import run, support_postgres
from tests.run import Pass
from tests.support import require
from tests.support_processes import ROOT, eventually


@pytest.mark.parametrize(
    ("arguments", "databases", "rest"),
    [
        ([], ["sqlite", "postgresql"], []),
        (["--database=both", "-x"], ["sqlite", "postgresql"], ["-x"]),
        (["-k", "name", "--database=sqlite"], ["sqlite"], ["-k", "name"]),
        (["tests/unit", "--database=postgresql"], ["postgresql"], ["tests/unit"]),
    ],
)
def test_which_databases(arguments: list[str], databases: list[str], rest: list[str]) -> None:
    assert run.split(arguments) == (databases, rest)


def test_another_database_is_refused() -> None:
    with pytest.raises(SystemExit, match="there are sqlite, postgresql and both"):
        run.split(["--database=mysql"])


@pytest.mark.parametrize(
    ("statuses", "skipped", "strict", "status"),
    [
        ([0, 0], False, True, 0),
        ([1, 0], False, False, 1),
        ([0, 1], False, False, 1),
        ([0, 5], False, True, 0),  # the chosen tests touch no database
        ([5, 5], False, False, 5),
        ([0], True, False, 0),  # said aloud, on a person's machine
        ([0], True, True, 1),  # in CI it is a failure
        ([2], True, True, 2),
    ],
)
def test_what_is_a_failure(statuses: list[int], skipped: bool, strict: bool, status: int) -> None:
    assert run.verdict([Pass("x", one, 1.0) for one in statuses], skipped=skipped, strict=strict) == status


@pytest.mark.django_db
def test_this_pass_is_on_the_database_that_it_says() -> None:
    wanted = "postgresql" if os.environ.get(support_postgres.URL_VARIABLE) else "sqlite"
    assert connection.vendor == wanted


_KILLED = """
import os, signal
from tests.support_postgres import server
with server() as one:
    print(one.folder, (one.folder / "data" / "postmaster.pid").read_text().split()[0], flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_leaves_no_server_and_the_next_one_no_folder() -> None:
    require("PostgreSQL", support_postgres.programs() is not None, "no initdb")
    done = subprocess.run([sys.executable, "-c", _KILLED], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    folder, pid = done.stdout.split()

    def gone() -> bool:
        return not psutil.pid_exists(int(pid)) or psutil.Process(int(pid)).status() == psutil.STATUS_ZOMBIE

    eventually(gone, "the server has ended with its run")
    assert Path(folder).exists()
    support_postgres.remove_left_behind()
    assert not Path(folder).exists()


def test_a_server_that_crashes_keeps_what_was_committed() -> None:
    require("PostgreSQL", support_postgres.programs() is not None, "no initdb")
    with support_postgres.server() as one:
        url = support_postgres.new_database(one.url("postgres"))
        one.stop(signal.SIGQUIT)
        one.start()
        assert support_postgres.new_database(url) != url
    assert not one.folder.exists()
