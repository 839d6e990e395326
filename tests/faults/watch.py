"""What happens, seen from outside: rows through triggers that write a log of their own, containers through the engine's
events, pulls through the registry. Everything lands in one list that waits and checks read."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.engine import EngineApi, EngineAway

_LOG = """
CREATE TABLE IF NOT EXISTS faults_seen (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT, subject TEXT, endpoint TEXT, old TEXT, new TEXT)
"""
# (kind, table, when, subject, endpoint, old, new): one trigger each.
_TRIGGERS = (
    ("model.inserted", "registry_registeredmodel", "AFTER INSERT", "NEW.name", "''", "''", "NEW.status"),
    ("endpoint.inserted", "endpoints_endpoint", "AFTER INSERT", "NEW.id", "NEW.id", "''", "NEW.status"),
    ("endpoint.deleted", "endpoints_endpoint", "AFTER DELETE", "OLD.id", "OLD.id", "OLD.status", "''"),
    (
        "replica.inserted",
        "endpoints_replica",
        "AFTER INSERT",
        "NEW.name",
        "NEW.endpoint_id",
        "''",
        "NEW.state",
    ),
    (
        "replica.deleted",
        "endpoints_replica",
        "AFTER DELETE",
        "OLD.name",
        "OLD.endpoint_id",
        "OLD.state",
        "''",
    ),
    ("event", "endpoints_event", "AFTER INSERT", "NEW.target", "NEW.target", "NEW.kind", "NEW.params"),
)
_COLUMNS = (
    ("endpoint", "status", "id", "id"),
    ("endpoint", "revision_id", "id", "id"),
    ("endpoint", "deleting_at", "id", "id"),
    ("endpoint", "paused_at", "id", "id"),
    ("endpoint", "min_replicas", "id", "id"),
    ("endpoint", "epoch", "id", "id"),
    ("replica", "state", "name", "endpoint_id"),
    ("replica", "claimed", "name", "endpoint_id"),
    ("replica", "gpu_ids", "name", "endpoint_id"),
    ("gpu", "replica_id", "uuid", "uuid"),
)


@dataclass(frozen=True, slots=True)
class Seen:
    """One thing that happened. at: time.monotonic(). source: rows, engine, registry or hub."""

    at: float
    source: str
    kind: str
    subject: str = ""
    endpoint: str = ""
    old: str = ""
    new: str = ""
    labels: dict[str, str] = field(default_factory=dict)


class Watch:
    """The list, and the threads that fill it."""

    def __init__(self, database: Path, engine: EngineApi) -> None:
        self.database, self.engine = database, engine
        self.seen: list[Seen] = []
        self._new = threading.Condition()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._follow_rows, daemon=True),
            threading.Thread(target=self._follow_engine, daemon=True),
        ]

    def start(self) -> None:
        """Put the triggers in place and follow."""
        with closing(sqlite3.connect(self.database, timeout=20)) as rows, rows:
            rows.execute(_LOG)
            for statement in _triggers():
                rows.execute(statement)
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Follow no longer."""
        self._stop.set()

    def add(self, one: Seen) -> None:
        """From the threads, and from the registry."""
        with self._new:
            self.seen.append(one)
            self._new.notify_all()

    def now(self) -> int:
        """A place in the list, for `wait` and `since`."""
        return len(self.seen)

    def since(self, place: int, source: str = "") -> list[Seen]:
        """What came after that place."""
        return [one for one in self.seen[place:] if source in ("", one.source)]

    def wait(self, place: int, found: Callable[[Seen], bool], timeout_s: float) -> Seen | None:
        """The first that fits after that place; None if there is none in time."""
        deadline = time.monotonic() + timeout_s
        with self._new:
            while True:
                while place < len(self.seen):
                    if found(self.seen[place]):
                        return self.seen[place]
                    place += 1
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self._new.wait(left)

    def _follow_rows(self) -> None:
        last = 0
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True, timeout=20)) as rows:
            while not self._stop.wait(0.02):
                found: list[Any] = []
                with suppress(sqlite3.OperationalError):
                    found = rows.execute(
                        "SELECT * FROM faults_seen WHERE seq > ? ORDER BY seq", (last,)
                    ).fetchall()
                for seq, kind, subject, endpoint, old, new in found:
                    last = seq
                    self.add(Seen(time.monotonic(), "rows", kind, subject, endpoint, old or "", new or ""))

    def _follow_engine(self) -> None:
        there: dict[str, dict[str, str]] = {}
        while not self._stop.is_set():
            with suppress(EngineAway):
                for event in self.engine.events():
                    if self._stop.is_set():
                        return
                    if event["Action"] == "subscribed":
                        self._catch_up(there)
                        continue
                    id_, labels = event["Actor"]["ID"], dict(event["Actor"]["Attributes"])
                    there[id_] = labels
                    self._engine(event["Action"], id_, labels)
                    if event["Action"] == "destroy":
                        del there[id_]
            time.sleep(0.1)

    def _engine(self, kind: str, id_: str, labels: dict[str, str]) -> None:
        self.add(Seen(time.monotonic(), "engine", kind, id_, labels.get("berth.endpoint", ""), labels=labels))

    def _catch_up(self, there: dict[str, dict[str, str]]) -> None:
        """A killed engine says nothing of what ended meanwhile."""
        now = {one["Id"]: one["State"]["Running"] for one in self.engine.containers()} if there else {}
        for id_, labels in list(there.items()):
            if not now.get(id_):
                self._engine("die", id_, labels)
            if id_ not in now:
                self._engine("destroy", id_, labels)
                del there[id_]


def _triggers() -> list[str]:
    """Statements that write down every change we care for, in the transaction of the change itself."""
    made = [
        _trigger(kind, table, when, "", subject, endpoint, old, new)
        for kind, table, when, subject, endpoint, old, new in _TRIGGERS
    ]
    made += [
        _trigger(
            f"{table}.{column}",
            f"endpoints_{table}",
            f"AFTER UPDATE OF {column}",
            f"WHEN OLD.{column} IS NOT NEW.{column}",
            f"NEW.{subject}",
            f"NEW.{endpoint}",
            f"OLD.{column}",
            f"NEW.{column}",
        )
        for table, column, subject, endpoint in _COLUMNS
    ]
    return made


def _trigger(
    kind: str, table: str, when: str, condition: str, subject: str, endpoint: str, old: str, new: str
) -> str:
    name = f"faults_{kind.replace('.', '_')}"
    values = f"'{kind}', {subject}, {endpoint}, {old}, {new}"
    return (
        f"CREATE TRIGGER IF NOT EXISTS {name} {when} ON {table} {condition} BEGIN "
        f"INSERT INTO faults_seen (kind, subject, endpoint, old, new) VALUES ({values}); END"
    )


def params(one: Seen) -> dict[str, Any]:
    """An event's parameters."""
    return dict(json.loads(one.new or "{}"))
