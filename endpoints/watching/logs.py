"""Replicas' lines, from the runtime to Redis, where pages and the API read them.

A container may print 100 MB a second. What nobody could read is not even fetched: a follower takes so many lines and
bytes a second, then hangs up, and goes on with the tail a moment later; a line says about how many it left out. Its
own time and memory, the engine's and a page's so stay bounded, and others' lines come as before.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import median

import redis
from django.db import DatabaseError, close_old_connections

from endpoints import live, log_tail, replica_logs
from endpoints.log_tail import Batch
from endpoints.models import Replica, ReplicaState
from runtimes.contract import LogLine, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
LOOK_FOR_REPLICAS_S = 1.0
# Are their tails still there? Redis may have been emptied while nobody printed anything.
CHECK_TAILS_S = 5.0
TIDY_S = 60.0
# Lines are sent in batches: a container that prints without end must not turn into a message a line.
BATCH_S = 0.25
# What is taken of one replica in a window.
WINDOW_S = 1.0
WINDOW_LINES = log_tail.LINES - 1  # and one that says what was left out before
WINDOW_BYTES = 500_000
FOLLOWED = (ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)


class Outbox:
    """Lines that wait to be told. One thread tells them all, so that the last lines of a server that falls silent go
    out as well, and those of one server in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._filled = threading.Event()
        self._batches: dict[str, Batch] = {}
        self.lost: set[str] = set()  # replicas whose earlier lines Redis no longer has

    def put(self, name: str, entry: str, *, mark: str = "", anew: bool = False) -> None:
        """One more entry of a replica. anew: it begins a tail that goes on from nothing that is kept."""
        with self._lock:
            batch = self._batches.get(name)
            if batch is None or anew:
                batch = self._batches[name] = Batch(anew=anew)
            batch.entries.append(entry)
            batch.mark = mark or batch.mark
            _cut(batch)
        self._filled.set()

    def send(self) -> None:
        """Tell what there is; while Redis is away it waits, and no more of it than is kept."""
        self._filled.clear()
        with self._lock:
            batches, self._batches = self._batches, {}
        if not batches:
            return
        try:
            lost = log_tail.append(batches)
        except redis.RedisError as error:
            log.warning("lines of %d replicas wait for Redis: %s", len(batches), error)
            self._take_back(batches)
            return
        self.lost |= lost
        live.logs_grew(batches)

    def _take_back(self, batches: Mapping[str, Batch]) -> None:
        with self._lock:
            for name, batch in batches.items():
                later = self._batches.get(name)
                if later is None or not later.anew:
                    batch.entries += later.entries if later else []
                    batch.mark = later.mark if later else batch.mark
                    self._batches[name] = batch
                    _cut(batch)
        self._filled.set()

    def run(self) -> None:
        """The first lines at once, then as many as come within a moment together. Runs for ever."""
        while True:
            self._filled.wait()
            try:
                self.send()
            except Exception:  # nobody would start this thread again
                log.exception("log lines were lost")
            time.sleep(BATCH_S)


def _cut(batch: Batch) -> None:
    """Redis has been slow or away: more than is kept is never told."""
    if len(batch.entries) > 2 * log_tail.LINES:
        batch.entries = log_tail.shortened(batch.entries)


@dataclass
class Window:
    """How much of one replica was taken since `began`, and how fast it prints."""

    began: float
    lines: int = 0
    size: int = 0
    first_at: float = 0.0
    last_at: float = 0.0

    def take(self, line: LogLine) -> bool:
        """Count a line. False: it was the last one of this window."""
        now = time.monotonic()
        if now - self.began > WINDOW_S:
            self.began, self.lines, self.size, self.first_at = now, 0, 0, 0.0
        self.lines += 1
        self.size += len(line.text)
        self.first_at = self.first_at or line.at
        self.last_at = line.at
        return self.lines < WINDOW_LINES and self.size < WINDOW_BYTES

    def rate(self) -> float:
        """Lines a second that were printed while this window's were; 0 where times are not known."""
        printed_in = self.last_at - self.first_at
        return (self.lines - 1) / printed_in if self.first_at and printed_in > 0 else 0.0

    def rest_s(self) -> float:
        """Until the next window."""
        return max(0.0, self.began + WINDOW_S - time.monotonic())


