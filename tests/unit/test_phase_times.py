"""Estimates and alarms, worked out by hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from endpoints.images import Pace
from endpoints.models import PhaseName
from endpoints.phase_times import TIMED, Eta, Stall, estimate, stall

T0 = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
# 60 + 1 + 0 + 20 + 2 + 1
USUAL = {
    "pulling": 60.0,
    "creating": 1.0,
    "starting": 0.0,
    "loading": 20.0,
    "health_check": 2.0,
    "routing": 1.0,
}


@dataclass
class Phase:
    """A row of the timeline."""

    name: str
    started_at: datetime
    finished_at: datetime | None = None
    bytes_done: int = 0
    bytes_total: int = 0
    bytes_per_s: float = 0
    bytes_moved_at: datetime | None = None
    layers_waiting: int = 0


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def under_way(name: str, begun: float = 0, **facts: object) -> list[Phase]:
    return [Phase("queued", at(begun - 1), at(begun)), Phase(name, at(begun), **facts)]  # type: ignore[arg-type]


def left(phases: list[Phase], now: float) -> Eta:
    found = estimate(phases, USUAL, at(now))
    assert found is not None
    return found


def test_what_is_left_of_a_phase_and_the_usual_time_of_those_to_come() -> None:
    eta = left(under_way("loading"), 5)
    assert (eta.seconds_left, eta.at, eta.late) == (15 + 2 + 1, at(23), None)
    assert eta.late_at == at(20 + 5)  # a quarter later than usual
    assert left(under_way("routing"), 0.25).seconds_left == 0.75
    assert left(under_way("creating"), 0).seconds_left == 1 + 0 + 20 + 2 + 1


def test_a_phase_that_takes_longer_than_usual_is_late_and_never_negative() -> None:
    loading = under_way("loading")
    at_the_limit = left(loading, 24)
    assert (at_the_limit.seconds_left, at_the_limit.late) == (3, None)
    late = left(loading, 25)
    assert (late.seconds_left, late.at, late.late) == (3, at(28), "loading")
    assert left(loading, 10_000).seconds_left == 3
    # A short phase is not late at once: at least two seconds more.
    assert left(under_way("routing"), 2.9).late is None
    assert left(under_way("routing"), 3.0).late == "routing"


def test_a_pull_tells_its_end_by_its_own_pace() -> None:
    pull = under_way(
        "pulling", bytes_done=30_000_000, bytes_total=90_000_000, bytes_per_s=2e6, bytes_moved_at=at(10)
    )
    assert left(pull, 10).seconds_left == 30 + 24
    assert left(pull, 12).seconds_left == 28 + 24
    assert left(pull, 10).late is None
    # No byte for a while: what was usual tells more than a pace of the past.
    assert left(pull, 16).seconds_left == 44 + 24


def test_a_pull_without_all_sizes_takes_at_least_as_long_as_usual() -> None:
    some = {"bytes_done": 1_000_000, "bytes_total": 2_000_000, "bytes_per_s": 1e6, "bytes_moved_at": at(10)}
    assert left(under_way("pulling", layers_waiting=4, **some), 10).seconds_left == 50 + 24
    assert left(under_way("pulling", layers_waiting=0, **some), 10).seconds_left == 1 + 24
    # Slower than usual: the pace counts.
    slow = some | {"bytes_total": 101_000_000}
    assert left(under_way("pulling", layers_waiting=4, **slow), 10).seconds_left == 100 + 24


def test_unpacking_is_estimated_from_history() -> None:
    complete = under_way("pulling", bytes_done=9, bytes_total=9, bytes_per_s=1, bytes_moved_at=at(40))
    assert left(complete, 41).seconds_left == 19 + 24


def test_waiting_for_room_is_no_usual_time() -> None:
    for name in ("queued", "scheduling"):
        eta = left([Phase(name, T0)], 500)
        assert (eta.seconds_left, eta.at, eta.late) == (24, None, None)
        assert stall([Phase(name, T0)], {**USUAL, name: 0.1}, at(5000)) is None


@pytest.mark.parametrize(
    "phases",
    [[], [Phase("loading", T0, at(3))], [Phase("routing", T0, at(1)), Phase("active", at(1))]],
    ids=["nothing yet", "failed", "active"],
)
def test_nothing_under_way_has_no_estimate(phases: list[Phase]) -> None:
    assert estimate(phases, USUAL, at(9)) is None
    assert stall(phases, USUAL, at(900)) is None


def test_a_first_deployment_has_no_estimate() -> None:
    assert estimate(under_way("loading"), {}, at(1)) is None
    assert stall(under_way("loading"), {}, at(3600)) is None
    unknown = {name: seconds for name, seconds in USUAL.items() if name != "pulling"}
    assert estimate(under_way("pulling"), unknown, at(1)) is None


def test_three_times_the_usual_time_is_a_stall() -> None:
    loading = under_way("loading")
    assert stall(loading, USUAL, at(59.9)) is None
    assert stall(loading, USUAL, at(60)) == Stall("loading", T0, 60, 20)
    # 0.2 s phases don't cry: ten seconds more than usual at least.
    routing = under_way("routing")
    assert stall(routing, {**USUAL, "routing": 0.2}, at(10.1)) is None
    assert stall(routing, {**USUAL, "routing": 0.2}, at(10.2)) == Stall("routing", T0, 10.2, 0.2)


def test_a_pull_in_which_nothing_moves_is_a_stall_at_the_first_time_too() -> None:
    silent = under_way("pulling", bytes_done=5, bytes_total=9, bytes_moved_at=at(40))
    assert stall(silent, {}, at(69)) is None
    assert stall(silent, {}, at(70)) == Stall("pulling", at(40), 30, None)
    nothing = under_way("pulling", bytes_moved_at=at(1))
    assert stall(nothing, {}, at(31)) == Stall("pulling", at(1), 30, None)
    assert stall(under_way("pulling"), {}, at(300)) is None  # an image that is built here
    unpacking = under_way("pulling", bytes_done=9, bytes_total=9, bytes_moved_at=at(40))
    assert stall(unpacking, {}, at(500)) is None
    assert stall(unpacking, USUAL, at(500)) == Stall("pulling", T0, 500, 60)


def test_a_pull_that_hardly_moves_has_an_end_that_a_calendar_knows() -> None:
    pull = under_way("pulling", bytes_done=0, bytes_total=10**11, bytes_per_s=0.004, bytes_moved_at=at(10))
    assert left(pull, 10).seconds_left > 300 * 86_400


DURATIONS = st.dictionaries(st.sampled_from(TIMED), st.floats(0, 5000), min_size=1)


@given(usual=DURATIONS, name=st.sampled_from(list(PhaseName)), now=st.floats(-100, 1e6), pull=st.data())
@settings(max_examples=300, deadline=None)
def test_it_is_never_negative(usual: dict[str, float], name: str, now: float, pull: st.DataObject) -> None:
    total = pull.draw(st.integers(0, 10**11))
    moved = pull.draw(st.none() | st.floats(0, 1000))
    phases = under_way(
        name,
        bytes_total=total,
        bytes_done=pull.draw(st.integers(0, total)),
        bytes_per_s=pull.draw(st.floats(0, 1e9)),
        bytes_moved_at=None if moved is None else at(moved),
        layers_waiting=pull.draw(st.integers(0, 30)),
    )
    eta = estimate(phases, usual, at(now))
    assert eta is None or eta.seconds_left >= 0
    assert eta is None or eta.at is None or eta.at >= at(now)


@given(real=st.lists(st.floats(0.8, 1.2), min_size=5, max_size=5), pace=st.floats(0.3, 3))
@settings(max_examples=60, deadline=None)
def test_a_deployment_as_usual_counts_down_without_jumps(real: list[float], pace: float) -> None:
    """A pull at a steady pace of its own, the other phases up to a fifth off: what is left falls by about a second a
    second, and is right to a fifth."""
    size, per_s = 100_000_000, pace * 2e6
    lengths = [size / per_s] + [USUAL[n] * r for n, r in zip(TIMED[1:], real, strict=True)]
    begins = [sum(lengths[:i]) for i in range(len(lengths))]
    end = sum(lengths)
    before, now = None, 0.6
    while now < end:
        i = max(i for i, begin in enumerate(begins) if begin <= now)
        phase = Phase(TIMED[i], at(begins[i]))
        if i == 0:
            phase.bytes_total, phase.bytes_done = size, int(per_s * now)
            phase.bytes_per_s, phase.bytes_moved_at = per_s, at(now)
        eta = left([phase], now)
        assert eta.late is None
        assert abs(eta.seconds_left - (end - now)) <= 0.2 * 24 + 0.1
        if before is not None:
            assert eta.seconds_left <= before + 0.2 * 20  # no phase ends later than a fifth of the longest
        before = eta.seconds_left
        now += 0.5


def test_the_pace_is_that_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.note(0, 0) == 0
    assert pace.note(1, 100) == 100
    assert pace.note(2, 400) == 200
    for second in range(3, 30):
        last = pace.note(second, 400)
    assert last == 0
    assert pace.note(30, 4_400) == pytest.approx(4000 / 10)
    assert pace.note(31, 50) == 0  # begun anew
    assert pace.note(32, 150) == 100
