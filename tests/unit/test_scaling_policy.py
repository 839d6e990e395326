"""The policy over time: windows, silence, sleep, clocks, what it learns."""

from __future__ import annotations

import time

import pytest

from endpoints.autoscaling.policy import Blocker, Limits, Memory, Metric, Rule, Seen, decide
from tests.support_autoscaling import SLOT, START, Queue, Replay

CPU, LATENCY, IN_FLIGHT = Metric.CPU, Metric.LATENCY, Metric.IN_FLIGHT
LIMITS = Limits(1, 10, {CPU: 70.0})
SLEEPY = Limits(0, 3, {CPU: 70.0}, idle_timeout_s=60)


def settled(limits: Limits = LIMITS, wanted: int = 2, slots: int = 70, value: float = 70.0) -> Replay:
    """An endpoint that has been as it should be for longer than any window."""
    replay = Replay(limits, wanted=wanted)
    replay.looks([dict.fromkeys(limits.thresholds, value)] * slots)
    assert replay.changes == []
    return replay


def test_above_for_15_s_is_three_slots() -> None:
    replay = settled()
    first = replay.at
    verdicts = replay.looks([{CPU: 140}] * 3)
    assert [(item.rule, item.blocker) for item in verdicts] == [
        (Rule.ABOVE, Blocker.STABILISING),
        (Rule.ABOVE, Blocker.STABILISING),
        (Rule.ABOVE, None),
    ]
    assert [item.params["left_s"] for item in verdicts[:2]] == [10, 5]
    assert verdicts[0].params["count"] == 4
    assert replay.changes == [
        (first + 10 - START, 2, 4)
    ]  # at the end of that slot: 15 s after its load began
    assert verdicts[2].params == {"metric": "cpu_percent", "value": 140, "target": 70, "seconds": 15}
    assert verdicts[2].metric == CPU
    assert verdicts[2].inputs == {"cpu_percent": {"value": 140, "target": 70, "count": 4}}


def test_growth_takes_the_smallest_of_the_window() -> None:
    replay = settled()
    replay.looks([{CPU: 350}, {CPU: 90}, {CPU: 350}])
    assert replay.changes[-1][1:] == (2, 3)


def test_below_for_five_minutes_shrinks() -> None:
    replay = settled(wanted=4)
    first = replay.at - START
    verdicts = replay.looks([{CPU: 20}] * 60)
    assert {item.blocker for item in verdicts[:-1]} == {Blocker.COOLING_DOWN}
    assert [item.params["left_s"] for item in verdicts[:3]] == [295, 290, 285]
    assert verdicts[0].params["count"] == 2
    assert (verdicts[-1].rule, verdicts[-1].blocker, verdicts[-1].params["seconds"]) == (
        Rule.BELOW,
        None,
        300,
    )
    assert replay.changes == [(first + 295, 4, 2)]


def test_no_wait_acts_at_once() -> None:
    replay = Replay(Limits(1, 10, {CPU: 70.0}, up_after_s=0))
    assert replay.look({CPU: 140}).wanted == 2


def test_traffic_in_the_cool_down_begins_it_anew() -> None:
    replay = settled(wanted=4)
    replay.looks([{CPU: 20}] * 59)
    replay.look({CPU: 70})
    assert replay.changes == []
    verdict = replay.look({CPU: 20})
    assert (verdict.blocker, verdict.params["left_s"]) == (Blocker.COOLING_DOWN, 295)


@pytest.mark.parametrize("above", [1, 2])
def test_a_flapping_load_changes_nothing(above: int) -> None:
    replay = settled(wanted=3)
    pattern = [{CPU: 140}] * above + [{CPU: 10}] * 2
    replay.looks(pattern * 500)
    assert replay.changes == []


def test_a_fresh_memory_does_nothing_at_once() -> None:
    high, low = Replay(LIMITS, wanted=4), Replay(LIMITS, wanted=4)
    assert high.look({CPU: 200}).blocker == Blocker.STABILISING
    assert low.look({CPU: 1}).blocker == Blocker.COOLING_DOWN
    high.looks([{CPU: 200}] * 2)
    assert high.changes == [(10, 4, 8)]  # its first slot counts: it has been measured


