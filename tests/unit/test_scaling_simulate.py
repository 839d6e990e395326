"""The dry run: what other limits would have done, worked out by hand."""

from __future__ import annotations

import time
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints.autoscaling.policy import Blocker, Limits, Metric, Rule
from endpoints.autoscaling.simulate import Decided, Simulation, simulate
from endpoints.autoscaling.words import sentence
from endpoints.metrics.sample import ReplicaFigures, Sample
from gateway.figures import bin_of

START = 1_800_000_000


def slot(
    number: int,
    *,
    cpu: float | None = None,
    latency: float | None = None,
    in_flight: float = 0.0,
    requests: int = 0,
    ready: float = 1.0,
    seconds: float = 5.0,
    wanted: int | None = None,
    resolution: int = 5,
) -> Sample:
    """The real slot: `ready` replicas, each with this CPU."""
    count = round(ready) if wanted is None else wanted
    return Sample(
        at=START + number * resolution,
        seconds=seconds,
        answered={"2xx": requests} if requests else {},
        first_byte={bin_of(latency): 100} if latency is not None else {},
        in_flight=in_flight,
        in_flight_max=int(in_flight),
        wanted=count,
        ready=ready,
        replica_seconds=ready * resolution,
        replicas={f"r{n}": ReplicaFigures(cpu=cpu) for n in range(round(ready))} if cpu is not None else {},
    )


def steps(found: Simulation) -> list[tuple[float, int, int]]:
    return [
        (item.at - START, item.before, item.after) for item in found.decisions if item.before != item.after
    ]


def test_the_load_spreads_over_the_simulated_replicas() -> None:
    """One real replica at 90 %; with a threshold of 40 % it becomes three at 30 %, which serve 30 s later."""
    samples = [slot(n, cpu=90, requests=5) for n in range(60)]
    found = simulate(Limits(1, 5, {Metric.CPU: 40.0}), samples, 5, price_month=730)
    assert steps(found) == [(15, 1, 3)]
    assert [point.simulated for point in found.points[:5]] == [1, 1, 1, 3, 3]
    assert [point.ready for point in found.points[3:12]] == [1, 1, 1, 1, 1, 1, 3, 3, 3]
    assert {point.real for point in found.points} == {1}
    assert found.real.replica_hours == pytest.approx(300 / 3600)
    assert found.simulated.replica_hours == pytest.approx((3 * 5 + 57 * 5 * 3) / 3600)
    assert found.simulated.cost == pytest.approx(found.simulated.replica_hours)  # 730 a month is 1 an hour
    assert found.seconds == 300


def test_its_decisions_have_words() -> None:
    samples = [slot(n, cpu=90, requests=5) for n in range(60)]
    first = simulate(Limits(1, 2, {Metric.CPU: 40.0}), samples, 5).decisions[0]
    assert first.blocker == Blocker.AT_MAX
    said = sentence(first.rule, first.blocker, first.before, first.after, first.params)
    assert said == "CPU 90 % > 40 % for 15 s: 1 → 2, but max is 2 (3 would be needed)"


def test_fewer_replicas_than_there_were() -> None:
    """Four real ones at 10 % are one at 40 %."""
    samples = [slot(n, cpu=10, requests=5, ready=4) for n in range(120)]
    found = simulate(Limits(1, 5, {Metric.CPU: 70.0}), samples, 5, price_month=Decimal("73000.00"))
    assert steps(found) == [(300, 4, 1)]
    assert found.real.replica_hours == pytest.approx(4 * 600 / 3600)
    assert found.simulated.replica_hours == pytest.approx((4 + 1) * 300 / 3600)
    assert found.simulated.cost == pytest.approx(100 * 5 * 300 / 3600)


def test_latency_above_the_threshold_is_counted_for_both() -> None:
    samples = [slot(n, latency=800, requests=5) for n in range(24)]
    found = simulate(Limits(1, 4, {Metric.LATENCY: 500.0}), samples, 5)
    assert steps(found)[0] == (15, 1, 2)
    # Late until the second one serves: three slots until it is asked for, six until it is there.
    assert (found.simulated.late_slots, found.simulated.late_s) == (9, 45)
    assert found.real.late_slots == 24
    assert found.points[-1].latency_ms == pytest.approx(886 / 2, rel=0.01)  # p95 of the bin 794…891


def test_no_latency_threshold_no_count_and_no_price_no_cost() -> None:
    found = simulate(Limits(1, 4, {Metric.CPU: 50.0}), [slot(n, cpu=50, latency=900) for n in range(9)], 5)
    assert (found.simulated.late_slots, found.simulated.late_s, found.real.late_slots) == (None, None, None)
    assert (found.simulated.cost, found.real.cost) == (None, None)


def test_requests_in_flight_stay_as_many() -> None:
    samples = [slot(n, in_flight=24, requests=5, ready=2) for n in range(30)]
    found = simulate(Limits(1, 10, {Metric.IN_FLIGHT: 4}), samples, 5)
    assert steps(found) == [(15, 2, 6)]


