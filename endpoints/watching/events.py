"""The runtime's events as hints to reconcile."""

from __future__ import annotations

import logging
import time

from django.db import DatabaseError, close_old_connections

from endpoints.models import Endpoint
from endpoints.queue import reconcile_in
from runtimes.contract import LABEL_ENDPOINT, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
RETRY_S = 0.5


def watch_events(runtime: Runtime) -> None:
    """Every event of a container of ours is a hint to look at its endpoint. Runs for ever.

    Nobody repeats what happened while nobody listened: whenever the stream begins (again), every endpoint gets one.
    """
    told = False
    while True:
        try:
            events = runtime.events()
            log.info("listening to the runtime's events")
            told = False
            hint_all()
            for event in events:
                endpoint_id = event.labels.get(LABEL_ENDPOINT)
                if endpoint_id:
                    log.debug("%s: %s", event.name, event.kind)
                    reconcile_in(endpoint_id, 0)
        except RuntimeFailure as failure:
            if not told:  # once an outage, not twice a second
                log.warning("no events for now: %s (%s)", failure.code, failure.evidence)
            told = True
        time.sleep(RETRY_S)


def hint_all() -> None:
    """Look at every endpoint. Never fails."""
    try:
        for endpoint_id in list(Endpoint.objects.values_list("pk", flat=True)):
            reconcile_in(endpoint_id, 0)
    except DatabaseError as error:
        log.warning("the database does not answer (%s): the sweep looks at the endpoints", error)
    finally:
        close_old_connections()
