"""The watcher: turns the runtime's events into reconcile hints, and carries logs to whoever watches them."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any

from django.core.management.base import BaseCommand

from endpoints.runtime import current_runtime
from endpoints.watching import watch_events, watch_logs


class Command(BaseCommand):
    """`manage.py watch`: runs until it is stopped."""

    help = "Follow the runtime's events and the replicas' logs."

    def handle(self, *args: Any, **options: Any) -> None:
        """Follow both until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        runtime = current_runtime()
        logging.getLogger(__name__).info("watching %s", runtime.kind)
        watch_logs(runtime)
        try:
            watch_events(runtime)
        except KeyboardInterrupt:
            sys.exit(0)
