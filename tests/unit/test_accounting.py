"""Counting goes on where it was, whatever can't be written: no line counts twice, none that is not kept is removed."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.access_logs import LINK, AccessLogs, Position
from gateway.accounting import Accounting
from gateway.budgets import FILE, Budgets
from gateway.control import Heard
from gateway.request_line import Used
from tests.support_access_log import line

AT = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


class FullDisk:
    """Budgets that can't be kept for a while."""

    def __init__(self) -> None:
        self.position = Position()
        self.counted = 0
        self.full = True
        self.is_kept = True

    def count(self, requests: Iterable[Used]) -> None:
        self.counted += sum(request.completion_tokens for request in requests)

    def save(self, position: Position) -> None:
        if self.full:
            raise OSError("No space left on device")
        self.position = position

    def hear(self, elsewhere: Any) -> None:
        raise AssertionError("nobody tells anything")

    def tick(self) -> None:
        pass


class Shipped:
    """All of it: as far as it is counted."""

    heard: queue.Queue[Any] = queue.Queue()

    def __init__(self, budgets: FullDisk) -> None:
        self._budgets = budgets

    @property
    def position(self) -> Position:
        return self._budgets.position

    def wake(self) -> None:
        pass


class ReopeningEnvoy:
    """Alive; writes where `access.log` leads to when it is told to open it."""

    def __init__(self, home: Path) -> None:
        self.admin = self
        self._home = home

    def is_alive(self) -> bool:
        return True

    def request(self, method: str, target: str) -> bytes:
        assert (method, target) == ("POST", "/reopen_logs")
        (self._home / LINK).touch()
        return b""


class NoEnvoy:
    def is_alive(self) -> bool:
        return False


@pytest.fixture
def logs(tmp_path: Path) -> AccessLogs:
    found = AccessLogs(tmp_path)
    found.begin()
    return found


def write(home: Path, count: int) -> None:
    with (home / LINK).open("ab") as file:
        file.write(b"".join(line(AT, usage="9 1 0").rstrip(b"\n") + b"\n" for _ in range(count)))


def test_what_cannot_be_kept_is_counted_once(tmp_path: Path, logs: AccessLogs) -> None:
    budgets = FullDisk()
    accounting = Accounting(logs, NoEnvoy(), budgets, Shipped(budgets))  # type: ignore[arg-type]
    write(tmp_path, 3)
    for _ in range(5):
        with pytest.raises(OSError, match="No space"):
            accounting._look()
    assert budgets.counted == 3
    logs.begin()
    write(tmp_path, 2)
    with pytest.raises(OSError, match="No space"):
        accounting._look()
    first, second = logs.files()
    budgets.full = False
    accounting._tidied = time.monotonic()
    accounting._look()
    assert budgets.counted == 5
    assert budgets.position.file == second
    assert logs.files() == [first, second]
    accounting._tidied = 0.0
    accounting._look()
    assert logs.files() == [second]
    assert budgets.counted == 5


def test_a_file_whose_count_is_not_kept_stays(tmp_path: Path, logs: AccessLogs) -> None:
    """A kill would forget the count: its lines must be there to be counted anew."""
    budgets = FullDisk()
    accounting = Accounting(logs, NoEnvoy(), budgets, Shipped(budgets))  # type: ignore[arg-type]
    write(tmp_path, 1)
    logs.begin()
    write(tmp_path, 1)
    with pytest.raises(OSError, match="No space"):
        accounting._look()
    accounting._tidy()
    assert len(logs.files()) == 2


def test_a_log_that_was_deleted_goes_on_under_another_name(tmp_path: Path, logs: AccessLogs) -> None:
    budgets = FullDisk()
    budgets.full = False
    accounting = Accounting(logs, ReopeningEnvoy(tmp_path), budgets, Shipped(budgets))  # type: ignore[arg-type]
    write(tmp_path, 3)
    accounting._look()
    (old,) = logs.files()
    logs.remove(old)
    accounting._tidied = 0.0
    accounting._look()
    (new,) = logs.files()
    assert Position(new).log != Position(old).log
    write(tmp_path, 2)
    accounting._look()
    assert budgets.counted == 5
    accounting._tidied = 0.0
    accounting._look()
    assert logs.files() == [new]


def test_what_is_heard_is_kept_though_nothing_is_counted(tmp_path: Path, logs: AccessLogs) -> None:
    budgets = Budgets(tmp_path, tmp_path, AT.timestamp)
    shipped = Shipped(budgets)  # type: ignore[arg-type]
    accounting = Accounting(logs, NoEnvoy(), budgets, shipped)  # type: ignore[arg-type]
    shipped.heard.put(Heard({"sa-1": {"2026-11": 5}}, {"sa-1": {"2026-11": 7}}, Position()))
    accounting._look()
    kept = json.loads((tmp_path / FILE).read_text())
    assert (kept["elsewhere"], kept["counts"]) == ({"2026-11": {"sa-1": 5}}, {"2026-11": {"sa-1": 7}})
    stamp = (tmp_path / FILE).stat().st_ino
    accounting._look()
    assert (tmp_path / FILE).stat().st_ino == stamp