@pytest.mark.parametrize("jump", [3600, -3600, 86_400 * 400, -86_400 * 400])
@pytest.mark.parametrize(("value", "blocker"), [(200, Blocker.STABILISING), (1, Blocker.COOLING_DOWN)])
def test_a_clock_that_jumps_leads_to_nothing_at_once(jump: int, value: float, blocker: Blocker) -> None:
    replay = settled(wanted=4)
    replay.looks([{CPU: value}] * 2)
    replay.at += jump
    assert replay.look({CPU: value}).blocker == blocker
    assert replay.changes == []
    waited = len(replay.looks([{CPU: value}] * (2 if value > 70 else 59)))
    assert replay.changes == [(replay.at - SLOT - START, 4, 8 if value > 70 else 1)], waited


def test_a_clock_set_back_a_little_forgets_the_future() -> None:
    replay = settled(wanted=4)
    replay.looks([{CPU: 200}] * 2)
    replay.at -= 20
    assert replay.look({CPU: 200}).blocker == Blocker.STABILISING
    assert all(item.at <= replay.memory.at for item in (*replay.memory.lows, *replay.memory.highs))


def test_a_slot_that_is_missing_does_not_begin_a_window_anew_but_a_longer_silence_does() -> None:
    short, long = settled(wanted=2), settled(wanted=2)
    for replay, slots in ((short, 1), (long, 3)):
        replay.looks([{CPU: 140}] * 2)
        replay.at += slots * SLOT
        replay.look({CPU: 140})
    assert short.changes
    assert not long.changes


def test_all_silent_holds() -> None:
    replay = settled(wanted=3)
    for verdict in replay.looks([{}] * 200):
        assert (verdict.wanted, verdict.rule, verdict.blocker) == (3, Rule.HOLD, Blocker.SILENT)
        assert verdict.params == {"metric": "cpu_percent"}


def test_one_silent_source_holds_shrinking_and_lets_growth_go_on() -> None:
    replay = settled(Limits(1, 10, {CPU: 70.0, LATENCY: 500.0}), wanted=3, value=70)
    replay = Replay(Limits(1, 10, {CPU: 70.0, LATENCY: 500.0}), wanted=3)
    for verdict in replay.looks([{CPU: 10}] * 100):
        assert verdict.blocker == Blocker.SILENT
        assert verdict.params == {"metric": "latency_ms"}
    replay.looks([{CPU: 140}] * 3)
    assert replay.changes[-1][1:] == (3, 6)


@pytest.mark.parametrize("nonsense", [float("nan"), float("inf"), -1.0])
def test_nonsense_is_silence(nonsense: float) -> None:
    replay = settled(wanted=3)
    assert replay.look({CPU: nonsense}).blocker == Blocker.SILENT


def test_a_figure_from_nowhere_overflows_nothing() -> None:
    replay = settled(wanted=3)
    assert replay.looks([{CPU: 1e300}] * 3)[-1].wanted == 7


def test_latency_waits_for_replicas_that_come() -> None:
    replay = Replay(Limits(1, 10, {LATENCY: 500.0}), wanted=2, start_s=60)
    replay.looks([{LATENCY: 830}] * 3)
    assert replay.changes == [(10, 2, 4)]
    coming = replay.looks([{LATENCY: 2000}] * 12)
    assert {(item.rule, item.blocker, item.wanted) for item in coming} == {(Rule.ABOVE, Blocker.COMING, 4)}
    replay.looks([{LATENCY: 830}] * 3)
    assert replay.changes[-1][1:] == (4, 7)


def test_cpu_says_that_it_waits_where_those_that_come_will_do() -> None:
    replay = Replay(LIMITS, wanted=2, start_s=60)
    replay.looks([{CPU: 140}] * 3)
    coming = replay.looks([{CPU: 140}] * 6)
    assert {(item.rule, item.blocker, item.wanted) for item in coming} == {(Rule.ABOVE, Blocker.COMING, 4)}
    replay.looks([{CPU: 210}] * 3)
    assert replay.changes[-1][1:] == (4, 6)


