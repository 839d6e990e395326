"""The store of samples: one row a slot, rolled up once, removed bit by bit, whatever the clock does."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from endpoints.metrics import store, tidying
from endpoints.metrics.sample import RESOLUTIONS, ReplicaFigures, Sample
from endpoints.models import Endpoint, MetricSample, MetricSeries
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db
NOW = 1_790_000_100  # a multiple of 900
assert NOW % 900 == 0


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor)


@pytest.fixture
def second(endpoint: Endpoint, editor_actor: Actor) -> Endpoint:
    assert endpoint.revision is not None
    return new_endpoint(editor_actor, endpoint.revision.model, name="second")


def sample(at: int, requests: int = 5, **fields: object) -> Sample:
    answered = {"2xx": requests} if requests else {}
    bins = {40: requests} if requests else {}
    plain = Sample(at, 5.0, answered, bins, bins, wanted=1, ready=1.0, low=1, high=2, replica_seconds=5.0)
    return replace(plain, **fields)


def measure(endpoint: Endpoint, begin: int, end: int, requests: int = 5, tidied: bool = False) -> None:
    for at in range(begin, end, 5):
        store.write({endpoint.id: sample(at, requests)})
        if tidied:
            store.tidy(at + 6.5)


def kept(endpoint: Endpoint, resolution: int) -> list[int]:
    rows = MetricSample.objects.filter(series__endpoint=endpoint, resolution=resolution)
    return list(rows.order_by("at").values_list("at", flat=True))


def lay(endpoint: Endpoint, resolution: int, begin: int, end: int, requests: int = 5) -> None:
    """Rows, faster than by measuring."""
    series, _made = MetricSeries.objects.get_or_create(endpoint=endpoint)
    figures = store.rows.pack(sample(0, requests), endpoint.id)
    MetricSample.objects.bulk_create(
        MetricSample(series=series, resolution=resolution, at=at, figures=figures)
        for at in range(begin, end, resolution)
    )


# ---- writing and reading


def test_a_slot_is_written_once_and_replaced(endpoint: Endpoint) -> None:
    store.write({endpoint.id: sample(NOW)})
    store.write({endpoint.id: sample(NOW, 7, in_flight=1.5)})
    assert store.latest(now=NOW + 7) == {endpoint.id: sample(NOW, 7, in_flight=1.5)}
    assert kept(endpoint, 5) == [NOW]
    assert store.totals([endpoint.id])[endpoint.id].answered == (7, 0, 0, 0, 0)
    store.write({endpoint.id: sample(NOW, 0)})
    assert store.totals([endpoint.id])[endpoint.id].answered == (0, 0, 0, 0, 0)


def test_what_is_gone_is_passed_over(endpoint: Endpoint) -> None:
    store.write({endpoint.id: sample(NOW), "me-gone": sample(NOW)})
    assert set(store.latest(now=NOW + 7)) == {endpoint.id}
    store.write({})
    store.write({"me-gone": sample(NOW)})
    assert MetricSample.objects.count() == 1


def test_nonsense_does_not_keep_the_others_from_being_written(endpoint: Endpoint, second: Endpoint) -> None:
    odd = sample(NOW, in_flight=math.nan, replicas={"r": ReplicaFigures(cpu=math.inf, tokens_out=math.nan)})
    store.write({endpoint.id: odd, second.id: sample(NOW)})
    found = store.latest(now=NOW + 7)
    assert found[second.id] == sample(NOW)
    assert found[endpoint.id].replicas == {"r": ReplicaFigures()}


def test_latest_is_of_now(endpoint: Endpoint, second: Endpoint) -> None:
    assert store.latest() == {}
    store.write({endpoint.id: sample(NOW), second.id: sample(NOW)})
    store.write({endpoint.id: sample(NOW + 3600)})  # by a clock that was ahead for a moment
    assert {key: one.at for key, one in store.latest(now=NOW + 7).items()} == {
        endpoint.id: NOW,
        second.id: NOW,
    }
    assert set(store.latest([second.id], NOW + 7)) == {second.id}
    assert store.latest(now=NOW + 300) == {}


def test_window_and_recent(endpoint: Endpoint, second: Endpoint) -> None:
    measure(endpoint, NOW, NOW + 60)
    store.write({second.id: sample(NOW + 50)})
    found = [one.at - NOW for one in store.window(endpoint.id, NOW + 7, NOW + 21, 5)]
    assert found == [5, 10, 15, 20]
    assert store.window(endpoint.id, NOW, NOW + 60, 60) == []
    assert store.window("me-gone", NOW, NOW + 60, 5) == []
    recent = store.recent(12, NOW + 61)
    assert {key: [one.at - NOW for one in some] for key, some in recent.items()} == {
        endpoint.id: [45, 50, 55],
        second.id: [50],
    }


def test_a_round_costs_the_same_queries_at_any_size(
    endpoint: Endpoint, second: Endpoint, editor_actor: Actor
) -> None:
    def queries(ids: list[str], at: int) -> int:
        store.write({key: sample(at) for key in ids})
        with CaptureQueriesContext(connection) as found:
            store.write({key: sample(at + 5) for key in ids})
        return len(found)

    model = ready_model(editor_actor.project, name="more")
    more = [new_endpoint(editor_actor, model, name=f"more-{number}").id for number in range(20)]
    assert queries([endpoint.id], NOW) == queries([endpoint.id, second.id, *more], NOW + 10)


# ---- totals


def test_totals_go_on_when_the_clock_is_set_back(endpoint: Endpoint) -> None:
    measure(endpoint, NOW, NOW + 60)
    measure(endpoint, NOW + 30, NOW + 60)  # those seconds a second time, with requests of their own
    assert store.totals([endpoint.id])[endpoint.id].answered[0] == 5 * 12 + 5 * 6
    assert kept(endpoint, 5) == list(range(NOW, NOW + 60, 5))


def test_tokens_are_counted_without_requests(endpoint: Endpoint) -> None:
    replicas = {"r": ReplicaFigures(tokens_out=10.0), "s": ReplicaFigures(tokens_out=2.0)}
    store.write({endpoint.id: sample(NOW, 0, replicas=replicas)})
    store.write({endpoint.id: sample(NOW + 5, 0)})
    assert store.totals([endpoint.id])[endpoint.id].tokens_out == 60.0


# ---- rolling up


def test_a_minute_is_rolled_up_once_it_is_over(endpoint: Endpoint) -> None:
    measure(endpoint, NOW, NOW + 60)
    store.tidy(NOW + 60 + tidying.GRACE_S - 1)
    assert kept(endpoint, 60) == []
    for _ in range(3):
        store.tidy(NOW + 60 + tidying.GRACE_S)
    assert kept(endpoint, 60) == [NOW]
    (found,) = store.window(endpoint.id, NOW, NOW + 60, 60)
    assert (found.seconds, found.answered, found.replica_seconds) == (60, {"2xx": 60}, 60)


def test_a_quarter_of_an_hour_is_made_of_minutes(endpoint: Endpoint, second: Endpoint) -> None:
    lay(endpoint, 60, NOW, NOW + 900, requests=4)
    lay(second, 60, NOW, NOW + 900, requests=3)
    store.tidy(NOW + 900 + tidying.GRACE_S - 1)
    assert kept(endpoint, 900) == []
    store.tidy(NOW + 900 + tidying.GRACE_S)
    assert (kept(endpoint, 900), kept(second, 900)) == ([NOW], [NOW])
    (found,) = store.window(second.id, NOW, NOW + 1, 900)
    assert found.answered == {"2xx": 45}


def test_after_an_absence_it_catches_up_piece_by_piece(
    endpoint: Endpoint, second: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tidying, "SAMPLES_A_CALL", 24)
    monkeypatch.setattr(tidying, "SERIES_AT_ONCE", 1)
    for one in (endpoint, second):
        lay(one, 5, NOW - 3600, NOW)
    late = NOW + 3600 * 2  # all of it is too old by now
    store.write({endpoint.id: sample(late)})
    counts = []
    for number in range(80):
        store.tidy(late + 6.5 + number / 100)
        counts.append(len(kept(endpoint, 60)) + len(kept(second, 60)))
    steps = [after - before for before, after in pairwise([0, *counts])]
    assert max(steps) == 2
    assert counts[-1] == 120
    assert kept(endpoint, 900) == kept(second, 900) == [NOW - 3600, NOW - 2700, NOW - 1800, NOW - 900]
    total = sum(one.answered["2xx"] for one in store.window(endpoint.id, NOW - 3600, NOW, 900))
    assert total == 720 * 5


def test_what_is_finer_stays_until_it_is_rolled_up(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(endpoint, 5, NOW - 600, NOW)
    store.write({endpoint.id: sample(NOW + 86_400)})
    monkeypatch.setattr(tidying, "SAMPLES_A_CALL", 0)
    for number in range(10):
        store.tidy(NOW + 86_405 + number)
    assert len(kept(endpoint, 5)) == 121


def test_a_gap_costs_nothing(endpoint: Endpoint) -> None:
    measure(endpoint, NOW, NOW + 60)
    measure(endpoint, NOW + 12 * 3600, NOW + 12 * 3600 + 60)
    with CaptureQueriesContext(connection) as queries:
        store.tidy(NOW + 12 * 3600 + 80)
    assert kept(endpoint, 60) == [NOW, NOW + 12 * 3600]
    assert len(queries) < 40


def test_nothing_to_do_costs_a_few_queries(endpoint: Endpoint) -> None:
    store.tidy(NOW)
    measure(endpoint, NOW, NOW + 120, tidied=True)
    store.tidy(NOW + 131)
    with CaptureQueriesContext(connection) as queries:
        store.tidy(NOW + 131)
    assert len(queries) <= 14
    assert not [query for query in queries if not query["sql"].startswith("SELECT")]


# ---- age and clocks


def test_each_resolution_goes_at_its_age(endpoint: Endpoint) -> None:
    lay(endpoint, 5, NOW - 3600 - 50, NOW)
    lay(endpoint, 60, NOW - 86_400 - 600, NOW)
    lay(endpoint, 900, NOW - 90 * 86_400 - 9000, NOW)
    for number in range(30):
        store.write({endpoint.id: sample(NOW)})
        store.tidy(NOW + 11 + number / 10)
    assert {resolution: kept(endpoint, resolution)[0] for resolution in RESOLUTIONS} == {
        5: NOW - 3600,
        60: NOW - 86_400,
        900: NOW - 90 * 86_400,
    }


def test_a_clock_that_jumps_ahead_takes_a_few_slots_a_round_at_most(endpoint: Endpoint) -> None:
    lay(endpoint, 5, NOW - 3600, NOW)
    lay(endpoint, 60, NOW - 86_400, NOW)
    lay(endpoint, 900, NOW - 86_400, NOW)
    before = {resolution: len(kept(endpoint, resolution)) for resolution in RESOLUTIONS}
    year = NOW + 365 * 86_400
    store.tidy(year)
    assert {resolution: len(kept(endpoint, resolution)) for resolution in RESOLUTIONS} == before
    for number in range(4):  # twenty seconds until it is set right again
        store.write({endpoint.id: sample(year + 5 * number)})
        store.tidy(year + 5 * number + 6.5)
    lost = {resolution: before[resolution] - len(kept(endpoint, resolution)) for resolution in RESOLUTIONS}
    assert lost == {5: 12 - 4, 60: 12, 900: 12}
    measure(endpoint, NOW, NOW + 120, tidied=True)
    assert store.latest(now=NOW + 121)[endpoint.id].at == NOW + 115
    assert kept(endpoint, 60)[-1] == NOW
    # Set right, it loses nothing more, whatever is left of the time ahead.
    assert len(kept(endpoint, 900)) == before[900] - 12
    assert [at for at in kept(endpoint, 5) if at > NOW + 120] == [year + 5 * number for number in range(4)]


def test_a_clock_that_is_set_back_neither_doubles_nor_breaks(endpoint: Endpoint) -> None:
    measure(endpoint, NOW, NOW + 300, tidied=True)
    minutes = store.window(endpoint.id, NOW, NOW + 300, 60)
    measure(endpoint, NOW + 60, NOW + 420, requests=9, tidied=True)
    assert kept(endpoint, 5) == list(range(NOW, NOW + 420, 5))
    assert kept(endpoint, 60) == [NOW + 60 * number for number in range(6)]
    # Minutes that were rolled up before tell of the first time, all others of the second.
    again = store.window(endpoint.id, NOW, NOW + 420, 60)
    assert again[: len(minutes)] == minutes
    assert {one.answered["2xx"] for one in again[len(minutes) :]} == {108}


# ---- deleted endpoints


def test_a_deleted_endpoint_takes_its_samples_with_it_bit_by_bit(
    endpoint: Endpoint, second: Endpoint
) -> None:
    for one in (endpoint, second):
        lay(one, 5, NOW - 3600, NOW)
        lay(one, 60, NOW - 7200, NOW)
        lay(one, 900, NOW - 90 * 86_400, NOW)
    series = MetricSeries.objects.get(endpoint=endpoint).pk
    others = MetricSample.objects.filter(series__endpoint=second).count()
    with CaptureQueriesContext(connection) as queries:
        Endpoint.objects.get(pk=endpoint.pk).delete()
    assert not [query for query in queries if "metricsample" in query["sql"]]
    assert store.window(endpoint.id, NOW - 3600, NOW, 5) == []
    left = [MetricSample.objects.filter(series=series).count()]
    for number in range(30):
        store.tidy(NOW + 1 + 5 * number)
        left.append(MetricSample.objects.filter(series=series).count())
    assert left[-1] == 0
    assert max(before - after for before, after in pairwise(left)) <= 2 * 720
    assert not MetricSeries.objects.filter(pk=series).exists()
    assert MetricSample.objects.filter(series__endpoint=second).count() >= others - 30 * 9
