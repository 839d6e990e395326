"""Images from a real registry, by a real engine, as an endpoint's owner sees it: denied, unknown, away, slow, stuck."""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.db import connection
from django.test import Client

from endpoints import services
from endpoints.errors import describe
from endpoints.images import pull_for
from endpoints.models import DeployPhase, Endpoint, PhaseTimes, Replica
from endpoints.reconciler.run import reconcile
from iam.actors import Actor
from registry.models import Source
from runtimes.docker import DockerRuntime
from tests.contract.image_registry import LAYER_BYTES, PASSWORD, USER, Registry, running_registry
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_line import Line, line_to
from tests.support_processes import eventually
from tests.support_runtimes import remove_all

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.engine, pytest.mark.redis]


@pytest.fixture
def runtime() -> Iterator[DockerRuntime]:
    """An engine on which nothing of this test stays."""
    installation = f"test-{secrets.token_hex(6)}"
    runtime = DockerRuntime(installation)
    before = _loopback_images(runtime)
    yield runtime
    remove_all(installation)
    for tag in _loopback_images(runtime) - before:
        runtime._api().remove_image(tag, force=True)


def _loopback_images(runtime: DockerRuntime) -> set[str]:
    rows = runtime._api().images()
    return {tag for row in rows for tag in row["RepoTags"] or () if tag.startswith("127.0.0.1:")}


@pytest.fixture
def drive(runtime: DockerRuntime, redis_server: redis.Redis, db: None) -> Driver:
    load_data()
    return Driver(runtime)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def line(registry: Registry) -> Iterator[Line]:
    with line_to(registry.address) as line:
        yield line


def endpoint_of(actor: Actor, image: str, name: str = "pulled", **fields: Any) -> Endpoint:
    """An endpoint of somebody's own image."""
    ref = {"image": image, "port": 8080, "health_path": "/health"}
    model = ready_model(
        actor.project, name, "custom", source=Source.IMAGE, source_ref=ref, entry_file="", **fields
    )
    return new_endpoint(actor, model, name=name)


def waiting(endpoint: Endpoint, runtime: DockerRuntime) -> Replica:
    """Its replica, with a pull that was asked for and not begun."""
    for _ in range(4):
        reconcile(endpoint.pk, runtime)
        found = endpoint.replicas.filter(state="waiting").exclude(pull_beat_at=None).first()
        if found:
            return found
    raise AssertionError(endpoint.replicas.values())


def told(endpoint: Endpoint) -> str:
    """Everything that anybody can read of it."""
    events = list(endpoint.events.values_list("kind", "params", "actor_name"))
    replicas = list(endpoint.replicas.values_list("reason_code", "evidence"))
    row = Endpoint.objects.get(pk=endpoint.pk)
    return json.dumps([events, replicas, row.reason_params, row.conditions], default=str)


class Worker(threading.Thread):
    """A transfers worker with one pull to do."""

    def __init__(self, replica: Replica, runtime: DockerRuntime) -> None:
        super().__init__(daemon=True)
        self._work = (str(replica.pk), runtime)
        self.start()

    def run(self) -> None:
        try:
            pull_for(*self._work)
        finally:
            connection.close()

    def ends(self, timeout_s: float) -> float:
        """How long that took from now."""
        asked = time.monotonic()
        self.join(timeout_s)
        assert not self.is_alive(), f"still pulling after {timeout_s} s"
        return time.monotonic() - asked