def test_nothing_is_decided_while_nothing_serves() -> None:
    """A first replica is on its way: what waits for it says nothing about how many are needed."""
    replay = Replay(Limits(1, 10, {IN_FLIGHT: 2.0}), wanted=1)
    for verdict in [replay.look({IN_FLIGHT: 200}, ready=0) for _ in range(20)]:
        assert (verdict.wanted, verdict.blocker) == (1, Blocker.COMING)
    assert replay.look({IN_FLIGHT: 200}).blocker == Blocker.STABILISING


def test_latency_alone_shrinks_one_by_one() -> None:
    replay = Replay(Limits(1, 10, {LATENCY: 500.0}), wanted=5)
    replay.looks([{LATENCY: 20}] * 130)
    assert [change[1:] for change in replay.changes] == [(5, 4), (4, 3)]


def test_latency_beside_another_metric_or_without_traffic_shrinks_at_once() -> None:
    both = Replay(Limits(1, 10, {LATENCY: 500.0, CPU: 70.0}), wanted=5)
    both.looks([{LATENCY: 20, CPU: 20}] * 60)
    quiet = Replay(Limits(1, 10, {LATENCY: 500.0}), wanted=5)
    quiet.looks([{LATENCY: 0}] * 60, active=False, load=0.0)
    assert [both.changes[0][1:], quiet.changes[0][1:]] == [(5, 2), (5, 1)]


def test_max_reached_says_what_would_be_needed() -> None:
    replay = settled(Limits(1, 3, {CPU: 70.0}), wanted=2)
    verdict = replay.looks([{CPU: 200}] * 3)[-1]
    assert (verdict.wanted, verdict.blocker, verdict.params["count"]) == (3, Blocker.AT_MAX, 6)
    verdict = replay.looks([{CPU: 200}] * 3)[-1]
    assert (verdict.wanted, verdict.rule, verdict.blocker) == (3, Rule.ABOVE, Blocker.AT_MAX)
    assert verdict.params["count"] == 9


def test_changed_limits_act_at_once() -> None:
    for limits, wanted, expected in (
        (Limits(4, 6, {CPU: 70.0}), 2, 4),
        (Limits(1, 3, {CPU: 70.0}), 5, 3),
        (Limits(2, 3), 3, 2),
        (Limits(0, 3), 3, 1),
        (Limits(2, 3), 0, 2),
    ):
        verdict, _ = decide(limits, Seen(START, wanted, wanted, {CPU: 70}, 1.0, True), Memory())
        assert (verdict.wanted, verdict.rule) == (expected, Rule.LIMITS), limits
    verdict, _ = decide(Limits(2, 3), Seen(START, 2, 2, {}, 1.0, True), Memory())
    assert (verdict.wanted, verdict.rule, verdict.blocker) == (2, Rule.HOLD, None)


def test_no_request_for_the_idle_timeout_leads_to_zero() -> None:
    replay = Replay(SLEEPY, wanted=1)
    verdicts = replay.looks([{CPU: 50}] * 12, active=False, load=0.0)
    assert {item.blocker for item in verdicts[:-1]} == {Blocker.IDLING}
    assert verdicts[0].params == {"left_s": 55, "seconds": 5}
    assert (verdicts[-1].wanted, verdicts[-1].rule, verdicts[-1].params) == (0, Rule.IDLE, {"seconds": 60})
    for verdict in replay.looks([{}] * 5, active=True):
        assert (verdict.wanted, verdict.rule) == (0, Rule.HOLD)  # waking is somebody else's business


def test_without_figures_or_with_a_jump_of_the_clock_it_does_not_fall_asleep() -> None:
    replay = Replay(SLEEPY, wanted=1)
    replay.looks([{CPU: 50}] * 6, active=False, load=0.0)
    replay.looks([{}] * 100, active=None, load=None)
    replay.at += 1e6
    assert replay.look({CPU: 50}, active=False, load=0.0).params["left_s"] == 25
    replay.at -= 2e6
    assert replay.look({CPU: 50}, active=False, load=0.0).params["left_s"] == 20
    replay.look({CPU: 50}, active=True)
    assert replay.look({CPU: 50}, active=False, load=0.0).params["left_s"] == 55


