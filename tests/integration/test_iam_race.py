"""Several admins and several windows of one person at once, from processes of their own, on a real database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_platform import place
from tests.support_processes import PYTHONPATH, ROOT

pytestmark = pytest.mark.any_database

WINDOWS, TRIES = 2, 6

COMMON = """
import json, sys
import django; django.setup()
from django.core.exceptions import ValidationError
from iam import services
from iam.actors import actor_for_user
from iam.models import *
from iam.roles import Role
"""

SETUP = (
    COMMON
    + f"""
from django.core.management import call_command
call_command("migrate", verbosity=0)
user = User.objects.create_user("owner@example.org")
for name in ("Beta", "Alpha"):
    project = Project.objects.create(name=name)
    Membership.objects.create(user=user, project=project, role=Role.ADMIN)
project = actor_for_user(user).project
for number in range({TRIES}):
    services.create_service_account(actor_for_user(user), f"a{{number}}", [Role.USER])
"""
)

# Each window wants a secret of every account, a key of every name in a project of its own, and changes a limit of its
# own.
WINDOW = (
    COMMON
    + """
mine = int(sys.argv[1])
person = User.objects.get()
actor = actor_for_user(person)
there = actor_for_user(person, Project.objects.order_by("name")[mine].id)
limit = ["requests_per_minute", "tokens_per_minute"][mine]
accounts = list(ServiceAccount.objects.order_by("name"))
print("ready", flush=True); sys.stdin.readline()
made = [0, 0]
for number, account in enumerate(accounts):
    for place, act in enumerate((
        lambda: services.add_secret(actor, account),
        lambda: services.create_api_key(there, f"k{number}"),
    )):
        try:
            act()
            made[place] += 1
        except ValidationError:
            pass
    services.update_service_account(actor, account, **{limit: 1 + mine})
print(json.dumps(made), flush=True)
sys.stdin.readline()  # the others have finished, too
limits = ServiceAccount.objects.values_list("requests_per_minute", "tokens_per_minute")
print(json.dumps({
    "secrets": [account.secrets.count() for account in ServiceAccount.objects.all()],
    "keys": ApiKey.objects.count(),
    "limits": sorted(set(limits)),
    "records": AuditEvent.objects.filter(action__in=["secret.create", "api_key.create"]).count(),
}))
"""
)


def heard(window: subprocess.Popen[str]) -> str:
    assert window.stdout is not None
    return window.stdout.readline().strip()


def tell(window: subprocess.Popen[str]) -> None:
    assert window.stdin is not None
    window.stdin.write("go\n")
    window.stdin.flush()


@pytest.mark.timeout(120)
def test_two_adds_at_once_find_room_for_one(tmp_path: Path) -> None:
    where = place(tmp_path)
    where.home.mkdir(parents=True)
    env = {
        **os.environ,
        **where.env,
        "PYTHONPATH": PYTHONPATH,
        "REDIS_URL": f"unix://{where.home}/nobody.sock",  # nothing here depends on it
    }
    subprocess.run([sys.executable, "-c", SETUP], cwd=ROOT, env=env, check=True)
    windows = [
        subprocess.Popen(
            [sys.executable, "-c", WINDOW, str(number)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WINDOWS)
    ]
    made, seen = [], []
    try:
        for window in windows:
            assert heard(window) == "ready"
        for window in windows:
            tell(window)
        for window in windows:
            made.append(json.loads(heard(window)))
        for window in windows:
            tell(window)
            seen.append(json.loads(heard(window)))
            assert window.wait(60) == 0
    finally:
        for window in windows:
            window.kill()
            window.communicate()
    # One more secret of each account and two keys of the person, whoever came first; no change undid another one.
    assert [sum(counts) for counts in zip(*made, strict=True)] == [TRIES, 2]
    assert seen == WINDOWS * [{"secrets": [2] * TRIES, "keys": 2, "limits": [[1, 2]], "records": TRIES + 2}]