class Follower:
    """Carries the lines of one replica to the outbox, in a thread of its own, until its container ends."""

    def __init__(
        self, runtime: Runtime, name: str, outbox: Outbox, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._runtime, self._name, self._outbox, self._sleep = runtime, name, outbox, sleep
        self.mark, self._anew = "", True
        self._last_at = 0.0
        # Of several windows: one alone may lie within a burst.
        self._rates: deque[float] = deque(maxlen=5)
        self.thread = threading.Thread(target=self.run, name=f"log of {name}", daemon=True)

    def run(self) -> None:
        """Go on from where the watcher stopped before, if that is known."""
        try:
            self.mark = log_tail.mark_of(self._name)
            self._anew = not self.mark
            while not self._window():
                pass
        except RuntimeFailure as failure:
            log.debug("%s: its log can't be followed: %s", self._name, failure.evidence)  # tried again soon
        except redis.RedisError as error:
            log.debug("%s: its log can't be followed without Redis: %s", self._name, error)

    def _window(self) -> bool:
        """Take lines until there are too many of them for now. True: the container has ended."""
        window = Window(time.monotonic())
        lines = self._runtime.follow_logs(self._name, tail=WINDOW_LINES, after=self.mark)
        with contextlib.closing(lines):  # type: ignore[type-var]  # every driver's is a generator
            for line in lines:
                self._take(line)
                if not window.take(line):
                    break
            else:
                return True
        if rate := window.rate():
            self._rates.append(rate)
        self._sleep(window.rest_s())
        return False

    def _take(self, line: LogLine) -> None:
        if line.gap and not self._anew:
            printed_in = line.at - self._last_at if line.at and self._last_at else 0.0
            rate = median(self._rates) if self._rates else 0.0
            self._outbox.put(self._name, log_tail.gap(_rounded(rate * printed_in)))
        self._outbox.put(self._name, log_tail.entry(line.text), mark=line.mark, anew=self._anew)
        self.mark, self._last_at, self._anew = line.mark, line.at, False


def _rounded(count: float) -> int:
    """An estimate does not pretend to be a count."""
    return int(float(f"{max(count, 0):.1g}"))


@dataclass
class Followers:
    """The followers of all replicas that run."""

    runtime: Runtime
    outbox: Outbox
    by_name: dict[str, Follower] = field(default_factory=dict)

    def look(self) -> None:
        """Start what is missing."""
        for name in [name for name, one in self.by_name.items() if not one.thread.is_alive()]:
            del self.by_name[name]
        for name in Replica.objects.filter(state__in=FOLLOWED).values_list("name", flat=True):
            if name not in self.by_name:
                self.by_name[name] = Follower(self.runtime, name, self.outbox)
                self.by_name[name].thread.start()

    def restore(self) -> None:
        """Read anew the tails that Redis has lost. Raises RedisError, RuntimeFailure."""
        lost, self.outbox.lost = self.outbox.lost, set()
        printed = [name for name, one in self.by_name.items() if one.mark]
        lost |= set(printed) - log_tail.kept(printed)
        for name in sorted(lost & set(printed)):
            mark = self.by_name[name].mark
            text = self.runtime.logs(name, tail=log_tail.LINES)
            if text:
                log.info("%s: the tail of its log was lost and is read anew", name)
                entries = [log_tail.entry(line) for line in text.splitlines()]
                log_tail.append({name: Batch(entries, mark, anew=True)})
                live.logs_grew([name])


def watch_logs(runtime: Runtime) -> None:
    """Follow the logs of every replica that runs, and keep what is kept of the others in its bounds."""
    outbox = Outbox()
    threading.Thread(target=outbox.run, name="log lines", daemon=True).start()
    threading.Thread(target=_look_on, args=(Followers(runtime, outbox),), name="logs", daemon=True).start()


def _look_on(followers: Followers) -> None:
    checked = tidied = time.monotonic()
    while True:
        try:
            followers.look()
            if time.monotonic() - checked >= CHECK_TAILS_S:
                checked = time.monotonic()
                followers.restore()
            if time.monotonic() - tidied >= TIDY_S:
                tidied = time.monotonic()
                replica_logs.tidy()
        except (DatabaseError, redis.RedisError, RuntimeFailure, OSError) as error:
            log.warning("logs are not looked after for now: %s", error)
        finally:
            close_old_connections()
        time.sleep(LOOK_FOR_REPLICAS_S)