def test_credentials_open_a_private_registry_and_stand_nowhere(
    drive: Driver, editor_actor: Actor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    with running_registry(tmp_path / "private", private=True) as registry:
        image = f"{registry.address}/{registry.put(layers=[100_000])}"
        wrong = "a wrong pass phrase"
        for name, given in (("none", {}), ("wrong", {"registry_username": USER, "registry_password": wrong})):
            endpoint = drive.to(endpoint_of(editor_actor, image, name, **given), "FAILED")
            assert endpoint.reason_code == "image_denied"
            words = describe(endpoint.reason_code, endpoint.reason_params)
            assert image in words.message
            assert words.action
            assert wrong not in told(endpoint)
        right = {"registry_username": USER, "registry_password": PASSWORD}
        endpoint = endpoint_of(editor_actor, image, "right", **right)
        drive.until(endpoint, lambda item: item.events.filter(kind="image.pulled").exists())
        assert drive.runtime.has_image(image)
        assert PASSWORD not in told(endpoint)
    assert not [secret for secret in (PASSWORD, wrong) if secret in caplog.text]


def test_an_unknown_tag_is_named(drive: Driver, editor_actor: Actor, registry: Registry) -> None:
    registry.put()
    image = f"{registry.address}/image:no-such-tag"
    endpoint = drive.to(endpoint_of(editor_actor, image), "FAILED")
    assert endpoint.reason_code == "image_not_found"
    assert image in describe(endpoint.reason_code, endpoint.reason_params).message
    assert endpoint.replicas.get().claimed is False


def test_a_registry_that_is_down_is_waited_for(
    drive: Driver, editor_actor: Actor, registry: Registry
) -> None:
    image = f"{registry.address}/{registry.put(layers=[100_000])}"
    registry.stop()
    endpoint = endpoint_of(editor_actor, image)
    endpoint = drive.until(endpoint, lambda item: item.reason_code == "registry_unreachable")
    assert endpoint.status == "PENDING"
    assert "connection refused" in told(endpoint)
    registry.start()
    drive.until(endpoint, lambda item: item.events.filter(kind="image.pulled").exists())
    pull = DeployPhase.objects.get(replica__endpoint=endpoint, name="pulling")
    assert pull.tries > 1  # so that its time, with the wait in it, is not taken for the usual one


def test_one_pull_at_a_time_reports_whatever_happens_to_redis(
    runtime: DockerRuntime,
    drive: Driver,
    editor_actor: Actor,
    registry: Registry,
    line: Line,
    redis_server: redis.Redis,
) -> None:
    """Two workers get the same task, as a broker may deliver it twice; then Redis forgets everything."""
    image = f"{line.address}/{registry.put()}"
    replica = waiting(endpoint_of(editor_actor, image), runtime)
    line.bytes_per_s = 1e6
    first = Worker(replica, runtime)
    eventually(lambda: line.passed > 500_000, "the first one pulls")
    holder = Replica.objects.get(pk=replica.pk).pull_token
    assert holder
    Worker(replica, runtime).ends(3)
    redis_server.flushall()
    Worker(replica, runtime).ends(3)
    assert first.is_alive()
    assert Replica.objects.get(pk=replica.pk).pull_token == holder
    first.ends(30)
    replica.refresh_from_db()
    assert (replica.pull_token, replica.pull_until) == ("", None)
    assert replica.endpoint.events.filter(kind="image.pulled").count() == 1
    pull = replica.phases.get(name="pulling")
    assert pull.bytes_done == pull.bytes_total >= LAYER_BYTES
    assert registry.log.count('msg="response completed"') < 40


def test_a_worker_that_was_frozen_gives_up_what_another_one_took_over(
    runtime: DockerRuntime, drive: Driver, editor_actor: Actor, registry: Registry, line: Line
) -> None:
    image = f"{line.address}/{registry.put()}"
    replica = waiting(endpoint_of(editor_actor, image), runtime)
    line.bytes_per_s = 300_000
    frozen = Worker(replica, runtime)
    eventually(lambda: line.passed > 300_000, "the first one pulls")
    # What its claim is once it has not beaten for long: run out.
    Replica.objects.filter(pk=replica.pk).update(pull_token="of another worker")
    assert frozen.ends(10) < 4
    replica.refresh_from_db()
    assert replica.pull_token == "of another worker"
    assert not replica.endpoint.events.filter(kind="image.pulled").exists()
    Replica.objects.filter(pk=replica.pk).update(pull_until=replica.created_at)
    line.bytes_per_s = None
    Worker(replica, runtime).ends(30)
    assert replica.endpoint.events.filter(kind="image.pulled").count() == 1


@pytest.mark.parametrize("stuck", [False, True], ids=["slow", "stuck"])
def test_a_deleted_endpoints_pull_ends_soon(
    runtime: DockerRuntime, drive: Driver, editor_actor: Actor, registry: Registry, line: Line, stuck: bool
) -> None:
    image = f"{line.address}/{registry.put()}"
    endpoint = endpoint_of(editor_actor, image)
    replica = waiting(endpoint, runtime)
    line.bytes_per_s = 200_000
    worker = Worker(replica, runtime)
    eventually(lambda: line.passed > 200_000, "it pulls")
    if stuck:
        line.hold()
    services.delete_endpoint(actor=editor_actor, endpoint=endpoint)
    drive.gone(endpoint)
    assert worker.ends(10) < 5
    passed = line.passed
    line.go_on()
    assert not runtime.has_image(image)
    assert line.passed - passed < LAYER_BYTES / 2


def test_a_pull_that_stands_still_is_said_on_the_page_and_by_the_api(
    runtime: DockerRuntime,
    drive: Driver,
    editor_actor: Actor,
    editor_client: Client,
    registry: Registry,
    line: Line,
) -> None:
    image = f"{line.address}/{registry.put()}"
    endpoint = endpoint_of(editor_actor, image)
    replica = waiting(endpoint, runtime)
    for name, seconds in (("pulling", 4.0), ("creating", 1.0), ("loading", 30.0), ("routing", 1.0)):
        PhaseTimes.objects.create(
            image=image,
            model=endpoint.revision.model,
            instance_type=endpoint.revision.instance_type,
            name=name,
            seconds=[seconds],
        )
    line.bytes_per_s = 500_000
    worker = Worker(replica, runtime)
    eventually(lambda: line.passed > 1_000_000, "it pulls")
    time.sleep(0.6)  # until what has passed is reported
    page = editor_client.get(f"/inference/{endpoint.pk}/").content.decode()
    assert 'id="ep-eta"' in page
    assert "data-eta-at=" in page
    assert 'id="ep-alarm"' not in page
    answer = editor_client.get(f"/api/v1/endpoints/{endpoint.pk}/").json()["deployment"]
    assert answer["phase"] == "pulling"
    assert 30 < answer["eta_s"] < 45  # at most 6 s of pull, then 32 s as usual
    pull = next(phase for phase in answer["phases"] if phase["name"] == "pulling")
    assert 0 < pull["bytes_done"] < pull["bytes_total"]
    assert 300_000 < pull["bytes_per_s"] < 700_000

    line.hold()
    phase = replica.phases.filter(name="pulling")
    moved = phase.get().bytes_moved_at
    assert moved is not None
    # It is long past: three times the usual 4 s, and ten more.
    begun = phase.get().started_at - timedelta(seconds=20)
    assert phase.update(started_at=begun)
    page = editor_client.get(f"/inference/{endpoint.pk}/").content.decode()
    assert 'id="ep-alarm"' in page
    assert "Pulling image usually takes about 4\u00a0s" in page
    row = editor_client.get(f"/api/v1/endpoints/{endpoint.pk}/replicas/").json()["results"][0]
    assert (row["stalled"]["phase"], row["stalled"]["usual_s"]) == ("pulling", 4.0)
    # And half a minute without a byte is said whatever is usual.
    PhaseTimes.objects.all().delete()
    assert phase.update(bytes_moved_at=moved - timedelta(seconds=40))
    page = editor_client.get(f"/inference/{endpoint.pk}/").content.decode()
    assert "Pulling image stands still" in page
    line.go_on()
    worker.ends(40)
    page = editor_client.get(f"/inference/{endpoint.pk}/").content.decode()
    assert "stands still" not in page
