"""The examples of Kubernetes' documentation, "Horizontal Pod Autoscaling"
(kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale), and what its text says in numbers.

Stabilisation is off where a section is about one look alone: the recommendation is what counts there.
"""

from __future__ import annotations

import pytest

from endpoints.autoscaling.policy import Blocker, Limits, Memory, Metric, Rule, Seen, decide, step_of
from tests.support_autoscaling import START, Replay

AT_ONCE = {"up_after_s": 0.0, "down_after_s": 0.0}


def recommended(
    values: dict[Metric, float],
    targets: dict[Metric, float],
    wanted: int,
    ready: int | None = None,
    told: dict[Metric, int] | None = None,
) -> int:
    limits = Limits(1, 1000, targets, **AT_ONCE)
    view = Seen(START, wanted, wanted if ready is None else ready, values, 10.0, True, 5.0, told or {})
    verdict, _ = decide(limits, view, Memory())
    return verdict.params["count"] if verdict.blocker == Blocker.STEP_LIMIT else verdict.wanted


@pytest.mark.parametrize("metric", [Metric.CPU, Metric.MEMORY, Metric.GPU])
@pytest.mark.parametrize(
    ("value", "target", "wanted", "expected"),
    [
        (200, 100, 2, 4),  # 200m where 100m are desired: "the number of replicas will be doubled"
        (200, 100, 3, 6),
        (50, 100, 4, 2),  # 50m: "you'll halve the number of replicas"
        (50, 100, 3, 2),  # ceil(1.5)
        (50, 100, 1, 1),
        (100, 100, 5, 5),
        (109, 100, 5, 5),  # "sufficiently close to 1.0 (…, 0.1 by default)"
        (110, 100, 5, 5),
        (111, 100, 5, 6),
        (91, 100, 5, 5),
        (90, 100, 10, 10),
        (89, 100, 10, 9),
        (200, 300, 3, 2),
        (200 / 7, 50, 7, 4),  # 4 exactly, not a little more
        (60, 60, 7, 7),
    ],
)
def test_desired_is_the_ceiling_of_current_times_ratio(
    metric: Metric, value: float, target: float, wanted: int, expected: int
) -> None:
    assert recommended({metric: value}, {metric: target}, wanted) == expected


@pytest.mark.parametrize(
    ("total", "target", "wanted", "expected"),
    [
        (40, 10, 2, 4),
        (10, 10, 4, 1),
        (21, 10, 2, 2),  # 10.5 each is within the tolerance
        (23, 10, 2, 3),
        (18, 10, 2, 2),
        (17, 10, 2, 2),  # outside of it, and still 2
        (0, 10, 3, 1),
    ],
)
def test_a_total_is_divided_by_the_average_value(
    total: float, target: float, wanted: int, expected: int
) -> None:
    """targetAverageValue of one figure for all: `autoscaling/v2` divides it by the number of pods."""
    assert recommended({Metric.IN_FLIGHT: total}, {Metric.IN_FLIGHT: target}, wanted) == expected


def test_pods_that_are_not_ready_dampen_growth_and_do_not_reverse_it() -> None:
    """As 0 % where it would have grown; where that turns the direction or lands in the tolerance, nothing is done."""
    targets = {Metric.CPU: 50.0}
    assert recommended({Metric.CPU: 150}, targets, wanted=3) == 9
    assert recommended({Metric.CPU: 150}, targets, wanted=3, ready=2) == 6
    assert recommended({Metric.CPU: 75}, targets, wanted=3, ready=2) == 3  # exactly on target: nothing
    assert (
        recommended({Metric.CPU: 60}, targets, wanted=4, ready=2) == 4
    )  # 30 % over all of them: would reverse
    assert recommended({Metric.CPU: 20}, targets, wanted=4, ready=3) == 2  # set aside where it shrinks


