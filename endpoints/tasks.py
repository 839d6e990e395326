"""Celery's way in. Each task is a few lines: the work is in the reconciler and in images.py."""

from __future__ import annotations

import logging

from celery import shared_task
from redis.exceptions import RedisError

from endpoints import capacity, queue
from endpoints.images import pull_for
from endpoints.models import Endpoint
from endpoints.orphans import remove_strangers
from endpoints.reconciler.run import reconcile as run
from endpoints.runtime import current_runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)


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
    """Look at every endpoint: what a lost task, message or worker left behind is found here."""
    for endpoint_id in Endpoint.objects.values_list("pk", flat=True).iterator():
        queue.reconcile_in(endpoint_id, 0)
    runtime = current_runtime()
    remove_strangers(runtime)
    try:
        capacity.publish(runtime.info())
    except (RuntimeFailure, RedisError) as error:
        log.warning("the machine's capacity is not known: %s", error)
