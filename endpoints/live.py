"""What open pages are told: "look again", never what changed.

A page's consumer re-reads the database for itself, so that a lost message costs at most its next check (four
seconds), and what a page shows never depends on what a message said.

Log lines are different: they pass through Redis once, from the watcher to whoever looks, with a bounded tail kept
for pages that open later.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import redis
import redis.asyncio
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import transaction

from endpoints.models import Endpoint, Replica

logger = logging.getLogger(__name__)

# Lines of a replica that a page sees when it opens, and for how long they are kept after the last one.
LOG_TAIL_LINES = 500
LOG_TAIL_SECONDS = 24 * 3600
# Lines that an open page keeps; static/js/logs.js says the same.
LOG_PAGE_LINES = 2000
# A line longer than this is cut: one line must not be a page.
LOG_LINE_BYTES = 4000


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


def log_key(replica_name: str) -> str:
    """The Redis list that keeps the tail of this replica's log, oldest line first."""
    return f"logs:{replica_name}"


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


@lru_cache(maxsize=1)
def _redis() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2)


def publish_log(replica_name: str, lines: Sequence[str]) -> None:
    """Append `lines` to the replica's tail and show them on the pages that follow it. For the watcher.

    Send what has gathered at most about ten times a second, not line by line.
    """
    if not lines:
        return
    cut = [line[:LOG_LINE_BYTES] for line in lines[-LOG_TAIL_LINES:]]
    try:
        with _redis().pipeline(transaction=False) as pipe:
            pipe.rpush(log_key(replica_name), *cut)
            pipe.ltrim(log_key(replica_name), -LOG_TAIL_LINES, -1)
            pipe.expire(log_key(replica_name), LOG_TAIL_SECONDS)
            pipe.execute()
    except redis.RedisError as error:
        logger.warning("log lines of %s were not kept: %s", replica_name, error)
    send([logs_group(replica_name)], {"type": "log.lines", "lines": json.dumps(cut)})


def forget_log(replica_name: str) -> None:
    """Drop the kept tail, when the replica's record goes."""
    try:
        _redis().delete(log_key(replica_name))
    except redis.RedisError as error:
        logger.warning("the log tail of %s was not removed: %s", replica_name, error)


def kept_lines(replica: Replica) -> list[str]:
    """A replica's last lines, oldest first: the watcher's tail, or for a failed one what was kept as evidence."""
    evidence = str(replica.evidence.get("logs") or "")
    if evidence:
        return evidence.splitlines()
    try:
        raw: list[Any] = _redis().lrange(log_key(replica.name), 0, -1)
    except redis.RedisError as error:
        logger.warning("the log tail of %s could not be read: %s", replica.name, error)
        return []
    return [line.decode("utf-8", "replace") for line in raw]


async def log_tail(replica_name: str) -> list[str]:
    """The kept lines, oldest first; empty when there are none or Redis is away."""
    client = redis.asyncio.Redis.from_url(settings.REDIS_URL, socket_timeout=2)
    try:
        raw = await client.lrange(log_key(replica_name), 0, -1)
    except redis.RedisError as error:
        logger.warning("the log tail of %s could not be read: %s", replica_name, error)
        return []
    finally:
        await client.aclose()
    return [line.decode("utf-8", "replace") if isinstance(line, bytes) else line for line in raw]