def test_pods_without_metrics_dampen_both_ways() -> None:
    """100 % of the desired value where it would shrink, 0 % where it would grow."""
    targets, some = {Metric.CPU: 100.0}, {Metric.CPU: 2}
    assert recommended({Metric.CPU: 20}, targets, wanted=4) == 1
    assert recommended({Metric.CPU: 20}, targets, wanted=4, told=some) == 3  # (0.2 × 2 + 1 × 2) = 2.4
    assert recommended({Metric.CPU: 300}, targets, wanted=4, told=some) == 6  # (3 × 2 + 0 × 2)
    assert (
        recommended({Metric.CPU: 150}, targets, wanted=4, told=some) == 4
    )  # 0.75 of the target: would reverse
    assert recommended({Metric.CPU: 85}, targets, wanted=4, told=some) == 4  # 0.925: in the tolerance


def test_the_largest_of_several_metrics_is_taken() -> None:
    targets = {Metric.CPU: 50.0, Metric.IN_FLIGHT: 10.0, Metric.MEMORY: 80.0}
    values = {Metric.CPU: 100.0, Metric.IN_FLIGHT: 55.0, Metric.MEMORY: 40.0}
    assert recommended(values, targets, wanted=2) == 6


def test_a_metric_that_cannot_be_fetched_keeps_it_from_shrinking_but_not_from_growing() -> None:
    targets = {Metric.CPU: 50.0, Metric.GPU: 50.0}
    assert recommended({Metric.CPU: 10}, targets, wanted=4) == 4
    assert recommended({Metric.CPU: 100}, targets, wanted=4) == 8
    assert recommended({}, targets, wanted=4) == 4


def test_the_highest_desired_state_of_the_stabilisation_window_is_used() -> None:
    """ "all desired states from the past 5 minutes will be considered", and 60 s in the example that changes it."""
    for window in (300.0, 60.0):
        replay = Replay(Limits(1, 10, {Metric.CPU: 50.0}, up_after_s=0, down_after_s=window), wanted=8)
        replay.look({Metric.CPU: 50})
        replay.looks([{Metric.CPU: 10}] * 3)  # asks for 2
        replay.look({Metric.CPU: 30})  # asks for 5
        replay.looks([{Metric.CPU: 10}] * int(window / 5))
        assert replay.changes[0] == (window, 8, 5)  # the 8 has left the window, the 5 has not
        replay.looks([{Metric.CPU: 16}] * 4)
        assert replay.changes[1][1:] == (5, 2)


def test_default_growth_is_four_or_all_of_them_every_15_seconds() -> None:
    """ "4 pods or a 100% of the currently running replicas will be added every 15 seconds"."""
    limits = Limits(1, 100, {Metric.IN_FLIGHT: 1.0}, up_after_s=0, down_after_s=300)
    replay = Replay(limits, wanted=1)
    replay.looks([{Metric.IN_FLIGHT: 100}] * 14)
    assert replay.changes == [(0, 1, 5), (15, 5, 10), (30, 10, 20), (45, 20, 40), (60, 40, 80)]
    assert {verdict.blocker for verdict in replay.verdicts[:12]} == {Blocker.STEP_LIMIT}


def test_default_shrinking_may_remove_all_at_once() -> None:
    limits = Limits(1, 100, {Metric.IN_FLIGHT: 1.0}, up_after_s=0, down_after_s=300)
    replay = Replay(limits, wanted=80)
    replay.looks([{Metric.IN_FLIGHT: 1}] * 60)
    assert replay.changes == [(295, 80, 1)]


def test_the_policy_that_allows_the_most_is_taken_and_parts_round_up() -> None:
    """The example with 4 pods and 10 per cent a minute: 80 replicas lose 8, 72 lose 8 (7.2), 40 and fewer lose 4."""
    assert [step_of(count, 4, 10) for count in (80, 72, 64, 41, 40, 24, 4)] == [8, 8, 7, 5, 4, 4, 4]


def test_never_beyond_the_maximum_and_never_below_the_minimum() -> None:
    limits = Limits(2, 5, {Metric.CPU: 50.0}, **AT_ONCE)
    high = decide(limits, Seen(START, 4, 4, {Metric.CPU: 100}), Memory())[0]
    low = decide(limits, Seen(START, 4, 4, {Metric.CPU: 1}), Memory())[0]
    assert (high.wanted, high.blocker, high.params["count"]) == (5, Blocker.AT_MAX, 8)
    assert (low.wanted, low.rule) == (2, Rule.BELOW)
