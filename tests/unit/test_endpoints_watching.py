"""The watcher's threads: lines go out in order and without waiting for the next one, a flood is bounded, nothing is
told twice, and nothing ends a thread for good."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import UUID, uuid4

import pytest
import redis
from django.db import OperationalError

from endpoints import log_tail
from endpoints.log_tail import Batch
from endpoints.watching import events, health, logs
from endpoints.watching.health import Memory, Target
from endpoints.watching.logs import Follower, Followers, Outbox, Window
from runtimes.contract import LABEL_ENDPOINT, ContainerSpec, LogLine
from runtimes.errors import RuntimeUnreachable
from runtimes.fake import FakeRuntime
from tests.support_processes import eventually

NOW = datetime(2026, 5, 6, tzinfo=UTC)


class Redis:
    """Takes the place of Redis: what is appended, by name; `away` makes it fail."""

    def __init__(self) -> None:
        self.tails: dict[str, list[str]] = {}
        self.marks: dict[str, str] = {}
        self.away = False

    def append(self, batches: Mapping[str, Batch]) -> frozenset[str]:
        if self.away:
            raise redis.ConnectionError("away")
        lost = set()
        for name, batch in batches.items():
            if batch.anew:
                self.tails.pop(name, None)
            elif name not in self.tails:
                lost.add(name)
            self.tails.setdefault(name, []).extend(log_tail.shortened(batch.entries))
            self.marks[name] = batch.mark
        return frozenset(lost)

    def mark_of(self, name: str) -> str:
        if self.away:
            raise redis.ConnectionError("away")
        return self.marks.get(name, "")

    def kept(self, names: list[str]) -> frozenset[str]:
        return frozenset(self.tails) & frozenset(names)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Redis:
    """What the watcher has told."""
    fake = Redis()
    for name in ("append", "mark_of", "kept"):
        monkeypatch.setattr(log_tail, name, getattr(fake, name))
    monkeypatch.setattr(logs.live, "logs_grew", lambda names: None)
    return fake


class Printing(FakeRuntime):
    """Its replicas print what a test says: a list of lines, then silence until the test is over."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.said = lines
        self.over = threading.Event()

    def follow_logs(self, name: str, *, tail: int = 0, after: str = "") -> Iterator[LogLine]:
        begin = int(after) if after else max(0, len(self.said) - tail)
        for number, text in enumerate(self.said[begin:], begin + 1):
            yield LogLine(text, mark=str(number))
        self.over.wait(20)


def test_the_last_lines_of_a_server_that_falls_silent_are_told(told: Redis) -> None:
    runtime, outbox = Printing(["loading", "listening"]), Outbox()
    threading.Thread(target=outbox.run, daemon=True).start()
    follower = Follower(runtime, "r1", outbox)
    follower.thread.start()
    try:
        eventually(lambda: told.tails.get("r1") == ["loading", "listening"], "all lines are told")
        assert follower.thread.is_alive()
    finally:
        runtime.over.set()
        follower.thread.join(5)


def test_a_watcher_that_begins_anew_tells_nothing_twice(told: Redis) -> None:
    for said in (["one", "two"], ["one", "two", "three"]):
        runtime, outbox = Printing(said), Outbox()
        runtime.over.set()
        Follower(runtime, "r1", outbox).run()
        outbox.send()
    assert told.tails["r1"] == ["one", "two", "three"]


def test_what_an_earlier_follower_kept_goes_only_when_something_replaces_it(told: Redis) -> None:
    class Away(FakeRuntime):
        def follow_logs(self, name: str, *, tail: int = 0, after: str = "") -> Iterator[LogLine]:
            raise RuntimeUnreachable("connection refused")

    outbox = Outbox()
    Follower(Away(), "r1", outbox).run()
    outbox.send()
    assert told.tails == {}


