"""Counting goes on where it was, whatever can't be written: no line counts twice, none that is not kept is removed."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.access_logs import LINK, AccessLogs, Position
from gateway.accounting import Accounting
from gateway.request_line import Used
from tests.support_access_log import line

AT = datetime(2026, 11, 22, 10, 15, tzinfo=UTC)


class FullDisk:
    """Budgets that can't be kept for a while."""

    def __init__(self) -> None:
        self.position = Position()
        self.counted = 0
        self.full = True

    def count(self, requests: Iterable[Used]) -> None:
        self.counted += len(list(requests))

    def save(self, position: Position) -> None:
        if self.full:
            raise OSError("No space left on device")
        self.position = position

    def hear(self, elsewhere: Any) -> None:
        raise AssertionError("nobody tells anything")

    def tick(self) -> None:
        pass


class Shipped:
    """All of it, however far that is."""

    heard: queue.Queue[Any] = queue.Queue()
    position = Position("~")

    def wake(self) -> None:
        pass


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
    accounting = Accounting(logs, NoEnvoy(), budgets, Shipped())  # type: ignore[arg-type]
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
    accounting = Accounting(logs, NoEnvoy(), budgets, Shipped())  # type: ignore[arg-type]
    write(tmp_path, 1)
    logs.begin()
    write(tmp_path, 1)
    with pytest.raises(OSError, match="No space"):
        accounting._look()
    accounting._tidy()
    assert len(logs.files()) == 2
