"""What comes of an image that can't be fetched, and of a pull that nobody waits for any more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis

from endpoints import services
from endpoints.errors import describe
from endpoints.images import pull_for
from endpoints.models import Endpoint, Replica
from endpoints.reconciler import probe
from endpoints.reconciler.run import reconcile
from iam.actors import Actor
from runtimes.errors import ImageMissing, RuntimeFailure
from runtimes.fake import NO_SPACE, NO_SUCH_IMAGE, PRIVATE_IMAGE, REGISTRY_DOWN, FakeEngine, FakeRuntime
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]


@pytest.fixture
def runtime(redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """An engine that has to fetch every image."""
    load_data()
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset(urls))
    return FakeRuntime(engine=FakeEngine(everything_is_here=False))


@pytest.mark.parametrize(
    ("failure", "code"), [(NO_SUCH_IMAGE, "image_not_found"), (PRIVATE_IMAGE, "image_denied")]
)
def test_what_the_registry_refuses_fails_with_its_words_until_someone_retries(
    runtime: FakeRuntime, editor_actor: Actor, failure: RuntimeFailure, code: str
) -> None:
    drive = Driver(runtime)
    runtime.engine.next_pull_fails(failure)
    endpoint = drive.to(new_endpoint(editor_actor), "FAILED")
    replica = endpoint.replicas.get()
    told = describe(endpoint.reason_code, endpoint.reason_params)
    assert (endpoint.reason_code, replica.evidence["error"]) == (code, failure.evidence)
    assert replica.evidence["image"] in told.message
    assert told.action
    services.retry_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.to(endpoint, "ACTIVE")


@pytest.mark.parametrize(
    ("failure", "code"), [(REGISTRY_DOWN, "registry_unreachable"), (NO_SPACE, "no_space")]
)
def test_what_passes_is_named_and_tried_again(
    runtime: FakeRuntime, editor_actor: Actor, failure: RuntimeFailure, code: str
) -> None:
    drive = Driver(runtime)
    runtime.engine.next_pull_fails(failure)
    endpoint = drive.until(new_endpoint(editor_actor), lambda item: item.reason_code == code)
    assert endpoint.status == "PENDING"
    drive.to(endpoint, "ACTIVE")
    assert endpoint.replicas.count() == 1


def test_a_registry_that_stays_away_is_one_reason_and_not_an_event_a_try(
    runtime: FakeRuntime, editor_actor: Actor
) -> None:
    drive = Driver(runtime)
    runtime.engine.next_pull_fails(REGISTRY_DOWN)
    endpoint = drive.until(
        new_endpoint(editor_actor), lambda item: item.reason_code == "registry_unreachable"
    )
    told = endpoint.events.filter(kind="status.changed").count()
    for _ in range(3):
        runtime.engine.next_pull_fails(REGISTRY_DOWN)
        endpoint.replicas.update(pull_beat_at=None, pull_until=None)  # its turn comes
        reconcile(endpoint.pk, runtime)
        endpoint.refresh_from_db()
        assert (endpoint.status, endpoint.reason_code) == ("PENDING", "registry_unreachable")
        assert not runtime.list()
        pull_for(str(endpoint.replicas.get().pk), runtime)
    assert endpoint.events.filter(kind="status.changed").count() == told
    drive.to(endpoint, "ACTIVE")


def pull_meanwhile(
    runtime: FakeRuntime, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], None]
) -> None:
    """A pull of the endpoint's replica during which something happens."""
    for _ in range(2):
        reconcile(endpoint.pk, runtime)
    replica = endpoint.replicas.get()
    assert replica.state == "waiting"

    def pull(*_args: Any, **_options: Any) -> None:
        meanwhile()
        for _ in range(6):
            reconcile(endpoint.pk, runtime)

    monkeypatch.setattr(runtime, "pull", pull)
    pull_for(str(replica.pk), runtime)


def test_an_endpoint_deleted_while_its_image_is_pulled(
    runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = new_endpoint(editor_actor)
    pull_meanwhile(
        runtime,
        endpoint,
        monkeypatch,
        lambda: services.delete_endpoint(actor=editor_actor, endpoint=endpoint) and None,
    )
    assert not Endpoint.objects.exists()
    assert runtime.list() == []


def test_a_pull_that_fails_after_its_replica_was_stopped_is_no_failure_of_the_endpoint(
    runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = new_endpoint(editor_actor)

    def paused() -> None:
        services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
        for _ in range(3):
            reconcile(endpoint.pk, runtime)
        raise ImageMissing("manifest unknown")

    pull_meanwhile(runtime, endpoint, monkeypatch, paused)
    assert Replica.objects.get().state == "stopped"
    assert not endpoint.events.filter(kind="replica.failed").exists()
