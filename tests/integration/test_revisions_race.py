"""Several people change one endpoint at once, from processes of their own, on a real database file or server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_platform import place
from tests.support_processes import PYTHONPATH, ROOT, python

pytestmark = pytest.mark.any_database

PEOPLE, CHANGES = 4, 5

SETUP = """
import django; django.setup()
from tests.support_console_seed import *
load_data(); member("editor@example.org")
print(new("shared", "editor@example.org", max_replicas=1))
"""

# Each person changes a setting of its own value and counts a column up that the others change too.
PERSON = f"""
import sys
import django; django.setup()
from tests.support_console_seed import *
from tests.support_console_seed import _actor
actor, mine, endpoint = _actor("editor@example.org"), int(sys.argv[2]), sys.argv[1]
print("ready", flush=True); sys.stdin.readline()
for number in range({CHANGES}):
    seen = get(endpoint)
    services.update_endpoint(actor=actor, endpoint=seen, changes={{"environment": {{f"P{{mine}}_{{number}}": "x"}}}})
    services.restart_endpoint(actor=actor, endpoint=seen)
"""

RESULT = """
import json, sys
import django; django.setup()
from tests.support_console_seed import *
endpoint = get(sys.argv[1])
print(json.dumps({
    "numbers": sorted(endpoint.revisions.values_list("number", flat=True)),
    "variables": len(endpoint.revision.environment),
    "grows": [len(r.environment) for r in endpoint.revisions.order_by("number")],
    "epoch": endpoint.epoch, "generation": endpoint.generation, "events": endpoint.events.count(),
}))
"""


def test_no_change_is_lost_and_no_number_is_given_twice(tmp_path: Path) -> None:
    where = place(tmp_path)
    where.home.mkdir(parents=True)
    env = {
        **os.environ,
        **where.env,
        "PYTHONPATH": PYTHONPATH,
        "REDIS_URL": f"unix://{where.home}/nobody.sock",  # hints are lost: nothing here depends on them
    }
    subprocess.run(python("manage.py", "migrate", "-v0"), cwd=ROOT, env=env, check=True)

    def run(code: str, *arguments: str) -> str:
        command = [sys.executable, "-c", code, *arguments]
        return subprocess.run(
            command, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True
        ).stdout.strip()

    endpoint = run(SETUP)
    people = [
        subprocess.Popen(
            [sys.executable, "-c", PERSON, endpoint, str(number)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(PEOPLE)
    ]
    try:
        for person in people:
            assert person.stdout is not None
            assert person.stdout.readline() == "ready\n"
        for person in people:
            assert person.stdin is not None
            person.stdin.write("go\n")
            person.stdin.flush()
        assert [person.wait(120) for person in people] == [0] * PEOPLE
    finally:
        for person in people:
            person.kill()
            person.communicate()
    made = PEOPLE * CHANGES
    found = json.loads(run(RESULT, endpoint))
    assert found == {
        "numbers": list(range(1, made + 2)),
        "variables": made,
        "grows": list(range(made + 1)),
        "epoch": made,
        "generation": 1 + 2 * made,
        "events": 1 + 2 * made,
    }
