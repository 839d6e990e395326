"""Asking for an import. Every request is only a hint: the sweep finds what a lost one leaves behind."""

from __future__ import annotations

import logging

from kombu.exceptions import OperationalError

from config.celery import app

log = logging.getLogger(__name__)


def import_now(model_id: str, *, expires_s: float | None = None) -> None:
    """Send the import task. `expires_s`: after that the message is dropped unread."""
    try:
        app.send_task("registry.tasks.import_model", [model_id], expires=expires_s, retry=False)
    except (OperationalError, OSError) as error:
        log.warning("The broker does not answer (%s): import %s waits for the sweep", error, model_id)