def test_a_shorter_idle_timeout_waits_for_a_source_that_is_silent() -> None:
    replay = Replay(SLEEPY, wanted=1)
    replay.looks([{CPU: 50}] * 6, active=False, load=0.0)
    replay.limits = Limits(0, 3, {CPU: 70.0}, idle_timeout_s=10)
    replay.looks([{}] * 3, active=None, load=None)
    assert replay.wanted == 1
    assert replay.look({CPU: 50}, active=False, load=0.0).rule == Rule.IDLE


def test_a_request_in_flight_keeps_it_awake() -> None:
    replay = Replay(SLEEPY, wanted=1)
    replay.looks([{CPU: 1}] * 500, active=True, load=0.0)
    assert replay.wanted == 1


@pytest.mark.parametrize("was_seen_asleep", [True, False])
def test_a_wake_begins_the_idle_time_anew(was_seen_asleep: bool) -> None:
    replay = Replay(SLEEPY, wanted=1)
    replay.looks([{CPU: 50}] * 12, active=False, load=0.0)
    assert replay.wanted == 0
    if was_seen_asleep:
        replay.look({}, active=False, load=0.0)
    replay.wanted = 1
    assert replay.look({CPU: 50}, active=False, load=0.0).params["left_s"] == 55


def test_one_that_starts_for_longer_than_its_idle_timeout_is_not_given_up() -> None:
    replay = Replay(SLEEPY, wanted=1)
    replay.looks([{}] * 500, ready=0, active=False, load=0.0)  # who had woken it has left
    assert replay.wanted == 1
    assert replay.look({CPU: 50}, active=False, load=0.0).params["left_s"] == 55


def test_no_sleep_where_min_is_one_or_no_timeout_is_set() -> None:
    for limits in (Limits(1, 3, {CPU: 70.0}, idle_timeout_s=10), Limits(0, 3, {CPU: 70.0})):
        replay = Replay(limits, wanted=1)
        replay.looks([{CPU: 50}] * 100, active=False, load=0.0)
        assert replay.wanted == 1


def test_the_same_look_again_changes_nothing() -> None:
    replay = settled(wanted=2)
    replay.looks([{CPU: 140}] * 2)
    view = Seen(replay.at, 2, 2, {CPU: 140}, 10.0, True)
    first, memory = decide(LIMITS, view, replay.memory)
    again, memory_again = decide(LIMITS, view, memory)
    assert first == again
    assert memory == memory_again
    assert first.wanted == 4


def test_what_was_too_few_is_not_tried_again_under_the_same_load() -> None:
    """Two replicas wait 1.6 s at this load, three 1 s: by its ratio alone the policy would go back and forth."""
    replay, queue = Replay(Limits(1, 10, {LATENCY: 1500.0}), wanted=4), Queue(rate=2.2, service=0.8)
    for _ in range(12 * 60 * 12):
        values, load = queue.pass_by(replay.ready)
        replay.look(values, load=load)
    assert len(replay.changes) < 8
    assert replay.changes[-1][0] < 3600
    assert replay.verdicts[-1].blocker == Blocker.LEARNED
    lesson = replay.verdicts[-1].params
    assert lesson["count"] == replay.wanted - 1
    assert lesson["load"] == pytest.approx(2.2, rel=0.1)


def test_a_lesson_is_forgotten_after_a_day_and_with_a_smaller_load() -> None:
    def taught() -> Replay:
        replay = Replay(Limits(1, 10, {CPU: 70.0}, up_after_s=0, down_after_s=60), wanted=4)
        replay.looks([{CPU: 30}] * 12, load=100.0)
        replay.look({CPU: 100}, load=100.0)
        assert [change[1:] for change in replay.changes] == [(4, 2), (2, 3)]
        verdicts = replay.looks([{CPU: 45}] * 60, load=100.0)
        assert verdicts[-1].blocker == Blocker.LEARNED
        return replay

    smaller = taught()
    smaller.looks([{CPU: 45}] * 40, load=85.0)
    assert smaller.changes[-1][1:] == (3, 2)
    assert smaller.memory.lessons == ()
    old = taught()
    old.looks([{CPU: 45}] * int(86_400 / SLOT), load=100.0)
    assert old.changes[-1][1:] == (3, 2)
    assert old.changes[-1][0] >= 86_400
    unknown = taught()
    unknown.looks([{CPU: 45}] * 100, load=None)
    assert unknown.wanted == 3


