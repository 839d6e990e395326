"""Charts: which samples they are made of, and what their lines say."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints.metrics import query, store
from endpoints.metrics.sample import RESOLUTIONS, ReplicaFigures, Sample
from endpoints.models import Decision, Endpoint
from gateway.figures import add_bins, quantile
from iam.actors import Actor
from tests.support_endpoints import load_data, new_endpoint
from tests.unit.test_metrics_store import NOW, lay, measure, sample

DAY = 86_400


@pytest.fixture
def endpoint(db: None, editor_actor: Actor) -> Endpoint:
    load_data()
    return new_endpoint(editor_actor, cpu_percent=70, latency_ms=500)


def chart(
    endpoint: Endpoint, begin: float, end: float, step: int | None = None, **fields: Any
) -> query.Chart:
    return query.chart(endpoint, begin, end, step, **{"now": end, **fields})


# ---- steps


@pytest.mark.parametrize(
    ("span", "resolution", "step"),
    [
        (900, 5, 5),
        (3600, 5, 10),
        (6 * 3600, 60, 60),
        (DAY, 60, 180),
        (7 * DAY, 900, 1800),
        (30 * DAY, 900, 5400),
        (90 * DAY, 900, 16_200),
    ],
)
def test_a_range_has_at_most_500_points(span: int, resolution: int, step: int) -> None:
    assert query.steps(NOW - span, NOW, None, NOW) == (resolution, step)
    assert query.steps(NOW - span, NOW, None, NOW + 5) == (resolution, step)  # a page asks a moment later


@settings(deadline=None)
@given(
    st.integers(1, 100 * DAY), st.integers(0, 100 * DAY), st.none() | st.integers(5, DAY), st.integers(0, 10)
)
def test_steps_are_bounded_and_samples_of_that_age_are_there(
    span: int, ago: int, step: int | None, odd: int
) -> None:
    end = NOW - ago + odd / 10
    resolution, found = query.steps(end - span, end, step, NOW)
    assert found % resolution == 0
    assert span / found <= (query.POINTS_MOST if step else query.POINTS)
    assert found >= (step or 0)
    age = NOW - (end - span)
    assert age <= RESOLUTIONS[resolution] * query.LATE + 1 or resolution == 900


@pytest.mark.parametrize(
    ("asked", "got"), [(5, (5, 5)), (7, (5, 10)), (60, (60, 60)), (100, (60, 120)), (900, (900, 900))]
)
def test_a_step_that_was_asked_for(asked: int, got: tuple[int, int]) -> None:
    assert query.steps(NOW - 1800, NOW, asked, NOW) == got


def test_a_step_is_no_finer_than_what_is_kept() -> None:
    assert query.steps(NOW - 2 * DAY, NOW - 2 * DAY + 900, 5, NOW) == (900, 900)


# ---- lines


def test_a_chart_by_hand(endpoint: Endpoint) -> None:
    replicas = {
        "a": ReplicaFigures(cpu=20.0, memory=40.0, queued=2.0, tokens_out=30.0),
        "b": ReplicaFigures(cpu=60.0, queued=1.0, tokens_out=12.0, kv_cache=50.0),
    }
    answered = {"2xx": 10, "4xx": 2, "5xx": 5, "other": 3}
    busy = Sample(NOW, 5.0, answered, {40: 20}, {20: 19}, {60: 1}, 2.5, 4, 2, 1.5, 1, 3, 10.0, replicas)
    store.write({endpoint.id: busy})
    store.write({endpoint.id: sample(NOW + 5, 0)})
    store.write({endpoint.id: sample(NOW + 15, 0, seconds=0.0)})
    found = chart(endpoint, NOW, NOW + 20, 5)
    assert (found["from"], found["to"], found["step"]) == (NOW, NOW + 20, 5)
    assert found["at"] == [NOW, NOW + 5, NOW + 10, NOW + 15]
    lines = found["series"]
    assert set(lines) == set(query.SERIES)
    assert lines["requests_per_s"] == [4, 0, None, None]
    assert [lines[f"errors_{name}_per_s"][0] for name in ("4xx", "5xx")] == [0.4, 1]
    assert lines["aborted_per_s"] == [0.6, 0, None, None]
    assert (lines["in_flight"], lines["in_flight_max"]) == ([2.5, 0, None, None], [4, 0, None, None])
    assert lines["latency_p50_ms"] == [pytest.approx(quantile({40: 20}, 0.5), abs=1e-3), None, None, None]
    # The one that still waits for its first byte is 10 s old.
    for name, share in query.PERCENTILES.items():
        expected = quantile({20: 19, 60: 1}, share)
        assert lines[f"first_byte_{name}_ms"][0] == pytest.approx(expected, abs=1e-3)
    assert (lines["cpu"], lines["memory"]) == ([40, None, None, None], [40, None, None, None])
    assert (lines["queued"][0], lines["tokens_out_per_s"][0], lines["kv_cache"][0]) == (3, 42, 50)
    assert lines["gpu"] == [None] * 4
    assert (lines["wanted"], lines["ready"]) == ([2, 1, None, 1], [1.5, 1, None, 1])
    assert (lines["min"], lines["max"]) == ([1, 1, None, 1], [3, 2, None, 2])
    assert found["replicas"] == {
        "a": {"cpu": [20, None, None, None], "memory": [40, None, None, None]},
        "b": {"cpu": [60, None, None, None]},
    }
    assert found["thresholds"] == {"cpu_percent": 70, "latency_ms": 500}


def test_points_are_merged_from_their_slots(endpoint: Endpoint) -> None:
    slow, quick = sample(NOW, 30, duration={70: 30}), sample(NOW + 5, 10, duration={10: 10})
    store.write({endpoint.id: slow})
    store.write({endpoint.id: quick})
    lines = chart(endpoint, NOW, NOW + 10, 10)["series"]
    assert lines["requests_per_s"] == [4]
    expected = quantile(add_bins([slow.duration, quick.duration]), 0.95)
    assert lines["latency_p95_ms"] == [pytest.approx(expected, abs=1e-3)]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.integers(0, 131), st.integers(0, 1000), max_size=30))
def test_percentiles_are_those_of_the_histograms(bins: dict[int, float]) -> None:
    found = dict(query._percentiles("latency", bins))
    for name, share in query.PERCENTILES.items():
        expected = quantile(bins, share)
        assert found.get(f"latency_{name}_ms") == (None if expected is None else pytest.approx(expected))


def test_a_day_ends_now(endpoint: Endpoint) -> None:
    measure(endpoint, NOW - 300, NOW + 40, tidied=True)
    found = chart(endpoint, NOW + 41 - DAY, NOW + 41)
    assert len(found["at"]) <= query.POINTS + 1
    measured = [at for at, rate in zip(found["at"], found["series"]["requests_per_s"], strict=True) if rate]
    assert (measured[0], measured[-1]) == (NOW - 360, NOW)
    assert {found["series"]["requests_per_s"][found["at"].index(at)] for at in measured} == {1}
    total = query.samples(endpoint.id, NOW - 3600, NOW + 41, 60, NOW + 41)
    assert sum(one.answered["2xx"] for one in total) == 5 * 68
    assert [one.at for one in total] == list(range(NOW - 300, NOW + 60, 60))


def test_ninety_days_end_now_too(endpoint: Endpoint) -> None:
    lay(endpoint, 900, NOW - 90 * DAY, NOW)
    lay(endpoint, 60, NOW - DAY, NOW + 120)
    lay(endpoint, 5, NOW - 3600, NOW + 150)
    total = query.samples(endpoint.id, NOW - 90 * DAY, NOW + 150, 900, NOW + 150)
    assert len(total) == 8641
    assert total[-1].at == NOW
    assert total[-1].answered == {"2xx": 2 * 5 + 6 * 5}
    rates = chart(endpoint, NOW + 150 - 90 * DAY, NOW + 150)["series"]["requests_per_s"]
    assert len(rates) <= query.POINTS + 2
    assert None not in rates[1:]


def test_the_newest_replicas_stay_where_there_are_too_many(endpoint: Endpoint) -> None:
    for number in range(4):
        names = [f"r{number * 4 + place:02}" for place in range(4)]
        some = {name: ReplicaFigures(cpu=1.0) for name in names}
        store.write({endpoint.id: sample(NOW + 5 * number, replicas=some)})
    found = chart(endpoint, NOW, NOW + 20, 5)["replicas"]
    assert len(found) == query.REPLICAS_SHOWN
    assert {f"r{number:02}" for number in range(8, 16)} <= set(found)
    assert found["r15"]["cpu"] == [None, None, None, 1]


def test_nothing_was_ever_measured(endpoint: Endpoint) -> None:
    found = chart(endpoint, NOW - 90 * DAY, NOW)
    assert all(line == [None] * len(found["at"]) for line in found["series"].values())
    assert found["replicas"] == {}


def test_decisions_of_the_range(endpoint: Endpoint) -> None:
    for number in range(4):
        moment = datetime.fromtimestamp(NOW + 100 * number, UTC)
        Decision.objects.create(endpoint=endpoint, at=moment, rule="woken", before=0, after=1)
    found = chart(endpoint, NOW + 50, NOW + 250)["decisions"]
    assert [mark["at"] for mark in found] == [NOW + 100, NOW + 200]
    assert {key: found[0][key] for key in ("before", "after", "rule", "blocker")} == {
        "before": 0,
        "after": 1,
        "rule": "woken",
        "blocker": None,
    }
    assert found[0]["text"]
