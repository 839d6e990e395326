"""How many replicas an endpoint should have. Pure: data in, data out, time given.

Source: the Kubernetes HPA algorithm, kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale, sections
"Algorithm details" and "Configurable scaling behavior" with its defaults. `decide` goes through it in this order:

1. Each metric asks for a count by itself: endpoints.autoscaling.counting.
2. The largest count wins. Where a source is silent, growth goes on and shrinking is held.
3. What was too few before is not tried again under the same load (ours; HPA has nothing against it): where a threshold
   was broken after a shrink to n, the count stays above n while the load is at least 0.9 of the one it broke under.
   For a day at most, and until a clearly smaller load has led to n again.
4. Stabilisation: growth takes the smallest recommendation of the last `up_after_s`, shrinking the largest of the last
   `down_after_s`. A memory that is fresh, was interrupted for long or whose clock was set starts with the present
   count, as if it had been recommended until this slot's beginning: so nothing is done at once.
5. Steps: at most max(100 %, 4 replicas) more within 15 s; fewer without a limit.
6. Never below max(min, 1), never above max.

To zero leads another way: no request for the idle timeout while at least one replica serves. One that takes longer to
start than that is not given up before it is there, nor does one that cannot start seem to sleep. From zero leads none:
waking is not the policy's business.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from endpoints.autoscaling.counting import TOLERANCE, Asked, asked_by, targets_of
from endpoints.autoscaling.memory import LESSONS, Entry, Lesson, Memory, extreme, not_after, pushed
from endpoints.autoscaling.terms import Blocker, Limits, Metric, Rule, Seen, Verdict

__all__ = ["TOLERANCE", "Blocker", "Limits", "Memory", "Metric", "Rule", "Seen", "Verdict", "decide"]

STEP_S, STEP_REPLICAS, STEP_PER_CENT = 15.0, 4, 100
LESSON_S, LESSON_SHARE = 86_400.0, 0.9
LOAD_OVER_S = 60.0  # a minute: what a slow answer does to the requests per second must not hide what came
GAP_SHARE = 0.2  # of a window: a source that was silent for less does not start the window anew
_IDLE_MOST = 1e8


def decide(limits: Limits, seen: Seen, memory: Memory) -> tuple[Verdict, Memory]:
    """The verdict on one look, and what to remember for the next one.

    A look at the same moment as the one before takes its place. Costs some 20 µs, whatever the windows are.
    """
    memory = _attended(seen, memory)
    low, high = max(limits.min_replicas, 1), max(limits.max_replicas, limits.min_replicas, 1)
    if seen.wanted <= 0:
        return _asleep(limits, seen, memory)
    if _sleeps(limits) and seen.active is False and memory.idle_s >= (limits.idle_timeout_s or 0):
        verdict = Verdict(0, Rule.IDLE, params={"seconds": memory.idle_s})
        return verdict, Memory(at=seen.at, wanted=0, idle_s=memory.idle_s, lessons=memory.lessons)
    if not low <= seen.wanted <= high:
        return _to_limits(limits, seen, memory, min(max(seen.wanted, low), high))
    targets = targets_of(limits)
    if not targets:
        if seen.wanted != low:
            return _to_limits(limits, seen, memory, low)
        return _hold(limits, seen, memory, {})
    if seen.ready <= 0:
        memory = _noted(limits, seen, memory, seen.wanted)
        return Verdict(seen.wanted, Rule.HOLD, Blocker.COMING), memory
    asked, silent = asked_by(targets, seen)
    return _weighed(limits, seen, memory, asked, silent)


def _weighed(
    limits: Limits, seen: Seen, memory: Memory, asked: Sequence[Asked], silent: Sequence[Metric]
) -> tuple[Verdict, Memory]:
    """Steps 2 to 6."""
    low = max(limits.min_replicas, 1)
    inputs = {item.metric.value: item.as_input() for item in asked}
    best = max(asked, key=lambda item: (item.count, item.value / item.target), default=None)
    raw = seen.wanted if best is None else max(best.count, low)
    if best is None or (silent and raw < seen.wanted):
        params = {"metric": silent[0].value}
        return Verdict(seen.wanted, Rule.HOLD, Blocker.SILENT, None, inputs, params), memory
    wise = _wiser(raw, seen, memory)
    memory = _noted(limits, seen, memory, wise)
    up = extreme(memory.lows, seen.at, limits.up_after_s)
    down = max(extreme(memory.highs, seen.at, limits.down_after_s), low)
    base = _said(best, seen, memory)
    if up > seen.wanted:
        return _grow(
            limits, seen, memory, up, Verdict(seen.wanted, Rule.ABOVE, None, best.metric, inputs, base)
        )
    if down < seen.wanted:
        verdict = Verdict(down, Rule.BELOW, None, best.metric, inputs, base)
        if raw < down == wise:
            verdict = _learned(verdict, memory)
        return verdict, _changed(memory, seen, down)
    kept = Verdict(seen.wanted, Rule.HOLD, None, None, inputs)
    return _kept(limits, seen, memory, replace(kept, metric=best.metric, params=base), best, (raw, wise))


def _grow(limits: Limits, seen: Seen, memory: Memory, count: int, base: Verdict) -> tuple[Verdict, Memory]:
    high = max(limits.max_replicas, limits.min_replicas, 1)
    step = _step_limit(seen, memory)
    allowed = min(count, step, high)
    blocker = None
    if allowed < count:
        blocker = Blocker.AT_MAX if allowed == high else Blocker.STEP_LIMIT
    params = {**base.params, "count": count} if blocker else base.params
    verdict = replace(base, wanted=allowed, blocker=blocker, params=params)
    if allowed == seen.wanted:
        return verdict, memory
    return verdict, _changed(_lesson_taken(seen, memory), seen, allowed)


def _kept(
    limits: Limits, seen: Seen, memory: Memory, base: Verdict, best: Asked, counts: tuple[int, int]
) -> tuple[Verdict, Memory]:
    """Nothing changes: why not."""
    raw, wise = counts
    if wise > seen.wanted:
        last = next(item.at for item in reversed(memory.lows) if item.replicas <= seen.wanted)
        count = min(wise, max(limits.max_replicas, seen.wanted))
        params = {**base.params, "left_s": max(last + limits.up_after_s - seen.at, 0.0), "count": count}
        return replace(base, rule=Rule.ABOVE, blocker=Blocker.STABILISING, params=params), memory
    if best.waits:
        return replace(base, rule=Rule.ABOVE, blocker=Blocker.COMING), memory
    if wise < seen.wanted:
        last = next(item.at for item in reversed(memory.highs) if item.replicas >= seen.wanted)
        params = {**base.params, "left_s": max(last + limits.down_after_s - seen.at, 0.0), "count": wise}
        return replace(base, rule=Rule.BELOW, blocker=Blocker.COOLING_DOWN, params=params), memory
    if raw < wise:
        return _learned(replace(base, rule=Rule.BELOW), memory), memory
    return _hold(limits, seen, memory, base.inputs)


def _hold(
    limits: Limits, seen: Seen, memory: Memory, inputs: Mapping[str, Mapping[str, float]]
) -> tuple[Verdict, Memory]:
    verdict = Verdict(seen.wanted, Rule.HOLD, inputs=inputs)
    if memory.idle_s and _sleeps(limits):
        left = {"left_s": (limits.idle_timeout_s or 0) - memory.idle_s, "seconds": memory.idle_s}
        verdict = replace(verdict, blocker=Blocker.IDLING, params=left)
    return verdict, memory


def _asleep(limits: Limits, seen: Seen, memory: Memory) -> tuple[Verdict, Memory]:
    fresh = Memory(at=seen.at, wanted=0, lessons=memory.lessons)
    if limits.min_replicas >= 1:
        return _to_limits(limits, seen, fresh, limits.min_replicas)
    return Verdict(0, Rule.HOLD), fresh


def _to_limits(limits: Limits, seen: Seen, memory: Memory, count: int) -> tuple[Verdict, Memory]:
    params = {"min": limits.min_replicas, "max": limits.max_replicas}
    return Verdict(count, Rule.LIMITS, params=params), replace(memory, wanted=count, steps=(), shrunk_to=None)


def _sleeps(limits: Limits) -> bool:
    return limits.min_replicas <= 0 and limits.idle_timeout_s is not None


def _said(best: Asked, seen: Seen, memory: Memory) -> dict[str, Any]:
    """What the sentence needs."""
    seconds = seen.at - memory.since + seen.seconds
    return {
        "metric": best.metric.value,
        "value": round(best.value, 3),
        "target": best.target,
        "seconds": seconds,
    }


# What goes on in time.


def _attended(seen: Seen, memory: Memory) -> Memory:
    """What the look itself tells: the time, the load, whether there was a request, what others changed."""
    if memory.at is not None and seen.at < memory.at:  # the clock was set back
        memory = replace(
            memory,
            noted_at=None,
            lows=not_after(memory.lows, seen.at),
            highs=not_after(memory.highs, seen.at),
        )
    again = seen.at == memory.at
    idle, load = memory.idle_s, memory.load
    if seen.active or (memory.wanted == 0 and not again):
        idle = 0.0
    # While none serves, whoever came may have left and been told when to come again: it is not idle for that.
    if seen.active is False and seen.ready > 0 and not again:
        idle = min(idle + seen.seconds, _IDLE_MOST)
    if seen.load is not None and 0 <= seen.load < math.inf and not (again and load is not None):
        load = _smoothed(seen, memory)
    steps, shrunk_to = not_after(memory.steps, seen.at), memory.shrunk_to
    if again:
        steps = tuple(item for item in steps if item.at < seen.at)
    elif memory.wanted != seen.wanted:  # a person, a wake, or no room
        steps, shrunk_to = (), None
    lessons = tuple(item for item in memory.lessons if 0 <= seen.at - item.at < LESSON_S)
    return replace(
        memory,
        at=seen.at,
        wanted=seen.wanted,
        idle_s=idle,
        load=load,
        steps=steps,
        shrunk_to=shrunk_to,
        lessons=lessons,
    )


def _smoothed(seen: Seen, memory: Memory) -> float:
    """Requests per second, the newest of them most."""
    assert seen.load is not None
    if memory.load is None or memory.at is None or not 0 <= seen.at - memory.at <= LOAD_OVER_S + seen.seconds:
        return seen.load
    return seen.load + (memory.load - seen.load) * math.exp(-seen.seconds / LOAD_OVER_S)


def _noted(limits: Limits, seen: Seen, memory: Memory, count: int) -> Memory:
    """With this recommendation. Where there was none for too long, it is the present count that stood until now."""
    lows, up_anew = _window(memory.lows, limits.up_after_s, seen, memory)
    highs, down_anew = _window(memory.highs, limits.down_after_s, seen, memory)
    trend = (count > seen.wanted) - (count < seen.wanted)
    anew = trend != memory.trend or (up_anew if trend > 0 else down_anew)
    new = Entry(seen.at, count)
    return replace(
        memory,
        noted_at=seen.at,
        lows=pushed(lows, new, lambda old, fresh: old < fresh),
        highs=pushed(highs, new, lambda old, fresh: old > fresh),
        trend=trend,
        since=seen.at if anew else memory.since,
    )


def _window(
    entries: tuple[Entry, ...], seconds: float, seen: Seen, memory: Memory
) -> tuple[tuple[Entry, ...], bool]:
    """What a window holds before this look, and whether it starts anew."""
    gap = math.inf if memory.noted_at is None else seen.at - memory.noted_at
    if gap <= max(2 * seen.seconds, GAP_SHARE * seconds) + 1e-6 and entries:
        return entries, False
    return (Entry(seen.at - seen.seconds, seen.wanted),), True


def _step_limit(seen: Seen, memory: Memory) -> int:
    """How many there may be now, by what was added within the last period."""
    added = sum(item.replicas for item in memory.steps if item.at > seen.at - STEP_S)
    before = seen.wanted - added
    return max(before + step_of(before), seen.wanted)


def step_of(count: int, replicas: int = STEP_REPLICAS, per_cent: int = STEP_PER_CENT) -> int:
    """How far one period may go from `count`: the policy that allows the most is taken, parts are rounded up."""
    return max(replicas, -(-count * per_cent // 100))


def _changed(memory: Memory, seen: Seen, count: int) -> Memory:
    """After a decision for another count."""
    recent = [item for item in memory.steps if item.at > seen.at - STEP_S]
    fewer = count < seen.wanted
    return replace(
        memory,
        wanted=count,
        steps=(*recent, Entry(seen.at, count - seen.wanted)),
        shrunk_to=count if fewer else None,
        lessons=tuple(item for item in memory.lessons if item.replicas < count) if fewer else memory.lessons,
    )


# What was too few before.


def _wiser(count: int, seen: Seen, memory: Memory) -> int:
    """Not fewer than has been enough under such a load; never more than there are."""
    floors = [item.replicas + 1 for item in memory.lessons if _applies(item, memory)]
    return max(count, min(max(floors, default=0), seen.wanted))


def _applies(item: Lesson, memory: Memory) -> bool:
    return memory.load is None or memory.load >= LESSON_SHARE * item.load


def _learned(verdict: Verdict, memory: Memory) -> Verdict:
    lesson = max((item for item in memory.lessons if _applies(item, memory)), key=lambda item: item.replicas)
    params = {**verdict.params, "count": lesson.replicas, "load": round(lesson.load, 3), "since": lesson.at}
    return replace(verdict, blocker=Blocker.LEARNED, params=params)


def _lesson_taken(seen: Seen, memory: Memory) -> Memory:
    """It grows: if the last change was a shrink to this count, that was too few for this load."""
    if memory.shrunk_to != seen.wanted or not memory.load:
        return memory
    others = [item for item in memory.lessons if item.replicas != seen.wanted]
    return replace(memory, lessons=(*others, Lesson(seen.wanted, memory.load, seen.at))[-LESSONS:])
