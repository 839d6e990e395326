"""A worker that is killed between any two steps: whoever comes next ends where it would have ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
import redis
from django.db import connection
from django.utils import timezone

from endpoints import services
from endpoints.models import Endpoint, Replica
from endpoints.reconciler import probe
from endpoints.reconciler.lease import Lease
from endpoints.reconciler.run import reconcile
from iam.actors import Actor
from runtimes.fake import FakeEngine, FakeRuntime
from tests import support_deploy
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
DRIVER_CALLS = ("start", "stop", "remove", "remove_network")
MOST_STEPS = 120


class Killed(BaseException):
    """kill -9: nothing of the worker runs after it."""


class Steps:
    """Counts every write to the database and every call that changes the engine; dies before the one it was told."""

    def __init__(self, runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        for name in DRIVER_CALLS:
            monkeypatch.setattr(runtime, name, self._counted(getattr(runtime, name)))
        finish = Lease.finish
        monkeypatch.setattr(Lease, "finish", lambda lease: finish(lease) if self.left != 0 else False)

    def _step(self) -> None:
        if self.left is None:
            return
        if self.left <= 1:
            self.left = 0
            raise Killed
        self.left -= 1

    def _counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            self._step()
            return call(*args, **options)

        return counted

    def _query(self, execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        if sql.startswith(("INSERT", "UPDATE", "DELETE")):
            self._step()
        return execute(sql, *rest)

    @contextmanager
    def dying_before(self, step: int) -> Iterator[None]:
        """Inside, the `step`th write kills; afterwards nothing does, and the dead worker's lease has run out."""
        self.left = step
        try:
            with connection.execute_wrapper(self._query):
                yield
        finally:
            self.left = None
            Endpoint.objects.exclude(lease_until=None).update(
                lease_until=timezone.now() - timedelta(seconds=1)
            )


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(engine=FakeEngine())


@pytest.fixture
def drive(runtime: FakeRuntime, redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> Driver:
    load_data()
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset(urls))
    # Nothing here takes time, so nothing is waited for.
    monkeypatch.setattr(
        support_deploy, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda _seconds: None)
    )
    return Driver(runtime)


@pytest.fixture
def steps(runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch) -> Steps:
    return Steps(runtime, monkeypatch)


def at_every_step(steps: Steps, once: Callable[[int], bool]) -> int:
    """`once(n)` for each n until it says that nobody was killed any more; how many steps there were."""
    for step in range(1, MOST_STEPS):
        if not once(step):
            assert step > 5, "hardly a step was tried"
            return step - 1
    raise AssertionError("it never came to its end")


def killed(work: Callable[[], object]) -> bool:
    try:
        work()
    except Killed:
        return True
    return False


def test_a_deployment_ends_active_with_exactly_one_container(
    drive: Driver, runtime: FakeRuntime, steps: Steps, editor_actor: Actor
) -> None:
    load_data()
    model = ready_model(editor_actor.project)

    def once(step: int) -> bool:
        endpoint = new_endpoint(editor_actor, model, name=f"n{step}")
        with steps.dying_before(step):
            died = killed(lambda: drive.to(endpoint, "ACTIVE"))
        drive.to(endpoint, "ACTIVE")
        assert [item.labels["berth.endpoint"] for item in runtime.list()].count(endpoint.pk) == 1
        (replica,) = endpoint.replicas.all()
        assert (replica.state, replica.slot, replica.attempt) == ("ready", 1, 1)
        services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
        drive.gone(endpoint)
        return died

    at_every_step(steps, once)


def test_a_deletion_leaves_nothing(
    drive: Driver, runtime: FakeRuntime, steps: Steps, editor_actor: Actor
) -> None:
    model = ready_model(editor_actor.project)

    def once(step: int) -> bool:
        endpoint = drive.to(new_endpoint(editor_actor, model, name=f"n{step}"), "ACTIVE")
        services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
        with steps.dying_before(step):
            died = killed(lambda: drive.gone(endpoint))
        drive.gone(endpoint)
        assert runtime.list() == []
        assert runtime.engine.networks == set()
        return died

    at_every_step(steps, once)


def test_a_failure_keeps_its_evidence(
    drive: Driver, runtime: FakeRuntime, steps: Steps, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "healthy", lambda _urls: frozenset())
    model = ready_model(editor_actor.project)

    def once(step: int) -> bool:
        endpoint = drive.until(
            new_endpoint(editor_actor, model, name=f"n{step}"),
            lambda item: item.replicas.filter(state="starting").exists(),
        )
        runtime.engine.exits(endpoint.replicas.get().name, 3, line="no such file: weights.gguf")
        with steps.dying_before(step):
            died = killed(lambda: drive.to(endpoint, "FAILED"))
        failed = drive.to(endpoint, "FAILED")
        (replica,) = endpoint.replicas.all()
        assert (failed.reason_code, replica.evidence["exit_code"]) == ("container_exited", 3)
        assert "weights.gguf" in replica.evidence["logs"]
        assert runtime.list() == []
        services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
        drive.gone(endpoint)
        return died

    at_every_step(steps, once)


def test_a_lease_is_one_workers_until_it_runs_out(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor
) -> None:
    endpoint = new_endpoint(editor_actor)
    Endpoint.objects.filter(pk=endpoint.pk).update(
        lease_token="another", lease_until=timezone.now() + timedelta(seconds=20)
    )
    assert reconcile(endpoint.pk, runtime) is not None, "it looks again later"
    assert not Replica.objects.exists()
    Endpoint.objects.filter(pk=endpoint.pk).update(lease_until=timezone.now() - timedelta(seconds=1))
    assert drive.to(endpoint, "ACTIVE").lease_token == ""


def test_a_worker_that_lost_its_lease_starts_nothing(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = new_endpoint(editor_actor)
    real = runtime.list

    def slow(*args: Any) -> Any:
        Endpoint.objects.filter(pk=endpoint.pk).update(lease_token="another")
        return real(*args)

    monkeypatch.setattr(runtime, "list", slow)
    assert reconcile(endpoint.pk, runtime) is None
    assert not Replica.objects.exists()
    endpoint.refresh_from_db()
    assert (endpoint.status, endpoint.lease_token) == ("PENDING", "another")


def test_a_row_that_changed_under_the_plan_keeps_nobody_out(
    drive: Driver, runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = new_endpoint(editor_actor)
    real = runtime.start

    def start(*args: Any, **named: Any) -> Any:
        Replica.objects.update(state="failed", ended_at=timezone.now())  # as a pull does that fails for good
        return real(*args, **named)

    monkeypatch.setattr(runtime, "start", start)
    due = None
    while not Replica.objects.filter(state="failed").exists():
        due = reconcile(endpoint.pk, runtime)
    assert due is not None, "it looks again soon"
    endpoint.refresh_from_db()
    assert (endpoint.lease_token, endpoint.lease_until) == ("", None)
