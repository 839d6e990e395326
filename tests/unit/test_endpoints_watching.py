"""The watcher's threads: lines go out in order and without waiting for the next one; nothing ends them for good."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from django.db import OperationalError

from endpoints import watching
from endpoints.watching import Outbox
from runtimes.errors import RuntimeUnreachable
from runtimes.fake import FakeRuntime
from tests.support_processes import eventually


class Silent(FakeRuntime):
    """Its replica prints some lines and then nothing more, for as long as the test runs."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.said = lines
        self.over = threading.Event()

    def follow_logs(self, name: str, *, tail: int = 0) -> Iterator[str]:
        yield from self.said
        self.over.wait(20)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """(what, of which replica), in their order."""
    found: list[tuple[str, str]] = []
    monkeypatch.setattr(watching, "publish_log", lambda name, lines: found.extend((x, name) for x in lines))
    monkeypatch.setattr(watching, "forget_log", lambda name: found.append(("forgotten", name)))
    return found


def test_the_last_lines_of_a_server_that_falls_silent_are_told(told: list[tuple[str, str]]) -> None:
    runtime, outbox = Silent(["loading", "listening"]), Outbox()
    threading.Thread(target=outbox.run, daemon=True).start()
    follower = threading.Thread(target=watching._follow, args=(runtime, "r1", outbox))
    follower.start()
    try:
        eventually(lambda: len(told) == 3, "all lines are told while the server says nothing", 5)
        assert told == [("forgotten", "r1"), ("loading", "r1"), ("listening", "r1")]
        assert follower.is_alive()
    finally:
        runtime.over.set()
        follower.join(5)


def test_what_an_earlier_follower_kept_goes_only_when_something_replaces_it(
    told: list[tuple[str, str]],
) -> None:
    class Away(FakeRuntime):
        def follow_logs(self, name: str, *, tail: int = 0) -> Iterator[str]:
            raise RuntimeUnreachable("connection refused")

    outbox = Outbox()
    watching._follow(Away(), "r1", outbox)
    outbox.send()
    assert told == []


def test_a_server_that_prints_without_end_is_bounded(told: list[tuple[str, str]]) -> None:
    outbox = Outbox()
    for number in range(5000):
        outbox.put("r1", str(number))
    outbox.send()
    assert len(told) == watching.LOG_TAIL_LINES
    assert told[-1] == ("4999", "r1")


def test_a_database_that_does_not_answer_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    def look(*_: object) -> None:
        looks.append("look")
        raise OperationalError("database is locked")

    def pause(_seconds: float) -> None:
        if len(looks) == 3:
            raise SystemExit

    monkeypatch.setattr(watching, "_follow_new", look)
    monkeypatch.setattr(watching, "time", SimpleNamespace(sleep=pause))
    monkeypatch.setattr(watching, "close_old_connections", lambda: None)
    with pytest.raises(SystemExit):
        watching._find_replicas(FakeRuntime(), Outbox())
    assert len(looks) == 3
