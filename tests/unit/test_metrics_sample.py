"""Samples: what goes into the database comes back, and coarse ones say what the fine ones said."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints.metrics import rows
from endpoints.metrics.sample import ReplicaFigures, Sample, merge, pack_dense, unpack_dense
from endpoints.metrics.totals import EDGES_S, Totals
from gateway.figures import CLASSES, LAST_BIN, add_bins, bounds, quantile

BINS = st.dictionaries(st.integers(0, LAST_BIN), st.integers(1, 10**6), max_size=40)
PER_CENT = st.none() | st.integers(0, 1000).map(lambda tenths: tenths / 10)
REPLICA = st.builds(ReplicaFigures, *[PER_CENT] * 9)
SAMPLE = st.builds(
    Sample,
    at=st.just(60),
    seconds=st.sampled_from([0.0, 5.0, 4.87]),
    answered=st.dictionaries(st.sampled_from(CLASSES), st.integers(1, 10**6)),
    duration=BINS,
    first_byte=BINS,
    waiting=BINS,
    in_flight=st.integers(0, 10**5).map(lambda cents: cents / 100),
    in_flight_max=st.integers(0, 1000),
    wanted=st.integers(0, 10),
    ready=st.integers(0, 40).map(lambda quarters: quarters / 4),
    low=st.integers(0, 10),
    high=st.integers(0, 10),
    replica_seconds=st.integers(0, 100).map(float),
    replicas=st.dictionaries(
        st.sampled_from(["berth-me-1-v1-r1-1", "berth-me-1-v1-r2-1", "berth-me-2-v1-r1-1", "other"]), REPLICA
    ),
)


@settings(max_examples=40, deadline=None)
@given(BINS)
def test_bins_come_back(bins: dict[int, float]) -> None:
    assert unpack_dense(pack_dense(bins)) == bins


@settings(max_examples=40, deadline=None)
@given(SAMPLE)
def test_a_sample_comes_back(sample: Sample) -> None:
    assert rows.unpack(sample.at, rows.pack(sample, "me-1"), "me-1") == sample
    # What is rolled up is read and written without the endpoint's id.
    again = rows.pack(rows.unpack(sample.at, rows.pack(sample, "me-1")))
    assert rows.unpack(sample.at, again, "me-1") == sample


def test_what_is_usual_takes_little_room() -> None:
    replica = ReplicaFigures(cpu=0.3, memory=34.2)
    sample = Sample(60, 5.0, wanted=1, ready=1.0, low=1, high=3, replica_seconds=5.0)
    filled = rows.pack(Sample(**{**_fields(sample), "replicas": {"berth-me-7a-v12-r1-4": replica}}), "me-7a")
    assert filled == '{"s":5,"n":[1,1,1,3],"c":5,"r":{"~v12-r1-4":[0.3,34.2]}}'


def _fields(sample: Sample) -> dict[str, object]:
    return {name: getattr(sample, name) for name in Sample.__dataclass_fields__}


@pytest.mark.parametrize("nonsense", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_stored(nonsense: float) -> None:
    sample = Sample(
        60,
        nonsense,
        in_flight=nonsense,
        replicas={"a": ReplicaFigures(cpu=nonsense, memory=3.0), "b": ReplicaFigures(cpu=nonsense)},
    )
    stored = rows.pack(sample)
    json.loads(stored, parse_constant=pytest.fail)
    found = rows.unpack(60, stored)
    assert (found.seconds, found.in_flight) == (0, 0)
    assert found.replicas == {"a": ReplicaFigures(memory=3), "b": ReplicaFigures()}


def test_a_coarse_sample_by_hand() -> None:
    one = Sample(
        0, 5.0, {"2xx": 4}, {10: 4}, {5: 4}, {}, 2.0, 3, 1, 1.0, 1, 4, 5.0,
        {"a": ReplicaFigures(cpu=10.0, tokens_out=100.0)},
    )  # fmt: skip
    silent = Sample(5, 0.0, wanted=2, ready=1.0, low=1, high=4, replica_seconds=10.0)
    last = Sample(
        10, 5.0, {"2xx": 1, "5xx": 1}, {10: 1, 50: 1}, {5: 2}, {60: 1}, 4.0, 5, 3, 2.0, 0, 5, 10.0,
        {"a": ReplicaFigures(cpu=30.0, tokens_out=100.0), "b": ReplicaFigures(cpu=50.0, tokens_out=60.0)},
    )  # fmt: skip
    merged = merge(0, [last, one, silent])
    assert (merged.seconds, merged.answered) == (10.0, {"2xx": 5, "5xx": 1})
    assert (merged.duration, merged.first_byte, merged.waiting) == ({10: 5, 50: 1}, {5: 6}, {60: 1})
    assert (merged.in_flight, merged.in_flight_max) == (3.0, 5)
    assert (merged.wanted, merged.ready, merged.low, merged.high) == (3, 4 / 3, 0, 5)
    assert merged.replica_seconds == 25.0
    # b was there for half of the time in which replicas told: it generated half as much over all of it.
    assert merged.replicas == {
        "a": ReplicaFigures(cpu=20.0, tokens_out=100.0),
        "b": ReplicaFigures(cpu=50.0, tokens_out=30.0),
    }


@settings(max_examples=40, deadline=None)
@given(st.lists(BINS, min_size=1, max_size=6), st.floats(0.01, 0.99))
def test_percentiles_of_coarse_samples_are_those_of_all_requests(
    slots: list[dict[int, float]], share: float
) -> None:
    merged = merge(0, [Sample(5 * number, 5.0, {"2xx": 1}, bins) for number, bins in enumerate(slots)])
    assert quantile(merged.duration, share) == quantile(add_bins(slots), share)


@settings(max_examples=40, deadline=None)
@given(st.lists(SAMPLE, max_size=5))
def test_totals_come_back_and_can_be_taken_back(samples: list[Sample]) -> None:
    total = Totals()
    for sample in samples:
        total = total.plus(sample)
    found = Totals.unpack(total.pack())
    assert found.answered == total.answered
    assert found.duration.cumulated()[-1] == sum(sum(one.duration.values()) for one in samples)
    for sample in samples:
        found = found.plus(sample, -1)
    assert found.answered == (0,) * len(CLASSES)
    assert set(found.first_byte.counts) == {0}


def test_buckets_end_where_bins_end() -> None:
    ends = [bounds(number)[1] / 1000 for number in range(LAST_BIN + 1)]
    assert set(EDGES_S) <= set(ends)
    for number, end in enumerate(ends):
        counts = Totals().plus(Sample(0, 5.0, {"2xx": 1}, {number: 1})).duration.cumulated()
        assert [count for count, edge in zip(counts, EDGES_S, strict=False) if edge >= end] == [1] * sum(
            edge >= end for edge in EDGES_S
        )
        assert sum(counts) == sum(edge >= end for edge in EDGES_S) + 1


def test_totals_of_another_version_begin_anew() -> None:
    assert Totals.unpack("[[1,2],[1],[1],0,0]") == Totals() == Totals.unpack("")