def test_what_comes_counts_and_not_what_an_overloaded_replica_still_answers() -> None:
    replay = Replay(Limits(1, 10, {CPU: 70.0}, down_after_s=60), wanted=4)
    replay.looks([{CPU: 30}] * 12, load=100.0)
    replay.looks([{CPU: 100}] * 3, load=5.0)
    assert [change[1:] for change in replay.changes] == [(4, 2), (2, 3)]
    assert replay.memory.lessons[0].load > 75


def test_a_lesson_outlives_sleep_and_holds_where_the_load_is_not_known() -> None:
    limits = Limits(0, 10, {CPU: 70.0}, idle_timeout_s=30, up_after_s=0, down_after_s=60)
    replay = Replay(limits, wanted=4)
    replay.looks([{CPU: 30}] * 12, load=100.0)
    replay.look({CPU: 100}, load=100.0)
    replay.looks([{CPU: 30}] * 10, active=False, load=0.0)
    assert replay.wanted == 0
    replay.wanted = 3
    assert replay.looks([{CPU: 45}] * 30, load=None)[-1].blocker == Blocker.LEARNED


def test_what_others_changed_teaches_nothing() -> None:
    replay = Replay(Limits(1, 10, {CPU: 70.0}, up_after_s=0, down_after_s=60), wanted=4)
    replay.looks([{CPU: 30}] * 12)
    replay.wanted = 3  # a person, as when min is raised
    replay.look({CPU: 140})
    assert replay.changes[-1][1:] == (3, 6)
    assert replay.memory.lessons == ()


def test_growth_that_found_no_room_is_asked_for_again() -> None:
    replay = settled(wanted=2)
    replay.looks([{CPU: 140}] * 3)
    for _ in range(30):
        replay.wanted = 2
        assert replay.look({CPU: 140}).wanted == 4


@pytest.mark.parametrize(
    "garbage",
    [
        {},
        None,
        [],
        "",
        7,
        {"version": 1},
        {"version": 2, "at": 1},
        Memory().pack() | {"lows": [[1]]},
        Memory().pack() | {"lows": [[2, 1], [1, 2]]},
        Memory().pack() | {"lows": [[1, 2], [2, 1]]},
        Memory().pack() | {"highs": [["a", 1]]},
        Memory().pack() | {"at": float("nan")},
        Memory().pack() | {"at": "yesterday"},
        Memory().pack() | {"wanted": 1.5},
        Memory().pack() | {"lessons": [[1, -1, 1]]},
        Memory().pack() | {"idle_s": -3},
        Memory().pack() | {"idle_s": True},
        Memory().pack() | {"trend": 7},
        Memory().pack() | {"steps": {"a": 1}},
    ],
)
def test_a_broken_memory_is_an_empty_one(garbage: object) -> None:
    assert Memory.unpack(garbage) == Memory()  # type: ignore[arg-type]


def test_a_round_of_a_thousand_endpoints_takes_less_than_a_third_of_a_second() -> None:
    limits = Limits(0, 10, {CPU: 70.0, LATENCY: 500.0, IN_FLIGHT: 8.0}, 600, 60, 3600)
    memories, best = [Memory()] * 1000, 10.0
    for turn in range(15):
        views = [
            Seen(
                START + 5 * turn,
                5,
                5,
                {CPU: turn * n * 17 % 97, LATENCY: turn * n * 37 % 900, IN_FLIGHT: n % 50},
            )
            for n in range(1000)
        ]
        began = time.process_time()
        memories = [decide(limits, view, memory)[1] for view, memory in zip(views, memories, strict=True)]
        best = min(best, time.process_time() - began)
    assert best <= 0.3
