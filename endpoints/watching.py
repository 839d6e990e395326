"""What the watcher does. Losing an event costs nothing but time: the sweep looks at every endpoint anyway."""

from __future__ import annotations

import logging
import threading
import time

from django.db import close_old_connections, connection

from endpoints.live import forget_log, publish_log
from endpoints.models import Replica, ReplicaState
from endpoints.queue import reconcile_in
from runtimes.contract import LABEL_ENDPOINT, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
RETRY_S = 2.0
LOOK_FOR_REPLICAS_S = 1.0
# Lines are sent in batches: a container that prints without end must not turn into a message a line.
BATCH_S = 0.25
BATCH_LINES = 200


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


def watch_logs(runtime: Runtime) -> None:
    """Follow the logs of every replica that runs, each in a thread of its own."""
    threading.Thread(target=_find_replicas, args=(runtime,), name="logs", daemon=True).start()


def _find_replicas(runtime: Runtime) -> None:
    followed: dict[str, threading.Thread] = {}
    while True:
        close_old_connections()
        running = Replica.objects.filter(state__in=(ReplicaState.STARTING, ReplicaState.READY))
        for name in running.values_list("name", flat=True):
            if name not in followed:
                thread = threading.Thread(target=_follow, args=(runtime, name), daemon=True)
                followed[name] = thread
                thread.start()
        followed = {name: thread for name, thread in followed.items() if thread.is_alive()}
        time.sleep(LOOK_FOR_REPLICAS_S)


def _follow(runtime: Runtime, name: str) -> None:
    forget_log(name)  # the tail below has what an earlier follower kept
    batch: list[str] = []
    sent = time.monotonic()
    try:
        for line in runtime.follow_logs(name, tail=500):
            batch.append(line)
            now = time.monotonic()
            # The first lines go out at once; then as many as came within a moment go together.
            if now - sent >= BATCH_S or len(batch) >= BATCH_LINES:
                publish_log(name, batch)
                batch, sent = [], now
    except RuntimeFailure as failure:
        log.info("%s: its log can't be followed: %s", name, failure.evidence)
    finally:
        if batch:
            publish_log(name, batch)
        connection.close()