class Flooding(FakeRuntime):
    """Prints 100,000 lines a second of its own clock: the tail is all that a reader can have of them."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 1000.0
        self.handed_out = 0
        self.windows = 0

    def follow_logs(self, name: str, *, tail: int = 0, after: str = "") -> Iterator[LogLine]:
        self.windows += 1
        if self.windows > 3:
            return
        gap = bool(after)
        number = int(self.clock * 100_000) - tail
        while True:
            number += 1
            self.handed_out += 1
            yield LogLine(f"line {number}", mark=str(number), at=number / 100_000, gap=gap)
            gap = False

    def sleep(self, seconds: float) -> None:
        self.clock += 1.0


def test_a_flood_is_not_even_fetched_and_a_line_says_how_much_is_missing(told: Redis) -> None:
    runtime, outbox = Flooding(), Outbox()
    Follower(runtime, "r1", outbox, sleep=runtime.sleep).run()
    assert runtime.handed_out == 3 * logs.WINDOW_LINES
    outbox.send()
    gap, *lines = told.tails["r1"]
    assert len(lines) < log_tail.LINES
    not_fitting = 3 * logs.WINDOW_LINES - len(lines)
    assert log_tail.lines_of(gap) == 200_000 + not_fitting, "two seconds' worth, and what did not fit"


def test_lines_of_a_megabyte_end_a_window(told: Redis) -> None:
    window = Window(time.monotonic())
    assert not window.take(LogLine("x" * 1_000_000))


def test_a_server_that_prints_without_end_is_bounded(told: Redis) -> None:
    outbox = Outbox()
    for number in range(5000):
        outbox.put("r1", str(number))
    outbox.send()
    assert len(told.tails["r1"]) <= 2 * log_tail.LINES
    assert told.tails["r1"][0].startswith("\x00")
    assert told.tails["r1"][-1] == "4999"


def test_lines_wait_for_redis(told: Redis) -> None:
    outbox = Outbox()
    told.away = True
    outbox.put("r1", "one", anew=True)
    outbox.send()
    outbox.put("r1", "two", mark="2")
    outbox.send()
    told.away = False
    outbox.send()
    assert (told.tails["r1"], told.marks["r1"]) == (["one", "two"], "2")


def test_a_tail_that_redis_lost_is_read_anew(told: Redis) -> None:
    runtime, outbox = FakeRuntime(), Outbox()
    runtime.start(ContainerSpec("r1", "any", 80))
    runtime.engine.containers["r1"].lines += ["one", "two"]
    followers = Followers(runtime, outbox, {"r1": Follower(runtime, "r1", outbox)})
    followers.by_name["r1"].mark = "2"
    followers.restore()
    assert (told.tails["r1"], told.marks["r1"]) == (["one", "two"], "2")
    told.tails.clear()  # and now, while lines come
    outbox.put("r1", "two", mark="2")
    outbox.send()
    followers.restore()
    assert told.tails["r1"] == ["one", "two"]


def test_a_database_that_does_not_answer_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def look(*_: object) -> None:
        looks.append("look")
        raise OperationalError("database is locked")

    def pause(_seconds: float) -> None:
        if len(looks) == 3:
            raise SystemExit

    monkeypatch.setattr(Followers, "look", look)
    monkeypatch.setattr(logs, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    monkeypatch.setattr(logs, "close_old_connections", lambda: None)
    with pytest.raises(SystemExit):
        logs._look_on(Followers(FakeRuntime(), Outbox()))
    assert len(looks) == 3


# -- events ----------------------------------------------------------------------------------------------------------


def test_when_the_stream_comes_back_every_endpoint_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = FakeRuntime()
    hints: list[str] = []
    monkeypatch.setattr(events, "hint_all", lambda: hints.append("all"))
    monkeypatch.setattr(events, "reconcile_in", lambda endpoint, _delay: hints.append(endpoint))
    threading.Thread(target=events.watch_events, args=(runtime,), daemon=True).start()
    eventually(lambda: hints == ["all"], "one look at everything at the beginning")
    runtime.start(ContainerSpec("r1", "any", 80, labels={LABEL_ENDPOINT: "me-1"}))
    eventually(lambda: hints == ["all", "me-1"], "the start is a hint")
    runtime.engine.unreachable()
    time.sleep(2 * events.RETRY_S)
    assert hints == ["all", "me-1"]
    runtime.engine.recovers()
    eventually(lambda: hints == ["all", "me-1", "all"], "everything is looked at again")


def test_a_database_that_is_away_does_not_end_the_events(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OperationalError("away")

    monkeypatch.setattr(events, "Endpoint", SimpleNamespace(objects=SimpleNamespace(values_list=refuse)))
    monkeypatch.setattr(events.Endpoint.objects, "values_list", lambda *_, **__: refuse())
    monkeypatch.setattr(events, "close_old_connections", lambda: None)
    events.hint_all()


# -- health ----------------------------------------------------------------------------------------------------------


def _target(unhealthy_since: datetime | None = None, key: UUID | None = None) -> Target:
    return Target(key or uuid4(), "r", "me-1", "p", "127.0.0.1", 1, 1, unhealthy_since)


def test_two_failures_in_a_row_make_it_unhealthy_since_the_first() -> None:
    memory, target = Memory(), _target()
    first = memory.judge([target], (), NOW)
    assert (first.fallen, first.recovered, first.troubled) == ((), (), frozenset())
    second = memory.judge([target], (), NOW + timedelta(seconds=5))
    assert second.fallen == ((target, NOW),)


def test_a_good_answer_in_between_counts() -> None:
    memory, target = Memory(), _target()
    memory.judge([target], (), NOW)
    memory.judge([target], (target.id,), NOW + timedelta(seconds=5))
    assert not memory.judge([target], (), NOW + timedelta(seconds=10)).fallen


def test_one_good_answer_heals_and_others_are_hinted_at_every_round() -> None:
    memory, ill = Memory(), _target(NOW)
    verdict = memory.judge([ill], (), NOW)
    assert (verdict.troubled, verdict.fallen) == ({"me-1"}, ())
    verdict = memory.judge([ill], (ill.id,), NOW)
    assert (verdict.recovered, verdict.troubled) == ((ill,), frozenset())


def test_what_is_no_longer_ready_is_forgotten() -> None:
    memory, target = Memory(), _target()
    memory.judge([target], (), NOW)
    memory.forget_others([])
    assert not memory.judge([target], (), NOW + timedelta(seconds=5)).fallen


def test_all_at_once_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    watch = health.HealthWatch()
    one, other = _target(), Target(uuid4(), "s", "me-2", "p", "127.0.0.1", 1, 1, None)
    for _ in range(2):
        watch._tell_of_a_common_cause([one, other], [one, other])
    watch._tell_of_a_common_cause([one], [one])
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "more likely to blame" in caplog.text
