"""When Berth can be used: what must answer, asked until it does, and the few lines that say so."""

from __future__ import annotations

import socket
import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from launcher.programs import Plan
from launcher.terminal import Terminal

PATIENCE_S = 60.0
ASK_EVERY_S = 0.1


def answers(address: str, timeout_s: float = 1.0) -> bool:
    """Whether an http(s) URL answers 200, or something accepts connections at host:port or unix:/path."""
    try:
        if address.startswith("http"):
            # Our own server on loopback: its certificate is for the public name, and nothing is sent.
            context = ssl._create_unverified_context() if address.startswith("https") else None  # noqa: S323
            with urllib.request.urlopen(address, timeout=timeout_s, context=context) as answer:  # noqa: S310
                return bool(answer.status == 200)
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(timeout_s)
                probe.connect(address.removeprefix("unix:"))
                return True
        host, _, port = address.rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port)), timeout_s):
            return True
    except (OSError, urllib.error.URLError):
        return False


def wait_at_most(probes: tuple[tuple[str, str], ...], patience_s: float) -> list[str]:
    """Return when every probe has answered, or after `patience_s` with the names of those that have not."""
    silent = dict(probes)
    deadline = time.monotonic() + patience_s
    while True:
        silent = {name: address for name, address in silent.items() if not answers(address)}
        if not silent or time.monotonic() > deadline:
            return sorted(silent)
        time.sleep(ASK_EVERY_S)


def announce(plan: Plan, terminal: Terminal) -> threading.Thread:
    """Say in the background when everything answers, and where to go."""

    def work() -> None:
        while silent := wait_at_most(plan.probes, PATIENCE_S):
            logs = ", ".join(str(Path(plan.home) / "log" / f"{name}.log") for name in silent)
            text = f"still no answer from {' and '.join(silent)}; see {logs}"
            terminal.log("berth", terminal.paint(text, "33"))
        terminal.write(banner(plan, terminal))

    thread = threading.Thread(target=work, name="readiness", daemon=True)
    thread.start()
    return thread


def banner(plan: Plan, terminal: Terminal) -> str:
    """The lines that a person looks for."""
    took = f"{time.time() - plan.began:.1f} s"
    rows = [f"  {terminal.paint(f'Berth is up after {took}', '1;32')}"]
    rows.append(f"  console   {terminal.paint(plan.console_url, '4')}")
    rows.append(f"  gateway   {plan.gateway_url}")
    rows.append(f"  state     {plan.home}   (logs in log/)")
    rows.append("  Ctrl-C stops it.")
    return "\n" + "\n".join(rows) + "\n\n"
