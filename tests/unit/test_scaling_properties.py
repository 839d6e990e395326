"""What holds of the policy whatever comes: bounds, monotony, no oscillation, silence, idempotence, bounded memory."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints.autoscaling.memory import ENTRIES, KEPT_S, LESSONS, Entry, Lesson, extreme, pushed
from endpoints.autoscaling.policy import Blocker, Limits, Memory, Metric, Rule, Seen, decide
from tests.support_autoscaling import SLOT, START, Queue, Replay

FEW, MANY = settings(max_examples=40, deadline=None), settings(max_examples=200, deadline=None)
figures = st.floats(0, 2000) | st.sampled_from([0.0, 70.0, 500.0])
values = st.dictionaries(st.sampled_from(list(Metric)), figures)
windows = st.sampled_from([0.0, 5.0, 15.0, 60.0, 300.0, 3600.0])


@st.composite
def limits(draw: st.DrawFn) -> Limits:
    low = draw(st.integers(0, 5))
    targets = draw(st.dictionaries(st.sampled_from(list(Metric)), st.integers(1, 600), max_size=3))
    idle = draw(st.integers(1, 120)) if low == 0 else None
    return Limits(low, max(draw(st.integers(low, 10)), 1), targets, idle, draw(windows), draw(windows))


@st.composite
def looks(draw: st.DrawFn) -> dict[str, Any]:
    """One slot; the clock may jump."""
    return {
        "values": draw(values),
        "load": draw(st.none() | st.floats(0, 1000)),
        "active": draw(st.sampled_from([True, True, False, None])),
        "jump": draw(st.sampled_from([0, 0, 0, 0, 5, 40, 4000, -5, -4000, 86_400])),
        "missing": draw(st.integers(0, 2)),
    }


@st.composite
def memories(draw: st.DrawFn) -> Memory:
    """Any that `unpack` would let in."""
    times = st.floats(START - 5000, START + 500)
    counts = st.integers(0, 20)
    # Two sorted lists beside each other, as windows have them.
    at = sorted(draw(st.lists(times, max_size=6, unique=True)))
    many = sorted(draw(st.lists(counts, min_size=len(at), max_size=len(at), unique=True)))
    lows = tuple(Entry(*pair) for pair in zip(at, many, strict=True))
    highs = tuple(Entry(*pair) for pair in zip(at, reversed(many), strict=True))
    return Memory(
        draw(st.none() | times),
        draw(st.none() | counts),
        draw(st.none() | times),
        lows,
        highs,
        tuple(sorted(draw(st.lists(st.builds(Entry, times, st.integers(-9, 9)), max_size=4)))),
        draw(st.floats(0, 500)),
        draw(st.none() | st.floats(0, 1000)),
        draw(st.none() | counts),
        tuple(draw(st.lists(st.builds(Lesson, counts, st.floats(0, 1000), times), max_size=LESSONS))),
        draw(st.sampled_from([-1, 0, 1])),
        draw(times),
    )


seens = st.builds(
    lambda wanted, away, values, load, active: Seen(
        START, wanted, max(wanted - away, 0), values, load, active
    ),
    st.integers(0, 12),
    st.integers(-1, 4),
    values,
    st.none() | st.floats(0, 1000),
    st.sampled_from([True, False, None]),
)


@MANY
@given(limits(), seens, memories())
def test_never_out_of_bounds_whatever_is_remembered(limits: Limits, seen: Seen, memory: Memory) -> None:
    verdict, kept = decide(limits, seen, memory)
    low = max(limits.min_replicas, 1)
    if verdict.wanted == 0:
        assert limits.min_replicas == 0
        assert verdict.rule == Rule.IDLE or seen.wanted == 0
    else:
        assert low <= verdict.wanted <= limits.max_replicas
    json.dumps([kept.pack(), dict(verdict.params), dict(verdict.inputs)], allow_nan=False)
    assert Memory.unpack(json.loads(json.dumps(kept.pack()))) == kept


@MANY
@given(limits(), seens, memories(), st.dictionaries(st.sampled_from(list(Metric)), st.floats(0, 1000)))
def test_more_load_never_leads_to_fewer(
    limits: Limits, seen: Seen, memory: Memory, more: dict[Metric, float]
) -> None:
    lighter, _ = decide(limits, seen, memory)
    above = {metric: value + more.get(metric, 0) for metric, value in seen.values.items()}
    load = None if seen.load is None else seen.load + 50
    heavier, _ = decide(limits, replace(seen, values=above, load=load), memory)
    assert heavier.wanted >= lighter.wanted
    assert (
        decide(limits, replace(seen, active=True), memory)[0].wanted >= lighter.wanted or seen.active is None
    )


@MANY
@given(limits(), seens, memories())
def test_the_same_look_twice_is_one(limits: Limits, seen: Seen, memory: Memory) -> None:
    first, kept = decide(limits, seen, memory)
    again, kept_again = decide(limits, seen, kept)
    assert (again.wanted, again.rule, again.blocker) == (first.wanted, first.rule, first.blocker)
    assert kept_again == decide(limits, seen, kept_again)[1]


@MANY
@given(limits(), seens, memories())
def test_silence_holds(limits: Limits, seen: Seen, memory: Memory) -> None:
    silent = replace(seen, values={}, load=None, active=None)
    verdict, _ = decide(limits, silent, replace(memory, idle_s=0.0))
    assert verdict.wanted == seen.wanted or verdict.rule == Rule.LIMITS
    if limits.thresholds and verdict.rule == Rule.HOLD and seen.wanted:
        assert verdict.blocker == (Blocker.SILENT if seen.ready else Blocker.COMING)


@FEW
@given(limits(), st.lists(looks(), max_size=60))
def test_nothing_breaks_over_time_and_what_is_kept_stays_small(
    limits: Limits, slots: list[dict[str, Any]]
) -> None:
    replay = Replay(limits, wanted=max(limits.min_replicas, 1), start_s=10)
    for slot in slots:
        replay.at += slot["jump"]
        ready = max(replay.ready - slot["missing"], 0)
        verdict = replay.look(slot["values"], load=slot["load"], active=slot["active"], ready=ready)
        assert verdict.wanted <= limits.max_replicas
        memory = replay.memory
        assert len(memory.lows) <= ENTRIES
        assert len(memory.highs) <= ENTRIES
        assert len(memory.lessons) <= LESSONS
        assert len(memory.steps) <= 6
        assert all(item.at <= memory.at for item in (*memory.lows, *memory.highs, *memory.steps))


def test_the_memory_of_a_wild_day_stays_small() -> None:
    replay = Replay(Limits(1, 10_000, {Metric.IN_FLIGHT: 1}, up_after_s=3600, down_after_s=3600), wanted=500)
    for turn in range(3000):
        replay.look({Metric.IN_FLIGHT: (turn * 7919) % 4999})
    assert len(replay.memory.lows) <= ENTRIES
    assert len(replay.memory.highs) <= ENTRIES
    assert len(json.dumps(replay.memory.pack())) < 8000


@MANY
@given(st.lists(st.tuples(st.sampled_from([5, 5, 5, 10, 60, 900]), st.integers(0, 30)), min_size=1), windows)
def test_a_window_of_few_values_is_exact(slots: list[tuple[int, int]], window: float) -> None:
    lows: tuple[Entry, ...] = ()
    highs: tuple[Entry, ...] = ()
    everything: list[Entry] = []
    at = START
    for seconds, count in slots:
        at += seconds
        everything.append(Entry(at, count))
        lows = pushed(lows, Entry(at, count), lambda old, new: old < new)
        highs = pushed(highs, Entry(at, count), lambda old, new: old > new)
        inside = [item.replicas for item in everything if item.at > at - window] or [count]
        assert (extreme(lows, at, window), extreme(highs, at, window)) == (min(inside), max(inside))


@FEW
@given(st.lists(st.integers(0, 10_000), min_size=100, max_size=700, unique=True), st.sampled_from("^v-"))
def test_a_window_of_many_values_holds_longer_rather_than_shorter(counts: list[int], order: str) -> None:
    """A load that rises all the time fills one kind, one that falls the other."""
    counts = counts if order == "-" else sorted(counts, reverse=order == "v")
    lows: tuple[Entry, ...] = ()
    highs: tuple[Entry, ...] = ()
    for slot, count in enumerate(counts):
        new = Entry(START + slot * SLOT, count)
        lows = pushed(lows, new, lambda old, fresh: old < fresh)
        highs = pushed(highs, new, lambda old, fresh: old > fresh)
    assert max(len(lows), len(highs)) == ENTRIES or order == "-"
    for window in range(5, 3600, 5):
        inside = counts[-window // 5 :]
        assert extreme(lows, new.at, window) <= min(inside)
        assert extreme(highs, new.at, window) >= max(inside)


def test_nothing_older_than_the_longest_window_is_kept() -> None:
    lows = pushed((Entry(START, 1),), Entry(START + KEPT_S, 5), lambda old, new: old < new)
    assert lows == (Entry(START + KEPT_S, 5),)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@MANY
@given(st.dictionaries(st.sampled_from(sorted(Memory().pack())), json_values), json_values)
def test_anything_can_be_unpacked_and_decided_with(broken: dict[str, Any], garbage: object) -> None:
    for data in (garbage, Memory().pack() | broken):
        memory = Memory.unpack(data)  # type: ignore[arg-type]
        seen = Seen(START, 2, 2, {Metric.CPU: 200}, 1.0, True)
        assert decide(Limits(1, 5, {Metric.CPU: 70}), seen, memory)[0].wanted in range(1, 6)


# No oscillation under constant load: hours of it, and the last of them without a change.

SLOTS_AN_HOUR = 720


def constant(limits: Limits, queue: Queue, wanted: int, start_s: float, hours: int) -> Replay:
    replay = Replay(limits, wanted=wanted, start_s=start_s)
    for _ in range(hours * SLOTS_AN_HOUR):
        found, load = queue.pass_by(max(replay.ready, 1))
        replay.look({metric: found[metric] for metric in limits.thresholds}, load=load)
    return replay


@settings(max_examples=25, deadline=None)
@given(
    st.floats(0.1, 9.9),
    st.sampled_from([(Metric.CPU,), (Metric.LATENCY,), (Metric.IN_FLIGHT,), (Metric.CPU, Metric.LATENCY)]),
    st.floats(1.05, 5.0),
    st.integers(1, 10),
    st.sampled_from([0.0, 20.0, 90.0]),
)
def test_a_queue_under_constant_load_comes_to_rest(
    rate: float, metrics: tuple[Metric, ...], slack: float, wanted: int, start_s: float
) -> None:
    """Latency and requests in flight grow out of all proportion near saturation (Erlang's C formula)."""
    targets = {Metric.CPU: 70.0, Metric.LATENCY: 1000 * slack, Metric.IN_FLIGHT: slack}
    limits = Limits(1, 10, {metric: targets[metric] for metric in metrics})
    replay = constant(limits, Queue(rate, service=1.0), wanted, start_s, hours=3)
    assert [change for change in replay.changes if change[0] > 2 * 3600] == []
    assert len(replay.changes) <= 40


@FEW
@given(st.floats(0, 1500), st.sampled_from([Metric.CPU, Metric.GPU, Metric.MEMORY]), st.integers(1, 10))
def test_a_load_that_divides_among_replicas_comes_to_rest_where_it_fits(
    total: float, metric: Metric, wanted: int
) -> None:
    replay = Replay(Limits(1, 10, {metric: 70.0}), wanted=wanted, start_s=20)
    for _ in range(SLOTS_AN_HOUR):
        replay.look({metric: total / max(replay.ready, 1)})
    assert [change for change in replay.changes if change[0] > 1200] == []
    assert total / replay.wanted <= 77 or replay.wanted == 10
    assert replay.wanted == 1 or total / (replay.wanted - 1) >= 63
