"""The watcher: turns the runtime's events into reconcile hints, carries logs to whoever reads them, asks what is ready
whether it still answers, and measures what all of it does."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand

from endpoints.runtime import current_runtime
from endpoints.watching.events import watch_events
from endpoints.watching.health import watch_health
from endpoints.watching.logs import watch_logs
from endpoints.watching.metering import watch_metrics


class Command(BaseCommand):
    """`manage.py watch`: runs until it is stopped."""

    help = "Follow the runtime's events, the replicas' logs, health and figures."
    requires_system_checks = ()  # as in config.celery: they load every view

    def handle(self, *args: Any, **options: Any) -> None:
        """Follow them until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        runtime = current_runtime()
        logging.getLogger(__name__).info("watching %s", runtime.kind)
        watch_logs(runtime)
        watch_health()
        watch_metrics(runtime)
        try:
            watch_events(runtime)
        except KeyboardInterrupt:
            sys.exit(0)
