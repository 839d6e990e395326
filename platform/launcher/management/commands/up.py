"""`manage.py up`: set up, then run every process of Berth until Ctrl-C."""

from __future__ import annotations

import time
from typing import Any

from django.core.management.base import BaseCommand

from launcher.setup import Setup, become_front
from launcher.terminal import Terminal


class Command(BaseCommand):
    """The platform without the demo's data."""

    help = "Sets up and starts the whole platform; Ctrl-C stops it."
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        """Does not return: the process becomes the front."""
        terminal = Terminal()
        became = Setup(terminal, began=time.time()).run()
        terminal.line()
        become_front(became)
