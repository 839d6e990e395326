"""One round: whose figures make which sample, and when a slot is complete."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from redis.exceptions import ConnectionError as RedisAway

from endpoints import activation, services
from endpoints.metrics import store, told
from endpoints.metrics.sample import Sample
from endpoints.metrics.told import Heard
from endpoints.models import Endpoint, Replica, ReplicaState
from endpoints.watching.metering import Metering, slot_of
from gateway.figures import EndpointFigures, Told
from iam.actors import Actor
from runtimes.contract import ContainerSpec
from runtimes.fake import FakeEngine, FakeRuntime
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db
NOW = 1_800_000_001.5  # a moment behind a slot's end
AT = 1_799_999_995


class Sources:
    """What the gateways told and who waits, as the round finds it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: list[Heard] = []
        self.held: Mapping[str, int] = {}
        self.away = False
        monkeypatch.setattr(told, "drain", self._drain)
        monkeypatch.setattr(activation, "waiting", lambda: dict(self.held))

    def tell(self, gateway: str, endpoint_id: str = "", figures: EndpointFigures | None = None) -> None:
        endpoints = {endpoint_id: figures} if figures else {}
        self.heard.append(Heard(Told(gateway, len(self.heard), 5.0, endpoints), NOW))

    def _drain(self) -> list[Heard]:
        if self.away:
            raise RedisAway("nobody listens")
        heard, self.heard = self.heard, []
        return heard


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch) -> Sources:
    return Sources(monkeypatch)


@pytest.fixture
def endpoint_id(editor_actor: Actor) -> str:
    load_data()
    return new_endpoint(editor_actor, max_replicas=3).id


def metering() -> tuple[Metering, FakeRuntime]:
    runtime = FakeRuntime(engine=FakeEngine())
    return Metering(runtime), runtime


def latest(endpoint_id: str) -> Sample:
    return store.window(endpoint_id, AT, AT + 100, 5)[-1]


def test_a_round_is_about_the_slot_just_over() -> None:
    assert slot_of(NOW) - 5 == AT
    assert slot_of(AT) == AT
    assert slot_of(AT + 4.999) == AT


def test_gateways_are_added_up_and_no_traffic_is_a_value(sources: Sources, endpoint_id: str) -> None:
    loop, _ = metering()
    sources.tell("a", endpoint_id, EndpointFigures({"2xx": 3}, {10: 3}, {5: 3}, {}, 2))
    sources.tell("b", endpoint_id, EndpointFigures({"2xx": 1, "5xx": 1}, {10: 2}, {5: 2}, {}, 1))
    loop.round(NOW)
    found = latest(endpoint_id)
    assert (found.at, found.seconds) == (AT, 5.0)
    assert found.answered == {"2xx": 4, "5xx": 1}
    assert (found.in_flight, found.in_flight_max) == (3, 3)
    assert found.duration == {10: 5}
    sources.tell("a")
    sources.tell("b")
    loop.round(NOW + 5)
    quiet = latest(endpoint_id)
    assert (quiet.at, quiet.seconds, quiet.answered, quiet.in_flight) == (AT + 5, 5.0, {}, 0)


def test_of_one_gateways_two_pushes_the_newest_says_what_is_in_flight(
    sources: Sources, endpoint_id: str
) -> None:
    loop, _ = metering()
    for in_flight in (7, 2):
        sources.tell("a", endpoint_id, EndpointFigures({"2xx": 1}, in_flight=in_flight))
    loop.round(NOW)
    found = latest(endpoint_id)
    assert (found.answered, found.in_flight, found.seconds) == ({"2xx": 2}, 2, 10.0)


def test_what_the_newest_push_leaves_out_is_over(sources: Sources, endpoint_id: str) -> None:
    loop, _ = metering()
    sources.tell("a", endpoint_id, EndpointFigures(in_flight=7, waiting={60: 7}))
    sources.tell("a")
    loop.round(NOW)
    found = latest(endpoint_id)
    assert (found.in_flight, found.waiting) == (0, {})


def test_a_slot_in_which_a_gateway_is_missing_is_not_complete(
    sources: Sources, endpoint_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, _ = metering()
    complete: list[bool] = []
    monkeypatch.setattr(
        loop._autoscaler, "look", lambda _rows, _samples, whole, _held: complete.append(whole)
    )
    for number, gateways in enumerate((["a", "b"], ["a"], [], ["a", "b"], ["a"], ["a"], ["a"], ["a"], ["a"])):
        for name in gateways:
            sources.tell(name)
        loop.round(NOW + 5 * number)
    # b is expected for twenty seconds after its last word.
    assert complete == [True, False, False, True, False, False, False, True, True]


def test_without_redis_nothing_is_known_of_traffic_and_the_rest_is_measured(
    sources: Sources, endpoint_id: str
) -> None:
    loop, runtime = metering()
    row = Endpoint.objects.get(pk=endpoint_id)
    assert row.revision is not None
    replica = Replica.objects.create(
        endpoint=row, revision=row.revision, slot=1, name="r1", state=ReplicaState.READY, cpus=2,
        memory_bytes=1000, claimed=True,
    )  # fmt: skip
    runtime.start(ContainerSpec(name=replica.name, image="", port=80, cpus=2, memory_bytes=1000))
    sources.away = True
    runtime.engine.works(replica.name, cores=1, memory_bytes=250)
    loop.round(NOW)
    found = latest(endpoint_id)
    assert (found.seconds, found.answered, found.ready, found.replica_seconds) == (0, {}, 1, 5)
    assert found.replicas["r1"].memory == 25
    assert (found.wanted, found.low, found.high) == (1, 1, 3)


def test_requests_that_wait_for_a_replica_are_in_flight(sources: Sources, endpoint_id: str) -> None:
    loop, _ = metering()
    sources.held = {endpoint_id: 4}
    sources.tell("a", endpoint_id, EndpointFigures(in_flight=3))
    loop.round(NOW)
    assert latest(endpoint_id).in_flight == 7


def test_a_clock_that_is_set_back_writes_its_slots_again(sources: Sources, endpoint_id: str) -> None:
    loop, _ = metering()
    for now in (NOW, NOW + 5, NOW - 3600, NOW - 3595):
        sources.tell("a", endpoint_id, EndpointFigures({"2xx": 1}))
        loop.round(now)
    written = store.window(endpoint_id, AT - 4000, AT + 100, 5)
    assert [item.at for item in written] == [AT - 3600, AT - 3595, AT, AT + 5]


def test_what_was_deleted_is_measured_no_more(
    sources: Sources, endpoint_id: str, editor_actor: Actor
) -> None:
    loop, _ = metering()
    services.delete_endpoint(actor=editor_actor, endpoint=Endpoint.objects.get(pk=endpoint_id))
    sources.tell("a")
    loop.round(NOW)
    assert store.window(endpoint_id, AT, AT + 100, 5) == []
