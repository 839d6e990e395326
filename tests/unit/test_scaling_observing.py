"""From a sample to what the policy sees."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from endpoints.autoscaling.observing import limits_of, seen
from endpoints.autoscaling.policy import Limits, Metric
from endpoints.metrics.sample import ReplicaFigures, Sample
from gateway.figures import bin_of


def test_what_is_measured() -> None:
    sample = Sample(
        at=1000,
        seconds=5,
        answered={"2xx": 40, "5xx": 10},
        first_byte={bin_of(100): 90, bin_of(800): 10},
        in_flight=3.5,
        ready=2.0,
        replicas={
            "a": ReplicaFigures(cpu=80, memory=50),
            "b": ReplicaFigures(cpu=40, memory=None),
            "c": ReplicaFigures(),
        },
    )
    found = seen(sample, wanted=3)
    assert (found.at, found.wanted, found.ready, found.seconds) == (1000, 3, 2, 5)
    assert (found.load, found.active) == (10, True)
    assert found.values[Metric.CPU] == 60
    assert found.values[Metric.MEMORY] == 50
    assert found.values[Metric.IN_FLIGHT] == 3.5
    assert found.values[Metric.LATENCY] == pytest.approx(840, rel=0.1)
    assert Metric.GPU not in found.values
    assert found.told == {Metric.CPU: 2, Metric.MEMORY: 1}


def test_silent_gateways_leave_out_what_only_they_know() -> None:
    sample = Sample(at=0, seconds=0, in_flight=7, ready=1, replicas={"a": ReplicaFigures(cpu=10)})
    found = seen(sample, wanted=1)
    assert (found.load, found.active) == (None, None)
    assert dict(found.values) == {Metric.CPU: 10}


def test_no_traffic_is_a_value() -> None:
    found = seen(Sample(at=0, seconds=5, ready=1), wanted=1)
    assert (found.load, found.active) == (0, False)
    assert dict(found.values) == {Metric.LATENCY: 0, Metric.IN_FLIGHT: 0}


def test_the_age_of_what_waits_is_a_sample() -> None:
    sample = Sample(at=0, seconds=5, waiting={bin_of(30_000): 4}, in_flight=4, in_flight_max=4, ready=1)
    found = seen(sample, wanted=1)
    assert found.values[Metric.LATENCY] > 29_000
    assert found.active


def test_what_ended_without_a_time_says_nothing_about_latency() -> None:
    found = seen(Sample(at=0, seconds=5, answered={"other": 3}, ready=1), wanted=1)
    assert Metric.LATENCY not in found.values
    assert found.active


def test_callers_who_are_refused_keep_nothing_awake() -> None:
    assert seen(Sample(at=0, seconds=5, answered={"4xx": 50}, ready=1), wanted=1).active is False
    assert seen(Sample(at=0, seconds=5, answered={"4xx": 50}, first_byte={20: 1}, ready=1), wanted=1).active


def test_streams_that_have_begun_keep_it_active_and_wait_for_nothing() -> None:
    found = seen(Sample(at=0, seconds=5, in_flight=0.4, ready=1), wanted=1)
    assert (found.active, found.values[Metric.LATENCY]) == (True, 0)


def test_nothing_of_replicas_that_do_not_serve_and_no_nonsense() -> None:
    figures = {"a": ReplicaFigures(cpu=10)}
    assert Metric.CPU not in seen(Sample(at=0, seconds=5, ready=0, replicas=figures), wanted=1).values
    nonsense = {
        "a": ReplicaFigures(cpu=float("nan"), memory=-5, gpu=1e12),
        "b": ReplicaFigures(cpu=float("inf"), gpu=0),
    }
    found = seen(Sample(at=0, seconds=5, ready=2, replicas=nonsense), wanted=2)
    assert Metric.CPU not in found.values
    assert Metric.MEMORY not in found.values
    assert found.values[Metric.GPU] == 100


def test_a_coarse_slot() -> None:
    found = seen(Sample(at=0, seconds=60, answered={"2xx": 60}, ready=1.6), wanted=2, resolution=60)
    assert (found.ready, found.load, found.seconds) == (2, 1, 60)


def test_limits_of_an_endpoint() -> None:
    endpoint = SimpleNamespace(
        min_replicas=0,
        max_replicas=4,
        cpu_percent=70,
        memory_percent=None,
        gpu_percent=None,
        latency_ms=500,
        in_flight=None,
        idle_timeout_s=900,
        scale_up_after_s=0,
        scale_down_after_s=600,
    )
    found = limits_of(endpoint)
    assert found == Limits(0, 4, {Metric.CPU: 70, Metric.LATENCY: 500}, 900, 0.0, 600.0)
    endpoint.scale_up_after_s = endpoint.scale_down_after_s = endpoint.idle_timeout_s = None
    assert limits_of(endpoint) == Limits(0, 4, {Metric.CPU: 70, Metric.LATENCY: 500}, None, 15.0, 300.0)
