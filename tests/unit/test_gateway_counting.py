"""What an agent tells, from what it reads in Envoy: nothing twice, nothing negative, nothing made up."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from gateway import meters
from gateway.counting import KEPT_S, Reading, Tally
from gateway.figures import Bins, EndpointFigures, Told, bin_of, bounds
from gateway.meters import Answered, Totals

A = "me-00000000-0000-4000-8000-00000000000a"
B = "me-00000000-0000-4000-8000-00000000000b"
FAST, SLOW = bin_of(5), bin_of(900)


def totals(
    duration: Mapping[Answered, Bins] | None = None,
    first_byte: Mapping[str, Bins] | None = None,
    waiting: Mapping[str, Bins] | None = None,
    in_flight: Mapping[str, int] | None = None,
) -> Totals:
    return Totals(duration or {}, first_byte or {}, waiting or {}, in_flight or {})


def answered(count: int, status: int = 200, name: str = A, number: int = FAST) -> Totals:
    return totals({(name, status): {number: count}}, {name: {number: count}})


class Agent:
    """A tally whose readings are 5 s apart."""

    def __init__(self) -> None:
        self.now = 100.0
        self.tally = Tally("gw", self.now, 7)

    def read(
        self, found: Totals, envoy: str = "first", *, fresh: bool = True, after: float = 5
    ) -> Told | None:
        self.now += after
        self.tally.take(Reading(envoy, fresh, found, self.now))
        return self.tally.told()

    def tell(self, found: Totals, envoy: str = "first", *, fresh: bool = True) -> Told:
        told = self.read(found, envoy, fresh=fresh)
        assert told is not None
        self.tally.heard()
        assert Told.of(json.loads(json.dumps(told.as_json()))).as_json() == told.as_json()
        return told


def counts(told: Told, name: str = A) -> Mapping[str, int]:
    return told.endpoints[name].answered if name in told.endpoints else {}


def test_each_push_holds_what_is_new() -> None:
    agent = Agent()
    first, second, third = agent.tell(answered(3)), agent.tell(answered(5)), agent.tell(answered(5))
    assert [counts(told).get("2xx", 0) for told in (first, second, third)] == [3, 2, 0]
    assert [told.number for told in (first, second, third)] == [7, 8, 9]
    assert [told.seconds for told in (first, second, third)] == [5, 5, 5]
    assert first.endpoints[A].duration == first.endpoints[A].first_byte == {FAST: 3}
    assert third.endpoints == {}


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *((200, "2xx"), (101, "2xx"), (204, "2xx"), (304, "3xx"), (401, "4xx"), (404, "4xx"), (503, "5xx")),
        *((0, "other"), (100, "other"), (999, "other")),
    ],
)
def test_classes(status: int, kind: str) -> None:
    assert counts(Agent().tell(answered(1, status))) == {kind: 1}


def test_statuses_of_one_class_are_added_up() -> None:
    told = Agent().tell(totals({(A, 200): {FAST: 1}, (A, 201): {FAST: 2, SLOW: 4}, (B, 500): {SLOW: 1}}))
    assert counts(told) == {"2xx": 7}
    assert told.endpoints[A].duration == {FAST: 3, SLOW: 4}
    assert counts(told, B) == {"5xx": 1}


def test_an_envoy_that_was_started_anew_begins_at_0() -> None:
    agent = Agent()
    agent.tell(answered(10))
    assert counts(agent.tell(answered(4), "second")) == {"2xx": 4}
    assert counts(agent.tell(answered(40), "third")) == {"2xx": 40}  # more than before, and yet all of it new
    assert counts(agent.tell(answered(41), "third")) == {"2xx": 1}


def test_statistics_that_envoy_has_forgotten_begin_at_0() -> None:
    agent = Agent()
    agent.tell(answered(10))
    assert agent.tell(totals()).endpoints == {}
    assert counts(agent.tell(answered(10))) == {"2xx": 10}
    assert counts(agent.tell(answered(3))) == {"2xx": 3}  # forgotten and back between two looks


def test_of_an_adopted_envoy_only_what_comes_counts() -> None:
    agent = Agent()
    assert agent.read(answered(1000), fresh=False) is None  # what it did before has no time
    told = agent.tell(answered(1002), fresh=False)
    assert (counts(told), told.seconds) == ({"2xx": 2}, 5)
    told = agent.tell(answered(1002, name=B), "second", fresh=True)
    assert (counts(told, B), told.seconds) == ({"2xx": 1002}, 5)


def test_what_was_perhaps_not_heard_is_told_again_under_its_number() -> None:
    agent = Agent()
    first = agent.read(answered(3))
    again = agent.read(totals({(A, 200): {FAST: 4}}, in_flight={A: 2}))
    assert first is not None
    assert again is not None
    assert (again.number, again.seconds, counts(again)) == (first.number, 5, {"2xx": 3})
    assert again.endpoints[A].in_flight == 2  # as it is now
    agent.tally.heard()
    rest = agent.tell(answered(6))
    assert (rest.number, rest.seconds, counts(rest)) == (first.number + 1, 10, {"2xx": 3})


def test_a_control_plane_that_is_away_gets_the_sum() -> None:
    agent = Agent()
    first = agent.read(answered(1))
    for count in range(2, 62):
        agent.read(answered(count))
    agent.tally.heard()
    told = agent.tell(answered(70))
    assert first is not None
    assert counts(first) == {"2xx": 1}
    assert (counts(told), told.seconds) == ({"2xx": 69}, 61 * 5)


def test_an_hour_is_the_most_that_is_added_up() -> None:
    agent = Agent()
    agent.read(answered(1))
    for count in range(2, 2 + int(KEPT_S) // 5 + 10):
        agent.read(answered(count))
    agent.tally.heard()
    told = agent.tell(answered(10_000))
    assert told.seconds <= KEPT_S
    assert told.endpoints[A].answered["2xx"] == 10_000 - (2 + int(KEPT_S) // 5 - 1)


def test_snapshots_are_of_the_moment() -> None:
    agent = Agent()
    looks = {bin_of(age): 2 for age in (1000, 2000, 3000, 4000, 5000)}
    found = agent.tell(totals(waiting={A: looks}, in_flight={A: 3, B: 1})).endpoints
    assert found[A].in_flight == 3
    assert sum(found[A].waiting.values()) == pytest.approx(2)  # two requests, looked at five times each
    assert found[B] == EndpointFigures(in_flight=1)
    assert agent.tell(totals(waiting={A: looks})).endpoints == {}  # nobody waits any more


def test_too_short_a_time_is_told_with_what_follows() -> None:
    agent = Agent()
    assert agent.read(answered(1), after=0.01) is None
    told = agent.tell(answered(2))
    assert counts(told) == {"2xx": 2}
    assert told.seconds == pytest.approx(5.01)


def histogram(name: str, *buckets: tuple[float, float, int]) -> dict[str, Any]:
    keys = ("lower_bound", "width", "count")
    return {"name": name, "totals": [dict(zip(keys, bucket, strict=True)) for bucket in buckets]}


def parsed(*details: dict[str, Any], gauges: dict[str, int] | None = None) -> Totals:
    return meters.parse(
        {"stats": [{"name": name, "value": value} for name, value in (gauges or {}).items()]},
        {"stats": [{"histograms": {"details": list(details)}}]},
    )


def test_only_endpoints_are_read() -> None:
    found = parsed(
        histogram(f"endpoint.duration.id.{A}.status.200", (0, 0, 3), (1, 0.1, 2), (500, 10, 1)),
        histogram("endpoint.duration.id.unknown-endpoint.status.404", (0, 0, 3)),
        histogram("endpoint.duration.id..status.400", (0, 0, 3)),
        histogram(f"endpoint.first_byte.id.{A}", (12, 1, 3)),
        gauges={
            f"cluster.{A}.upstream_rq_active": 2,
            f"cluster.{A}.upstream_rq_pending_active": 1,
            f"cluster.{A}.upstream_rq_active_overflow": 9,
            f"cluster.{B}.upstream_rq_active": 0,
            "cluster.activator.upstream_rq_active": 1,
        },
    )
    assert found.duration == {(A, 200): {0: 3, 1: 2, bin_of(504): 1}}
    assert found.first_byte == {A: {bin_of(12): 3}}
    assert found.in_flight == {A: 3}
    assert found.waiting == {}


@pytest.mark.parametrize("lower", [10, 37, 99, 100, 110, 440, 500, 990, 1000, 1900, 25_000, 3_000_000])
def test_a_bucket_of_envoys_lands_where_most_of_it_lies(lower: int) -> None:
    width = 10 ** (len(str(lower)) - 2)
    (number,) = parsed(histogram(f"endpoint.first_byte.id.{A}", (lower, width, 9))).first_byte[A]
    low, high = bounds(number)
    assert low < lower + width
    assert high > lower
    assert low <= lower + (width - 1) / 2 <= high


@pytest.mark.parametrize(
    "answer",
    [{}, {"stats": None}, {"stats": [{"histograms": 3}]}, {"stats": [{"histograms": {"details": [{}]}}]}],
)
def test_what_is_no_statistics_is_an_error(answer: Any) -> None:
    with pytest.raises((KeyError, TypeError, ValueError)):
        meters.parse({"stats": []}, answer)
