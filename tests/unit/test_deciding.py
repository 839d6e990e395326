"""One look of the autoscaler: what is written, what it may not exceed, and what is not said twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from endpoints import services
from endpoints.autoscaling import ledger
from endpoints.autoscaling.deciding import Autoscaler
from endpoints.autoscaling.reading import sentence
from endpoints.metrics.sample import ReplicaFigures, Sample
from endpoints.models import Decision, Endpoint, Event, Node, Region, ScaleState
from gateway.figures import bin_of
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db
T0 = 1_800_000_000


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """One that has served, wants one replica and may have four."""
    load_data()
    made = new_endpoint(editor_actor, min_replicas=1, max_replicas=4, cpu_percent=50, scale_down_after_s=20)
    made.stable_revision = made.revision
    made.save()
    return made


def room_for_replicas(count: int) -> None:
    """A machine that takes so many of the endpoint's size, and no other."""
    Node.objects.all().delete()
    Node.objects.create(
        name="n",
        region=Region.objects.get(code="HCM"),
        cpus=1000,
        memory_bytes=max(1, count * 4) * 2**30,
        cpus_set=1000,
    )


class Watch:
    """Slot after slot, as the metering loop does it."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.pk = endpoint.pk
        self.scaler = Autoscaler()
        self.at = T0

    def see(
        self, cpu: float | None = None, *, complete: bool = True, held: bool = False, **fields: Any
    ) -> bool:
        """One slot; whether the number was changed."""
        row = Endpoint.objects.select_related("revision__instance_type").get(pk=self.pk)
        ready = row.wanted_replicas
        replicas = {f"r{n}": ReplicaFigures(cpu=cpu) for n in range(ready)} if cpu is not None else {}
        sample = Sample(self.at, 5.0, wanted=ready, ready=float(ready), low=row.min_replicas, high=row.max_replicas,
                        replicas=replicas)  # fmt: skip
        self.at += 5
        changed = self.scaler.look(
            [row], {self.pk: replace(sample, **fields)}, complete, {self.pk} if held else set()
        )
        return changed == [self.pk]

    @property
    def wanted(self) -> int:
        return Endpoint.objects.get(pk=self.pk).wanted_replicas


def test_a_threshold_that_stays_broken_adds_replicas_and_says_why(endpoint: Endpoint) -> None:
    room_for_replicas(10)
    watch = Watch(endpoint)
    seen = [watch.see(90) for _ in range(4)]
    assert seen == [False, False, True, False] or seen == [False, False, False, True]
    assert watch.wanted == 2
    made = Decision.objects.get()
    assert (made.rule, made.before, made.after, made.blocker) == ("above", 1, 2, "")
    assert made.inputs["cpu_percent"] == {"value": 90.0, "target": 50, "count": 2}
    assert made.params["metric"] == "cpu_percent"
    assert Event.objects.filter(kind="endpoint.scaled").count() == 1


def test_it_asks_for_no_more_than_there_is_room_for_and_says_so_once(endpoint: Endpoint) -> None:
    watch = Watch(endpoint)
    room_for_replicas(0)
    for _ in range(20):
        watch.see(90)
    assert watch.wanted == 1
    told = Decision.objects.get()
    assert (told.rule, told.before, told.after, told.blocker) == ("above", 1, 1, "no_capacity")
    assert "4 GiB RAM" in sentence(told)
    assert not Event.objects.filter(kind="endpoint.scaled").exists()
    room_for_replicas(10)
    watch.see(90)
    assert watch.wanted == 2, "as soon as there is room"


def test_what_fits_of_more_is_taken(endpoint: Endpoint) -> None:
    """Three more are asked for, one fits."""
    watch = Watch(endpoint)
    room_for_replicas(1)
    assert any(watch.see(190) for _ in range(4))
    assert watch.wanted == 2
    cut = Decision.objects.filter(after=2).get()
    assert (cut.blocker, cut.params["count"]) == ("no_capacity", 4)


def test_one_whose_requests_all_hang_grows_to_its_max_and_says_that_it_is_there(endpoint: Endpoint) -> None:
    """Nothing ends, so nothing is measured but the age of those that wait; its processors have nothing to do."""
    Endpoint.objects.update(latency_ms=500, max_replicas=8)
    room_for_replicas(10)
    watch = Watch(endpoint)
    for age_ms in range(1000, 121_000, 5000):
        watch.see(1, waiting={bin_of(age_ms): 3.0}, in_flight=3.0, in_flight_max=3)
    told = list(Decision.objects.order_by("at", "id").values_list("rule", "blocker", "before", "after"))
    counts = [after for *_, after in told]
    assert {rule for rule, *_ in told} == {"above"}
    assert counts == sorted(counts)
    assert (counts[-2:], watch.wanted) == ([8, 8], 8)
    assert [one for one in told if one[2] == 8] == [("above", "at_max", 8, 8)], "said once"
    for _ in range(6):  # it is mended: nobody waits, nothing comes
        watch.see(1)
    assert watch.wanted == 1


def test_without_all_gateways_nothing_shrinks_or_sleeps(endpoint: Endpoint) -> None:
    Endpoint.objects.update(cpu_percent=None, in_flight=4, desired_replicas=3)
    watch = Watch(endpoint)
    for _ in range(10):
        watch.see(complete=False)
    assert watch.wanted == 3
    assert list(Decision.objects.values_list("blocker", flat=True)) == ["silent"]
    for _ in range(6):
        watch.see()
    assert watch.wanted == 1


def test_an_endpoint_that_somebody_waits_for_is_never_put_to_sleep(endpoint: Endpoint) -> None:
    Endpoint.objects.update(cpu_percent=None, min_replicas=0, idle_timeout_s=30)
    watch = Watch(endpoint)
    for _ in range(20):
        watch.see(held=True)
    assert watch.wanted == 1
    for _ in range(6):
        watch.see()
    assert watch.wanted == 0
    assert Decision.objects.get().rule == "idle"
    assert services.wake(endpoint.pk)
    for _ in range(5):
        watch.see()
    assert watch.wanted == 1, "its idle time begins anew when it wakes"
    watch.see()
    assert watch.wanted == 0


def test_a_wait_that_begins_again_and_again_is_told_once(endpoint: Endpoint) -> None:
    Endpoint.objects.update(desired_replicas=2)
    watch = Watch(endpoint)
    for number in range(60):
        watch.see(10 if number % 2 else 50)
    assert watch.wanted == 2
    assert list(Decision.objects.values_list("blocker", flat=True)) == ["cooling_down"]


def test_a_wait_is_told_once_whichever_metric_asks_for_most(endpoint: Endpoint) -> None:
    Endpoint.objects.update(desired_replicas=3, in_flight=4, scale_down_after_s=300)
    watch = Watch(endpoint)
    metrics = set()
    for number in range(20):
        watch.see(30 if number % 2 else 10, in_flight=3.0 if number % 2 else 7.0)
        metrics.add(ScaleState.objects.get().finding["params"]["metric"])
    assert watch.wanted == 3
    assert metrics == {"cpu_percent", "in_flight"}
    assert list(Decision.objects.values_list("blocker", "before", "after")) == [("cooling_down", 3, 3)]


def test_where_nothing_is_left_it_costs_the_same_for_one_and_for_many(
    endpoint: Endpoint, editor_actor: Actor, django_assert_max_num_queries: Any
) -> None:
    room_for_replicas(0)
    model = endpoint.revision.model if endpoint.revision else None
    for number in range(5):
        new_endpoint(editor_actor, name=f"more-{number}", model=model, max_replicas=4, cpu_percent=50)
    for row in Endpoint.objects.all():
        Endpoint.objects.filter(pk=row.pk).update(stable_revision=row.revision_id)
    rows = list(Endpoint.objects.select_related("revision__instance_type"))
    scaler = Autoscaler()

    def look(at: int) -> None:
        figures = {"r": ReplicaFigures(cpu=95.0)}
        sample = Sample(at, 5.0, wanted=1, ready=1.0, low=1, high=4, replicas=figures)
        assert scaler.look(rows, dict.fromkeys((row.pk for row in rows), sample), True, set()) == []

    for number in range(8):
        look(T0 + 5 * number)
    assert Decision.objects.filter(blocker="no_capacity").count() == len(rows) == 6
    with django_assert_max_num_queries(10):  # the region is read once, the states are written at once
        look(T0 + 40)


def test_old_decisions_and_too_many_of_one_endpoint_go(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "KEPT_EACH", 3)
    now = datetime.fromtimestamp(T0, UTC)
    ages = [timedelta(days=91), *(timedelta(hours=hours) for hours in (5, 4, 3, 2, 1))]
    for age in ages:
        Decision.objects.create(endpoint=endpoint, at=now - age, rule="above", before=1, after=2)
    assert ledger.prune(now, [endpoint.pk]) == 3
    left = ledger.decisions_of(endpoint).values_list("at", flat=True)
    assert [now - at for at in left] == [timedelta(hours=hours) for hours in (1, 2, 3)]
    assert ledger.prune(now, [endpoint.pk]) == 0


def test_what_it_remembers_outlives_the_process(endpoint: Endpoint) -> None:
    Endpoint.objects.update(cpu_percent=None, min_replicas=0, idle_timeout_s=60)
    watch = Watch(endpoint)
    for _ in range(8):
        watch.see()
    again = Watch(endpoint)
    again.at = watch.at
    for _ in range(11):
        again.see()
    assert again.wanted == 0, "19 slots of 5 s: nobody would get to 60 s in the second half alone"
    assert ScaleState.objects.get().finding["after"] == 0


def test_what_has_not_served_yet_or_is_paused_is_left_alone(endpoint: Endpoint, editor_actor: Actor) -> None:
    room_for_replicas(10)
    Endpoint.objects.update(stable_revision=None)
    watch = Watch(endpoint)
    for _ in range(8):
        watch.see(99)
    assert not Decision.objects.exists()
    Endpoint.objects.update(stable_revision=endpoint.revision)
    services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    for _ in range(8):
        watch.see(99)
    assert not Decision.objects.exists()


def test_a_thousand_looks_cost_few_queries(
    endpoint: Endpoint, editor_actor: Actor, django_assert_max_num_queries: Any
) -> None:
    model = endpoint.revision.model  # type: ignore[union-attr]
    rows = [new_endpoint(editor_actor, model, name=f"e{n}", cpu_percent=50) for n in range(20)]
    Endpoint.objects.update(stable_revision_id=endpoint.revision_id)
    scaler = Autoscaler()

    def look(at: int) -> None:
        found = list(Endpoint.objects.select_related("revision__instance_type"))
        sample = Sample(at, 5.0, wanted=1, ready=1.0, low=1, high=2, replicas={"r": ReplicaFigures(cpu=45)})
        scaler.look(found, {row.pk: sample for row in found}, True, set())

    look(T0)
    with django_assert_max_num_queries(3):
        look(T0 + 5)
    assert len(rows) == 20


@pytest.mark.django_db(transaction=True)
def test_one_that_is_deleted_meanwhile_takes_nothing_of_the_others_along(endpoint: Endpoint) -> None:
    rows = list(Endpoint.objects.select_related("revision__instance_type"))
    gone = Endpoint.objects.select_related("revision__instance_type").get(pk=endpoint.pk)
    gone.pk = gone.id = "me-gone"
    # Nothing to tell of it, only to be remembered.
    calm = Sample(T0, 5.0, wanted=1, ready=1.0, low=1, high=4, replicas={"r": ReplicaFigures(cpu=48)})
    samples = dict.fromkeys((endpoint.pk, gone.pk), calm)
    Autoscaler().look([gone, *rows], samples, True, set())
    assert list(ScaleState.objects.values_list("endpoint_id", flat=True)) == [endpoint.pk]
