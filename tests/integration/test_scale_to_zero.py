"""From zero and back as its users meet it: a whole platform with real llama.cpp, where things also go wrong."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.support_days import Day, day
from tests.support_platform import place
from tests.support_sleep import Hammer, Sleeper, prepared

pytestmark = [pytest.mark.redis, pytest.mark.envoy, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Day]:
    with day(place(tmp_path_factory.mktemp("zero"))) as found:
        yield found


@pytest.fixture(scope="module")
def sleeper(today: Day) -> Sleeper:
    """The tests below follow one another."""
    return prepared(today)


def test_whoever_comes_while_it_falls_asleep_or_wakes_is_answered(today: Day, sleeper: Sleeper) -> None:
    hammer = Hammer(sleeper)
    with hammer.going():
        for _ in range(5):
            time.sleep(1.0)
            sleeper.scale(0)
            time.sleep(2.5)
    print(hammer.answered, f"slowest {hammer.slowest_s:.1f} s", sleeper.decisions(), sleeper.replicas())
    assert hammer.failures == []
