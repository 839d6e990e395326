"""Celery's way in. Each task is a few lines: the work is in the reconciler and in images.py."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from config.cache import alone
from endpoints import queue, sweeping
from endpoints.images import pull_for
from endpoints.reconciler.run import reconcile as run
from endpoints.runtime import current_runtime
from endpoints.usage import by_day

# An engine that hangs must not collect sweeps until no thread of the worker is left; a killed one is waited for.
SWEEP_LIMIT_S = 20
ROLL_UP_LIMIT_S = 300


@shared_task(ignore_result=True)
def reconcile(endpoint_id: str) -> None:
    """Bring one endpoint closer to what is wanted, and look again when that is due."""
    delay = run(endpoint_id, current_runtime())
    if delay is not None:
        queue.reconcile_in(endpoint_id, delay)


@shared_task(ignore_result=True)
def pull_image(replica_id: str) -> None:
    """Fetch one replica's image, telling how far it is."""
    pull_for(replica_id, current_runtime())


@shared_task(ignore_result=True)
def sweep() -> None:
    """Look at everything: what a lost task, message or worker left behind is found here."""
    with alone("sweep", SWEEP_LIMIT_S) as mine:
        if mine:
            sweeping.sweep(current_runtime())


@shared_task(ignore_result=True)
def roll_up_usage() -> None:
    """What was used is kept by the hour while it is young, and by day for good."""
    with alone("usage-by-day", ROLL_UP_LIMIT_S) as mine:
        if mine:
            by_day.roll_up(timezone.now())
