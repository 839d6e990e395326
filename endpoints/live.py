"""What open pages are told: "look again", never what changed.

A page's consumer re-reads the database for itself, so that a lost message costs at most its next check (four
seconds), and what a page shows never depends on what a message said.

Log lines are no different: they stand in Redis (log_tail), and a page reads on from its own place.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction

from endpoints.models import Endpoint

logger = logging.getLogger(__name__)

# Lines that an open page keeps; static/js/logs.js says the same.
LOG_PAGE_LINES = 2000


def endpoint_group(endpoint_id: str) -> str:
    """Pages that show this endpoint."""
    return f"endpoint.{endpoint_id}"


def project_group(project_id: str) -> str:
    """Pages that list this project's endpoints."""
    return f"project.{project_id}.endpoints"


def models_group(project_id: str) -> str:
    """Pages that list this project's models."""
    return f"project.{project_id}.models"


def logs_group(replica_name: str) -> str:
    """Pages that follow this replica's log."""
    return f"logs.{replica_name}"


def endpoint_changed(endpoint: Endpoint) -> None:
    """Tell the pages that show `endpoint`, after the present transaction commits."""
    groups = (endpoint_group(endpoint.id), project_group(endpoint.project_id))
    message = {"type": "endpoint.changed", "id": endpoint.id}
    transaction.on_commit(lambda: send(groups, message), robust=True)


def send(groups: Sequence[str], message: dict[str, Any]) -> None:
    """To every group, from synchronous code. Redis being away is logged and forgiven: pages check by themselves."""
    layer = get_channel_layer()
    if layer is None:
        return

    async def deliver() -> None:
        for group in groups:
            await layer.group_send(group, message)

    try:
        async_to_sync(deliver)()
    except (redis.RedisError, OSError) as error:
        logger.warning("no live update could be sent: %s", error)


def logs_grew(replica_names: Iterable[str]) -> None:
    """Tell the pages that follow these replicas' logs that there is more to read. For the watcher."""
    send([logs_group(name) for name in replica_names], {"type": "log.grew"})
