"""Who reconciles an endpoint: one at a time, and a killed worker is not waited for by those who see that it is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from config import holders
from config.holders import is_dead
from endpoints.models import Endpoint
from endpoints.reconciler import lease as lease_module
from endpoints.reconciler.lease import LEASE, acquire, release_dead
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint
from tests.support_processes import PYTHONPATH, ROOT

pytestmark = pytest.mark.django_db

_HOLD = """
import sys, time, django
django.setup()
from config.holders import new_token
print(new_token(), flush=True)
time.sleep(600)
"""


@pytest.fixture
def endpoint(owner_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(owner_actor)


@pytest.fixture
def worker() -> tuple[subprocess.Popen[str], str]:  # type: ignore[misc]
    """A process that says under which token it would hold a lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PYTHONPATH},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process, process.stdout.readline().strip()  # type: ignore[misc]
    process.kill()
    process.wait(10)
    process.stdout.close()


def held_by(endpoint: Endpoint, token: str) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(lease_token=token, lease_until=timezone.now() + LEASE)


def test_one_at_a_time(endpoint: Endpoint) -> None:
    first = acquire(endpoint.id)
    assert first is not None
    assert acquire(endpoint.id) is None
    assert release_dead() == []
    assert first.finish()
    assert acquire(endpoint.id) is not None


def test_a_token_fits_its_column(endpoint: Endpoint) -> None:
    lease = acquire(endpoint.id)
    assert lease is not None
    assert f":{os.getpid()}:" in lease.token
    assert (
        len("12345678:4194304:99999999999.0123456789") <= 40
    )  # the longest one, after 31 years without a restart


def test_a_killed_workers_lease_is_free_at_once(
    endpoint: Endpoint, worker: tuple[subprocess.Popen[str], str]
) -> None:
    process, token = worker
    held_by(endpoint, token)
    assert release_dead() == []
    assert acquire(endpoint.id) is None
    process.send_signal(signal.SIGSTOP)  # frozen is not dead
    assert acquire(endpoint.id) is None
    process.kill()
    process.wait(10)
    assert release_dead() == [endpoint.id]
    assert acquire(endpoint.id) is not None


def test_a_killed_workers_lease_is_taken_over_without_a_sweep(
    endpoint: Endpoint, worker: tuple[subprocess.Popen[str], str]
) -> None:
    process, token = worker
    held_by(endpoint, token)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # a zombie: nobody has collected it yet
    assert acquire(endpoint.id) is not None


def test_what_is_not_known_for_certain_waits_for_the_expiry(endpoint: Endpoint) -> None:
    lease = acquire(endpoint.id)
    assert lease is not None
    host, _, rest = lease.token.partition(":")
    elsewhere = f"{'0' * 8}:{rest}"
    for token in (elsewhere, "0123456789abcdef0123456789abcdef", f"{host}:x:1.a", "", lease.token):
        assert not is_dead(token), token
        if token:
            held_by(endpoint, token)
            assert release_dead() == []
            assert acquire(endpoint.id) is None
    assert is_dead(f"{host}:{os.getpid()}:1.a"), "the number was given to another process"
    Endpoint.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    assert acquire(endpoint.id) is not None


def test_where_the_system_does_not_tell_the_expiry_alone_counts(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (holders, lease_module):
        monkeypatch.setattr(module, "host", lambda: "")
    lease = acquire(endpoint.id)
    assert lease is not None
    assert release_dead() == []
    assert not is_dead(lease.token)
    assert acquire(endpoint.id) is None


def test_the_last_one_out_does_not_free_its_successors_lease(endpoint: Endpoint) -> None:
    first = acquire(endpoint.id)
    assert first is not None
    Endpoint.objects.update(lease_until=timezone.now() - timedelta(seconds=1))
    second = acquire(endpoint.id)
    assert second is not None
    assert not first.renew()
    assert not first.write(status="ACTIVE")
    assert not first.finish()
    assert second.renew()


def test_looking_for_the_dead_is_one_query(endpoint: Endpoint) -> None:
    acquire(endpoint.id)
    with CaptureQueriesContext(connection) as queries:
        release_dead()
    assert len(queries) == 1


def test_a_lease_from_before_the_clock_was_set_back_holds_nobody_up(endpoint: Endpoint) -> None:
    held_by(endpoint, "of another machine")
    assert acquire(endpoint.id) is None
    Endpoint.objects.filter(pk=endpoint.pk).update(lease_until=timezone.now() + timedelta(hours=1))
    assert acquire(endpoint.id) is not None
