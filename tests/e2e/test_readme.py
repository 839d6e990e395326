"""Every command of the README is run as it stands there; a new one without a test fails this file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support_platform import Place, place
from tests.support_processes import ROOT, Running, started

pytestmark = [pytest.mark.envoy, pytest.mark.redis, pytest.mark.timeout(420)]

README = (ROOT / "README.md").read_text()
CONSOLE = re.findall(
    r"^\$ (.+)$", "\n".join(re.findall(r"```console\n(.*?)```", README, re.DOTALL)), re.MULTILINE
)
SHELL = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
INLINE = re.findall(r"`((?:make|\.venv/bin/python) [^`]+)`", README)
# What runs each command: a test below, or for the three that hold this very test, CI itself with fewer tests.
RUN_BY = {
    "make demo": "test_the_tour",
    "make up": "test_the_tour",
    ".venv/bin/python manage.py reset_admin_password": "test_the_tour",
    'make test ARGS="tests/unit -k plan"': "test_developers_commands",
    "make test": "test_developers_commands",
    "make lint": "test_developers_commands",
    "make bench": "test_developers_commands",
    "make faults SEEDS=20": "test_developers_commands",
}


def test_every_command_is_run_by_a_test() -> None:
    assert {*CONSOLE, *INLINE} == set(RUN_BY)
    assert len(SHELL) == 1
    assert set(RUN_BY.values()) <= set(globals())


def test_what_it_points_at_exists() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).is_file(), target
    for folder in re.findall(r"^\| `([a-z/_]+/)` \|", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


@pytest.fixture
def here(tmp_path: Path) -> Place:
    return place(tmp_path, "process")


def sh(command: str, where: Place | None = None, timeout_s: float = 200, **env: str) -> str:
    """What the command prints; it must succeed."""
    surroundings = {**os.environ, **(where.env if where else {}), **env}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def running(command: str, where: Place) -> Iterator[Running]:
    with started(["bash", "-c", f"exec {command}"], where.home, where.env) as found:
        yield found
        psutil.Process(found.pid).children()[0].send_signal(signal.SIGINT)
        found.process.wait(30)


def test_the_tour(here: Place) -> None:
    for demo in running("make demo", here):
        demo.line(r"Ctrl-C stops it", 300)
        strings = {
            "IAM": here.console,
            "ENDPOINT_URL": demo.line(r"endpoint URL +(\S+)")[1],
            "CLIENT_ID": demo.line(r"client_id +(\S+)")[1],
            "CLIENT_SECRET": demo.line(r"client_secret +(\S+)")[1],
        }
        models = json.loads(sh(SHELL[0], **strings))
        assert models["data"][0]["id"] == "all-MiniLM-L6-v2"
    for up in running("make up", here):
        up.line(r"Berth is up", 120)
        printed = sh(".venv/bin/python manage.py reset_admin_password", here)
        assert re.search(r"\S{12,}", printed)


def test_developers_commands() -> None:
    one_worker = {"PYTEST_ADDOPTS": "-p no:cacheprovider -q"}
    assert " passed" in sh('make test ARGS="tests/unit -k plan"', **one_worker)
    assert " passed" in sh("make test ARGS='tests/unit/test_reconciler_plan.py -n0'", **one_worker)
    assert "all clean" in sh("make lint ARGS=guards")
    assert "token calls per web process" in sh("make bench ARGS=tokens")
    # The scenarios themselves are tests: tests/faults/test_faults.py.
    assert "Fault injection on the real stack" in sh("make faults SEEDS=20 ARGS=--help")
