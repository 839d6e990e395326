"""What the watcher does. Losing an event costs nothing but time: the sweep looks at every endpoint anyway."""

from __future__ import annotations

import logging
import threading
import time

from django.db import DatabaseError, close_old_connections

from endpoints.live import LOG_TAIL_LINES, forget_log, publish_log
from endpoints.models import Replica, ReplicaState
from endpoints.queue import reconcile_in
from runtimes.contract import LABEL_ENDPOINT, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
RETRY_S = 2.0
LOOK_FOR_REPLICAS_S = 1.0
# Lines are sent in batches: a container that prints without end must not turn into a message a line.
BATCH_S = 0.25


def watch_events(runtime: Runtime) -> None:
    """Every event of a container of ours is a hint to look at its endpoint. Runs for ever."""
    while True:
        try:
            for event in runtime.events():
                endpoint_id = event.labels.get(LABEL_ENDPOINT)
                if endpoint_id:
                    log.debug("%s: %s", event.name, event.kind)
                    reconcile_in(endpoint_id, 0)
        except RuntimeFailure as failure:
            log.warning("no events for now: %s (%s)", failure.code, failure.evidence)
        time.sleep(RETRY_S)


class Outbox:
    """Lines that wait to be told. One thread tells them all, so that the last lines of a server that falls silent go
    out as well, and those of one server in their order."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._filled = threading.Event()
        self._lines: dict[str, list[str]] = {}
        self._begun_anew: set[str] = set()

    def put(self, name: str, line: str, *, first: bool = False) -> None:
        """One more line of a replica. first: it begins a tail that repeats what an earlier follower has kept."""
        with self._lock:
            if first:
                self._begun_anew.add(name)
            lines = self._lines.setdefault(name, [])
            lines.append(line)
            del lines[:-LOG_TAIL_LINES]  # more than a page keeps is never told
        self._filled.set()

    def send(self) -> None:
        """Tell what there is."""
        self._filled.clear()
        with self._lock:
            lines, self._lines = self._lines, {}
            anew, self._begun_anew = self._begun_anew, set()
        for name, batch in lines.items():
            if name in anew:
                forget_log(name)
            publish_log(name, batch)

    def run(self) -> None:
        """The first lines at once, then as many as come within a moment together. Runs for ever."""
        while True:
            self._filled.wait()
            try:
                self.send()
            except Exception:  # nobody would start this thread again
                log.exception("log lines were lost")
            time.sleep(BATCH_S)


def watch_logs(runtime: Runtime) -> None:
    """Follow the logs of every replica that runs, each in a thread of its own."""
    outbox = Outbox()
    threading.Thread(target=outbox.run, name="log lines", daemon=True).start()
    threading.Thread(target=_find_replicas, args=(runtime, outbox), name="logs", daemon=True).start()


def _find_replicas(runtime: Runtime, outbox: Outbox) -> None:
    followed: dict[str, threading.Thread] = {}
    while True:
        try:
            _follow_new(runtime, outbox, followed)
        except DatabaseError as error:
            log.warning("the database does not answer (%s): no new logs are followed for now", error)
        finally:
            close_old_connections()
        time.sleep(LOOK_FOR_REPLICAS_S)


def _follow_new(runtime: Runtime, outbox: Outbox, followed: dict[str, threading.Thread]) -> None:
    for name in [name for name, thread in followed.items() if not thread.is_alive()]:
        del followed[name]
    running = Replica.objects.filter(state__in=(ReplicaState.STARTING, ReplicaState.READY))
    for name in running.values_list("name", flat=True):
        if name not in followed:
            followed[name] = threading.Thread(target=_follow, args=(runtime, name, outbox), daemon=True)
            followed[name].start()


def _follow(runtime: Runtime, name: str, outbox: Outbox) -> None:
    first = True
    try:
        for line in runtime.follow_logs(name, tail=LOG_TAIL_LINES):
            outbox.put(name, line, first=first)
            first = False
    except RuntimeFailure as failure:
        log.info("%s: its log can't be followed: %s", name, failure.evidence)
