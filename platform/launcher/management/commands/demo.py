"""`manage.py demo [--once]`: the platform, and a real model behind a URL."""

from __future__ import annotations

import logging
import os
import sys
import time
from argparse import SUPPRESS, ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from launcher import demo_text
from launcher.demo import EXPECTED, SENTENCES, Demo, StepFailed
from launcher.programs import Plan, Program
from launcher.setup import Setup, become_front, forget_login
from launcher.terminal import SEEN_BY, Terminal
from launcher.weights import NAME


class Command(BaseCommand):
    """Sets up, starts everything, and runs the demo as one more process of the front."""

    help = "Starts the platform, deploys a real embedding model and calls it. --once: clean up and stop afterwards."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        """--inside is how the front runs the steps."""
        parser.add_argument(
            "--once", action="store_true", help="remove what was made, stop, exit 0 if all went well"
        )
        parser.add_argument("--inside", action="store_true", help=SUPPRESS)

    def handle(self, *args: Any, **options: Any) -> None:
        """Either the outer half (does not return) or, in the front's process, the steps."""
        if options["inside"]:
            sys.exit(self._steps(once=options["once"]))
        terminal = Terminal()
        steps = [sys.executable, str(settings.ROOT / "manage.py"), "demo", "--inside"]
        if options["once"]:
            steps.append("--once")
        program = Program("demo", tuple(steps), stop_s=3, once=True)
        if terminal.live:
            os.environ[SEEN_BY] = "1"
        became = Setup(terminal, began=time.time()).run(
            show_logs=False, extra=(program,), once=options["once"]
        )
        become_front(became)

    def _steps(self, *, once: bool) -> int:
        logging.disable(logging.INFO)  # every step says itself what it did
        plan = Plan.load(settings.BERTH_RUN_DIR / "plan.json")
        terminal = Terminal()
        demo = Demo(terminal, plan.began, plan.probes)
        status = 0
        try:
            demo.run()
            terminal.write(demo_text.page(self._result(demo, plan), terminal))
        except StepFailed as failure:
            terminal.line(terminal.paint(f"\n  failed at {failure}\n", "31"))
            status = 1
        if not once:
            terminal.line(
                "  Ctrl-C stops it; the endpoint comes back at the next start." if not status else ""
            )
            return status
        try:
            terminal.step("clean-up", demo.clean_up())
        except StepFailed as failure:
            terminal.line(terminal.paint(f"  failed at clean-up: {failure}", "31"))
            status = 1
        return status

    def _result(self, demo: Demo, plan: Plan) -> demo_text.Result:
        assert demo.made.endpoint is not None
        assert demo.made.account is not None
        return demo_text.Result(
            sentence=SENTENCES[0],
            similarities=tuple(zip(SENTENCES[1:], demo.made.similarities, EXPECTED, strict=True)),
            model=NAME,
            endpoint_url=demo.made.endpoint.url,
            client_id=demo.made.account.client_id,
            client_secret=demo.made.secret,
            token_url=f"{settings.BERTH_PUBLIC_URL}/accounts-api/v2/auth/token",
            console_url=plan.console_url,
            login=forget_login(),
        )