def test_sleeps_and_wakes() -> None:
    """20 s of traffic, 100 s of silence, traffic again: sleeps after 60 s, the wake takes 30 s of held requests."""
    samples = [slot(n, in_flight=1 if n < 4 or n >= 24 else 0) for n in range(40)]
    found = simulate(Limits(0, 2, {Metric.IN_FLIGHT: 4}, idle_timeout_s=60), samples, 5)
    assert [
        (item.rule, item.at - START, item.after) for item in found.decisions if item.after != item.before
    ] == [
        (Rule.IDLE, 80, 0),
        (Rule.WOKEN, 120, 1),
    ]
    assert (found.wakes, found.held_slots, found.held_s) == (1, 6, 30)
    assert found.simulated.replica_hours == pytest.approx((16 + 16) * 5 / 3600)


def test_what_really_slept_says_nothing_but_that_it_was_silent() -> None:
    """Three simulated replicas shrink where the real one slept: no request takes no CPU."""
    asleep = [slot(n, ready=0, wanted=0) for n in range(70)]
    found = simulate(Limits(1, 4, {Metric.CPU: 50.0}), asleep, 5, start=3)
    assert steps(found) == [(300, 3, 1)]
    # And where requests waited for it, their age is no latency of replicas that would have served.
    waking = [slot(n, ready=0, wanted=1, latency=30_000, in_flight=200) for n in range(70)]
    found = simulate(Limits(1, 4, {Metric.LATENCY: 500.0, Metric.IN_FLIGHT: 4}), waking, 5, start=1)
    assert steps(found) == []


@pytest.mark.parametrize("kind", ["silent", "missing"])
def test_gaps_hold(kind: str) -> None:
    busy = [slot(n, in_flight=24, requests=5) for n in range(2)]
    gap = [slot(n, seconds=0) for n in range(2, 100)] if kind == "silent" else []
    after = [slot(n, in_flight=24, requests=5) for n in range(100, 102)]
    found = simulate(Limits(1, 8, {Metric.IN_FLIGHT: 4}), busy + gap + after, 5)
    assert steps(found) == []
    assert len(found.points) == len(busy + gap + after)
    silent = [item for item in found.decisions if item.blocker == Blocker.SILENT]
    assert len(silent) == (1 if kind == "silent" else 0)


def test_coarse_slots() -> None:
    samples = [slot(n, cpu=90, requests=50, seconds=900, resolution=900) for n in range(96)]
    found = simulate(Limits(1, 4, {Metric.CPU: 50.0}), samples, 900)
    assert steps(found) == [(900, 1, 2)]
    assert found.simulated.replica_hours == pytest.approx(0.25 + 95 * 0.5)


def test_nothing_measured() -> None:
    found = simulate(Limits(1, 4, {Metric.CPU: 50.0}), [], 5, price_month=100)
    assert (found.points, found.decisions, found.seconds) == ((), (), 0)
    assert (found.simulated.replica_hours, found.simulated.cost) == (0, 0)


def test_real_limits_lead_to_the_real_decisions() -> None:
    """Fed with its own outcome, the dry run agrees with what it is fed: nothing else is in it but the policy."""
    limits = Limits(1, 6, {Metric.IN_FLIGHT: 4})
    load = [4] * 20 + [16] * 80 + [8] * 80
    first = simulate(limits, [slot(n, in_flight=k, requests=1) for n, k in enumerate(load)], 5, start_s=0)
    real = [
        slot(n, in_flight=k, requests=1, ready=point.ready, wanted=point.simulated)
        for n, (k, point) in enumerate(zip(load, first.points, strict=True))
    ]
    again = simulate(limits, real, 5, start_s=0)
    assert steps(first) == steps(again) == [(115, 1, 4), (800, 4, 2)]
    assert again.simulated.replica_hours == pytest.approx(again.real.replica_hours)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0.0, 5.0]),
            st.floats(0, 100),
            st.floats(0, 50),
            st.floats(0, 4),
            st.integers(1, 9),
        ),
        max_size=40,
    ),
    st.integers(0, 2),
    st.integers(0, 6),
    st.floats(0, 200),
)
def test_whatever_was_measured(
    slots: list[tuple[float, float, float, float, int]], low: int, start: int, start_s: float
) -> None:
    samples, number = [], 0
    for seconds, cpu, in_flight, ready, step in slots:
        number += step
        samples.append(slot(number, cpu=cpu, in_flight=in_flight, ready=ready, seconds=seconds))
    limits = Limits(low, 4, {Metric.CPU: 50.0, Metric.IN_FLIGHT: 5, Metric.LATENCY: 300}, 30, 0, 10)
    found = simulate(limits, samples, 5, start=start, start_s=start_s)
    assert len(found.points) == len(samples)
    for before, point in zip([None, *found.points], found.points, strict=False):
        assert before is None or low <= point.simulated <= 4
        assert 0 <= point.ready <= point.simulated
    changes = [item for item in found.decisions if item.before != item.after]
    for one, two in pairwise(changes):
        assert one.after == two.before
        assert one.at <= two.at
    assert isinstance(found.decisions[0] if found.decisions else Decided(0, 1, 1, Rule.HOLD), Decided)


def test_a_day_in_slots_of_a_minute_is_replayed_in_a_moment() -> None:
    samples = [
        slot(n, cpu=n % 100, latency=n % 900, in_flight=n % 30, requests=9, seconds=60, resolution=60)
        for n in range(1440)
    ]
    limits = Limits(1, 10, {Metric.CPU: 50.0, Metric.IN_FLIGHT: 5, Metric.LATENCY: 300})
    began = time.process_time()
    simulate(limits, samples, 60, price_month=100)
    assert time.process_time() - began < 0.5
