"""What is kept of deployments' times, and what the next one's page makes of it."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import redis
from django.db import transaction
from django.test import Client
from django.utils import timezone

from endpoints import live_pages, phase_times
from endpoints.models import Endpoint, PhaseTimes, Replica
from endpoints.reconciler import phases, probe
from endpoints.reconciler.run import reconcile
from endpoints.specs import image_for
from iam.actors import Actor
from runtimes.fake import NO_SUCH_IMAGE, REGISTRY_DOWN, FakeEngine, FakeRuntime
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.redis]
FOUND = ("creating", "health_check", "loading", "routing", "starting")


@pytest.fixture
def runtime(redis_server: redis.Redis, monkeypatch: pytest.MonkeyPatch) -> FakeRuntime:
    """An engine that has to fetch every image once."""
    load_data()
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset(urls))
    return FakeRuntime(engine=FakeEngine(everything_is_here=False))


def known() -> dict[str, int]:
    """phase → how many durations are kept."""
    return {row.name: len(row.seconds) for row in PhaseTimes.objects.order_by("name")}


def page_of(client: Client, endpoint: Endpoint) -> str:
    return client.get(f"/inference/{endpoint.pk}/").content.decode()


def test_the_second_deployment_says_when_it_will_be_over(
    runtime: FakeRuntime, editor_actor: Actor, editor_client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = ready_model(editor_actor.project)
    drive = Driver(runtime)
    first = new_endpoint(editor_actor, model)
    assert 'id="ep-eta"' not in page_of(editor_client, first)
    drive.to(first, "ACTIVE")
    drive.until(first, lambda item: item.replicas.exclude(routed_at=None).exists())
    assert known() == dict.fromkeys(sorted((*FOUND, "pulling")), 1)
    assert 'id="ep-eta"' not in page_of(editor_client, first)

    # As on a machine where a model takes its time.
    PhaseTimes.objects.filter(name="loading").update(seconds=[35.0])
    second = new_endpoint(editor_actor, model, name="second")
    queued = page_of(editor_client, second)
    assert re.search(r'id="ep-eta">then about \d+ s', queued)
    runtime.engine.everything_is_here = True
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset())
    for _ in range(3):
        reconcile(second.pk, runtime)
    loading = page_of(editor_client, second)
    assert re.search(r'data-eta-at="[^"]+Z?" data-eta-late-at="[^"]+">about \d+ s left', loading), loading[
        loading.index("ep-timeline") :
    ][:900]
    assert "~ 35\u00a0s" in loading
    row = editor_client.get(f"/api/v1/endpoints/{second.pk}/replicas/").json()["results"][0]
    assert 30 < row["eta_s"] < 40
    assert (row["late"], row["stalled"]) == (False, None)

    # It hangs: forty seconds later it is late, after three times its time it stands still.
    replica = second.replicas.get()
    now = replica.phases.get(name="loading").started_at
    for seconds, late, stalled in ((50, True, False), (110, True, True)):
        replica.phases.filter(name="loading").update(started_at=now - timedelta(seconds=seconds))
        text = page_of(editor_client, second)
        assert (
            "longer than usual" in text.partition('id="ep-timeline"')[2].partition("</section>")[0]
        ) is late
        assert ('id="ep-alarm"' in text) is stalled
    assert "Loading model usually takes about 35\u00a0s" in text
    assert f"/logs/?replica={replica.name}" in text.partition('id="ep-alarm"')[2]
    deployment = editor_client.get(f"/api/v1/endpoints/{second.pk}/").json()["deployment"]
    assert deployment["stalled"]["phase"] == "loading"
    assert deployment["late"] is True
    monkeypatch.setattr(probe, "healthy", lambda urls: frozenset(urls))
    drive.to(second, "ACTIVE")
    assert editor_client.get(f"/api/v1/endpoints/{second.pk}/").json()["deployment"] is None


def test_an_image_that_is_there_does_not_spoil_the_pulls_time(
    runtime: FakeRuntime, editor_actor: Actor
) -> None:
    model = ready_model(editor_actor.project)
    drive = Driver(runtime)
    for name in ("one", "two", "three"):
        endpoint = drive.to(new_endpoint(editor_actor, model, name=name), "ACTIVE")
        drive.until(endpoint, lambda item: item.replicas.exclude(routed_at=None).exists())
    assert known() == {**dict.fromkeys(FOUND, 3), "pulling": 1}


def test_what_fails_or_is_tried_again_is_not_recorded(runtime: FakeRuntime, editor_actor: Actor) -> None:
    drive = Driver(runtime)
    runtime.engine.next_pull_fails(NO_SUCH_IMAGE)
    drive.to(new_endpoint(editor_actor, ready_model(editor_actor.project, "failing")), "FAILED")
    assert known() == {}
    runtime.engine.next_pull_fails(REGISTRY_DOWN)
    model = ready_model(editor_actor.project, "waiting")
    endpoint = drive.to(new_endpoint(editor_actor, model, name="waiting"), "ACTIVE")
    drive.until(endpoint, lambda item: item.replicas.exclude(routed_at=None).exists())
    assert endpoint.replicas.get().phases.get(name="pulling").tries == 2
    assert known() == dict.fromkeys(FOUND, 1)


def routed(endpoint: Endpoint, attempt: int, **seconds: float) -> Replica:
    """A replica that took its traffic, whose phases took so long."""
    replica = Replica.objects.create(
        endpoint=endpoint,
        revision=endpoint.revision,
        slot=1,
        attempt=attempt,
        name=f"r{attempt}",
        state="ready",
    )
    now = timezone.now()
    for name, took in seconds.items():
        phases.enter(str(replica.pk), name, now)  # type: ignore[arg-type]
        now += timedelta(seconds=took)
    phases.close(str(replica.pk), now)
    return replica


def test_the_median_of_the_last_nine_is_usual(
    runtime: FakeRuntime, editor_actor: Actor, django_assert_max_num_queries: object
) -> None:
    endpoint = new_endpoint(editor_actor)
    for attempt, took in enumerate([900.0, 900.0, *[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]], 1):
        replica = routed(endpoint, attempt, queued=500, scheduling=700, loading=took)
        with transaction.atomic(), django_assert_max_num_queries(6):  # type: ignore[operator]
            phase_times.record(str(replica.pk))
    assert list(PhaseTimes.objects.values_list("name", flat=True)) == ["loading"]
    revision = endpoint.revision
    assert revision is not None
    assert phase_times.usual_of(revision) == {"loading": 5.0}
    image, model, size = image_for(revision), revision.model_id, revision.instance_type_id
    assert phase_times.usual(image, model, size) == {"loading": 5.0}
    assert phase_times.usual(image + "x", model, size) == {}
    assert phase_times.usual(image, model, "g1-standard-4x16-1rtx2080ti") == {}


def test_a_clock_that_was_put_back_is_not_believed(runtime: FakeRuntime, editor_actor: Actor) -> None:
    replica = routed(new_endpoint(editor_actor), 1, creating=1, loading=-50, routing=2)
    with transaction.atomic():
        phase_times.record(str(replica.pk))
    assert known() == {"creating": 1, "routing": 1}


def test_a_page_that_nobody_tells_anything_finds_out_by_itself(
    runtime: FakeRuntime, editor_actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pull that hangs changes nothing in the database: time alone makes it late and stuck."""
    endpoint = new_endpoint(editor_actor)
    replica = routed(endpoint, 1, loading=1)
    page = live_pages.EndpointPage(editor_actor, endpoint.pk, {"tab": "overview"})
    settled = page.version()
    replica.phases.update(finished_at=None)
    under_way = page.version()
    later = timezone.now().timestamp() + 2 * live_pages.STALE_S
    monkeypatch.setattr(live_pages.time, "time", lambda: later)
    assert page.version() != under_way
    replica.phases.update(finished_at=timezone.now())
    closed = page.version()
    monkeypatch.setattr(live_pages.time, "time", lambda: later + 60)
    assert page.version() == closed != settled
