"""Telling open pages that a model changed. They re-read it; the message carries nothing but its id."""

from __future__ import annotations

import logging

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from redis.exceptions import RedisError

log = logging.getLogger(__name__)


def group_of(project_id: str) -> str:
    """The channel-layer group of a project's models."""
    return f"project.{project_id}.models"


def model_changed(project_id: str, model_id: str) -> None:
    """After the present transaction commits: {"type": "models.changed", "id"} to the project's group."""
    transaction.on_commit(lambda: _send(project_id, model_id))


def _send(project_id: str, model_id: str) -> None:
    layer = get_channel_layer()
    if layer is None:
        return
    try:
        async_to_sync(layer.group_send)(group_of(project_id), {"type": "models.changed", "id": model_id})
    except (RedisError, OSError) as error:
        # Pages catch up when they reconnect.
        log.warning("Live update lost, Redis does not answer: %s", error)
