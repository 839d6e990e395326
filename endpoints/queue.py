"""Asking for a reconcile. Every request is only a hint: the sweep finds what a lost one leaves behind."""

from __future__ import annotations

import logging

from django.core.cache import cache
from django.db import transaction
from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from config.celery import app

log = logging.getLogger(__name__)


def reconcile_soon(endpoint_id: str) -> None:
    """After the present transaction commits, reconcile the endpoint at once."""
    transaction.on_commit(lambda: _send("endpoints.tasks.reconcile", endpoint_id, 0))


def reconcile_in(endpoint_id: str, delay_s: float) -> None:
    """Reconcile again after `delay_s`. Looks that wait for each other's rhythm must not multiply into several polling
    chains: one pending look of a delay is enough for an endpoint. A look at once is never left out: the one that
    runs just now may have looked before what this hint is about."""
    if delay_s and not _first_to_ask(endpoint_id, delay_s):
        return
    _send("endpoints.tasks.reconcile", endpoint_id, delay_s)


def _first_to_ask(endpoint_id: str, delay_s: float) -> bool:
    try:
        return cache.add(f"reconcile-pending:{delay_s:g}:{endpoint_id}", 1, timeout=float(delay_s))
    except (RedisError, OSError) as error:
        log.warning("Redis does not answer (%s): %s waits for the sweep", error, endpoint_id)
        return False


def pull_soon(replica_id: str) -> None:
    """Fetch a replica's image in a task of its own."""
    _send("endpoints.tasks.pull_image", replica_id, 0)


def _send(task: str, argument: str, delay_s: float) -> None:
    try:
        app.send_task(task, [argument], countdown=delay_s or None, retry=False)
    except (OperationalError, OSError) as error:
        # The request is saved in the database; the sweep picks it up when the broker is back.
        log.warning("The broker does not answer (%s): %s %s waits for the sweep", error, task, argument)
