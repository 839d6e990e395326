"""The gateway agent: `python -m gateway.agent --control URL --token-file F --home DIR --listen HOST:PORT --id ID`.

One small process beside each Envoy. It fetches the snapshot, checks it, writes Envoy's files, starts and watches
Envoy, and reports the version that Envoy itself says it works with. Without the control plane it goes on with what
it has on disk, also when both it and Envoy are started anew.

Signals: SIGTERM and SIGINT drain and stop Envoy, too. SIGHUP ends the agent alone (as does SIGTERM with
`--leave-envoy`); the next agent in the same home adopts the Envoy that goes on serving.
Exit status: 0 after a signal, 2 for wrong arguments, 3 if the port is taken.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from gateway import bootstrap, clusters, compiled_reader, files, logs, names
from gateway.accounting import Accounting
from gateway.admin import AdminError
from gateway.apply import Applier, Refusal, serves
from gateway.budgets import Budgets
from gateway.certificate import Certificate
from gateway.connections import Counts
from gateway.control import Control, Fetched, Shipper, Teller
from gateway.counting import Counting
from gateway.denial_file import Watch
from gateway.options import Options, parse
from gateway.poller import Poller, Serving
from gateway.process import EnvoyProcess, PortTaken
from gateway.rejections import in_one_line
from gateway.shelf import Shelf
from gateway.shipping import Shipping
from gateway.taking import Taking

STATUS = "status.json"
EXIT_PORT_TAKEN = 3
_STABLE_S = 30.0  # an Envoy that lived that long is started again without a pause
_ASK_FIRST_S = 2.0  # how long a start from the disk waits for the control plane's newer word
_HEARD_S = 60.0  # how old the status may be of a gateway that the control plane has just heard
_FORGOTTEN_S = 1800.0  # of silence: half of the time that addresses wait for it (gateway.cluster.KNOWN_S)
_GOODBYE_S = 1.0
_LAST_LINES_S = 2.0  # for what the control plane has not got of the access log, when Envoy has ended

log = logging.getLogger("gateway")


class Agent:
    """Everything but the threads that are made here runs in the main thread."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.xds = options.home / bootstrap.XDS_DIR
        envoy_options = bootstrap.BootstrapOptions(
            options.host,
            options.port,
            options.gateway_id,
            options.tls is not None,
            options.edge,
            compiled_reader.module() if options.compiled else "",
        )
        self.envoy = EnvoyProcess(options.home, envoy_options, options.concurrency)
        self.shelf = Shelf(options.home)
        applier = Applier(self.shelf, self.envoy.admin, self._evidence)
        applier.meanwhile = self._meanwhile
        self.taking = Taking(self.shelf, applier)
        self.certificate = Certificate(options.tls, self.xds) if options.tls else None
        control = Control(options.control, options.token_file, options.gateway_id)
        self.poller = Poller(control, Counts(options.port))
        teller = Teller(options.control, options.token_file, options.gateway_id)
        self.counting = Counting(options.gateway_id, self.envoy, teller, options.tell_s)
        shipper = Shipper(options.control, options.token_file, options.gateway_id)
        self.shipping = Shipping(self.envoy.access_logs, shipper)
        self.budgets = Budgets(options.home, self.xds)
        self.denials = Watch(self.budgets.denials, self.envoy.admin, self._said_of_denials)
        self.accounting = Accounting(self.envoy.access_logs, self.envoy, self.budgets, self.shipping)
        self.pending: Fetched | None = None
        self.newer: Fetched | None = None  # than the one that is being taken
        self.stopping: signal.Signals | None = None
        self._complaint = ""
        self._failures = 0
        self._refused: tuple[str, tuple[Refusal, ...]] = ("", ())
        self._last_lines: deque[str] = deque(maxlen=100)  # of Envoy's log
        self._odd: list[str] = []
        self._silent_s = 0.0  # how long ago the agent before this one was heard, at the latest
        self._settled = False  # it is known which files the running Envoy works with
        self._started_at = 0.0
        self._start_after = 0.0
        self._status: dict[str, Any] = {}

    # --- main loop ----------------------------------------------------------------------------------------

    def run(self) -> int:
        self.options.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._silent_s = _age(self.options.home / STATUS)
        self.xds.mkdir(exist_ok=True, mode=0o700)
        os.chdir(self.options.home)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)
        if self.certificate:
            self.certificate.refresh()
        try:
            self._first_start()
        except PortTaken as taken:
            log.error("%s: stop that program or choose another port (BERTH_GATEWAY_PORT)", taken)
            return EXIT_PORT_TAKEN
        beside = (self.counting, self.accounting, self.shipping)
        for started in beside:
            started.start()
        while self.stopping is None:
            for thread in (self.poller, *beside):
                if not thread.is_alive():  # a defect: end, so that a new agent adopts Envoy and goes on
                    raise RuntimeError(f"the {thread.name} thread has ended")
            self._step()
        return self._end()

    def _first_start(self) -> None:
        self.shelf.read()
        self._limit()
        self.budgets.prepare()
        if self.envoy.adopt(anyhow=not self.shelf.can_start):
            running = self.envoy.running
            log.info("adopted the running Envoy pid=%s", running.pid if running else "?")
            if self.envoy.is_outdated:
                log.warning(
                    "it was started another way and goes on for now: there is no snapshot on disk to start one from"
                )
            else:
                self._settle()
            self.poller.start()
            return
        self.envoy.check_port()  # said now and not only when the first snapshot has come
        self.poller.start()
        if not self.shelf.can_start:
            log.info("no snapshot on disk, waiting for the control plane at %s", self.options.control)
            return
        self._ask_first()
        if not self.shelf.can_start:
            return
        log.info("starting from the snapshot on disk version=%s", self.shelf.version)
        self._start()

    def _ask_first(self) -> None:
        """While this gateway was stopped, an address that its files lead to may have become another replica's.

        For some time addresses wait for a gateway that is silent (gateway.cluster). After that time nothing leads there
        but the newest word, even if that cannot be taken.
        """
        self.poller.asked.wait(_ASK_FIRST_S)
        with contextlib.suppress(queue.Empty):
            fetched = self.poller.fetched.get_nowait()
            if self._silent_s > _FORGOTTEN_S:
                self.shelf.forget(names.ROUTING)
            self._take(fetched)

    def _step(self) -> None:
        with contextlib.suppress(queue.Empty):
            self.pending, self.newer = self.poller.fetched.get(timeout=0.1), None
        if self.stopping is not None:
            return
        try:
            self._watch()
            self._pass_over()
            if self.pending is not None:
                self._take(self.pending)
                self.pending = None
        except (AdminError, OSError) as error:
            # Envoy has just ended, the disk is full: what is pending stays so, and is tried again.
            self._complain(f"will try again: {error}")
            time.sleep(0.2)
        self._pass_over()

    def _pass_over(self) -> None:
        """Never take a snapshot when a newer one is there: it would let in again whom that one refuses."""
        self.pending, self.newer = self.newer or self.pending, None

    def _meanwhile(self) -> None:
        """Envoy takes its time with routes. Whom the control plane has revoked meanwhile does not gain by that."""
        with contextlib.suppress(queue.Empty):
            self.newer = self.poller.fetched.get_nowait()
            self.taking.hurry(self.newer)

    def _complain(self, problem: str) -> None:
        """Say it once."""
        if self._complaint != problem:
            self._complaint = problem
            log.error(problem)

    # --- Envoy --------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._started_at = time.monotonic()
        if filled := self.shelf.fill():
            log.error(
                "built-in content stands in until the control plane sends these files: %s", ", ".join(filled)
            )
            self._limit()
        self.envoy.start()
        if self.envoy.wait_ready(30):
            self._complaint = ""
            running = self.envoy.running
            scheme = "https" if self.options.tls else "http"
            log.info(
                "serving %s://%s:%s pid=%s version=%s",
                scheme,
                self.options.host,
                self.options.port,
                running.pid if running else "?",
                self.shelf.version,
            )
            self._settle()

    def _watch(self) -> None:
        for line in self.envoy.new_log_lines():
            log.warning("envoy: %s", line[:600])  # it may quote a whole file
            self._last_lines.append(line)
        if self.certificate and self.certificate.refresh():
            log.info("certificate read again")
        if not self.shelf.can_start or self.envoy.is_alive():
            if self.envoy.is_alive() and not self._settled and not self.envoy.is_outdated:
                self._settle()
            elif self.envoy.is_alive() and not self._status.get("applied"):
                self._note_applied()
            if self._settled and self.envoy.is_alive():
                self.denials.look(time.monotonic())
                self._tell_refused()
            self._write_status()
            return
        if self.envoy.running is not None:
            lived = time.monotonic() - self._started_at
            self._failures = 1 if lived > _STABLE_S else self._failures + 1
            pause = 0.0 if self._failures == 1 else min(0.25 * 2**self._failures, 15.0)
            log.error("Envoy ended pid=%s, starting it again in %.1f s", self.envoy.running.pid, pause)
            self._start_after = time.monotonic() + pause
            self.envoy.running = None
            self._set_serving(Serving())
        if time.monotonic() >= self._start_after:
            try:
                self._start()
            except PortTaken as taken:  # perhaps by the rest of the Envoy that has just ended
                self._start_after = time.monotonic() + 0.25
                self._complain(f"cannot start Envoy: {taken}")

    def _evidence(self) -> str:
        return _telling(self.envoy.new_log_lines())

    def _said_of_denials(self) -> str:
        return _telling(line for line in self._last_lines if names.DENIALS_FILTER in line)

    # --- snapshots ----------------------------------------------------------------------------------------

    def _take(self, fetched: Fetched) -> None:
        started = time.monotonic()
        self.taking.take(fetched, envoy_runs=self.envoy.is_alive() and not self.envoy.is_outdated)
        self._tell_odd()
        self._limit()
        if self.envoy.is_outdated and self.shelf.can_start:
            log.info("ending the Envoy that was started another way, a new one follows")
            self.envoy.stop(self.options.drain_s)
        self._tell_refused()
        self._note_applied()
        milliseconds = (time.monotonic() - started) * 1000
        if not self.taking.refused:
            log.info("snapshot taken version=%s in %.0f ms", fetched.version, milliseconds)

    def _settle(self) -> None:
        """What Envoy works with after a start; what it refuses of the files it was started from is replaced."""
        self._settled = False
        self.denials.begin()
        with contextlib.suppress(AdminError):  # it ends or hangs: asked again
            self.taking.settle()
            self._settled = True
        self._limit()
        self._tell_refused()
        self._note_applied()

    def _limit(self) -> None:
        if names.LIMITS in self.shelf.present:
            self.budgets.limit(self.shelf.present[names.LIMITS]["resources"])

    def _tell_refused(self) -> None:
        version, refused = self.taking.version, (*self.taking.refused, *self.denials.refused)
        if (version, refused) == self._refused:
            return
        self._refused = version, refused
        for refusal in refused:
            log.error(
                "snapshot rejected version=%s file=%s, going on without it: %s",
                version,
                refusal.file,
                refusal.evidence,
            )
        self._status["rejected"] = [
            {"version": version, "file": refusal.file, "evidence": refusal.evidence} for refusal in refused
        ]
        self._write_status()
        self.poller.tell(rejected=in_one_line(version, refused))

    def _tell_odd(self) -> None:
        for text in set(self.taking.oddities) - set(self._odd):
            log.warning(text)
        self._odd = self.taking.oddities

    def _note_applied(self) -> None:
        """Only what Envoy's own statistics name counts as applied."""
        running, shelf = self.envoy.running, self.shelf
        if shelf.is_whole and running is not None and serves(self.envoy.admin, shelf.present):
            inside = clusters.addresses(shelf.present[names.CLUSTERS], shelf.present[names.ASSIGNMENTS])
            self._set_serving(Serving(shelf.version, inside, running.pid))
        else:
            self._set_serving(Serving(pid=running.pid if running else None))

    def _set_serving(self, serving: Serving) -> None:
        self.poller.tell(serving)
        self._status["applied"] = serving.applied

    # --- surroundings -------------------------------------------------------------------------------------

    def _write_status(self) -> None:
        running = self.envoy.running
        status = {
            "gateway": self.options.gateway_id,
            "pid": running.pid if running else None,
            "applied": self._status.get("applied", ""),
            "rejected": self._status.get("rejected", []),
            "odd": self._odd,
            "control_plane": "answers" if self.poller.answers else "away",
        }
        if status != self._status.get("written"):
            files.write_json(self.options.home / STATUS, status)
            self._status["written"] = status
        elif self.poller.answers and _age(self.options.home / STATUS) > _HEARD_S:
            (self.options.home / STATUS).touch()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.stopping = signal.Signals(number)

    def _end(self) -> int:
        stays = self.options.leave_envoy or self.stopping is signal.SIGHUP
        if stays:
            log.info("ending, Envoy goes on")
        else:
            log.info("ending, draining Envoy for at most %.0f s", self.options.drain_s)
            self.envoy.stop(self.options.drain_s)
            self.poller.say_goodbye(_GOODBYE_S)
            self.shipping.finish(_LAST_LINES_S)
            log.info("Envoy has ended")
        return 0


def _age(file: Path) -> float:
    """Seconds since it was written, 0 if there is none."""
    try:
        return time.time() - file.stat().st_mtime
    except OSError:
        return 0.0


def _telling(lines: Iterable[str]) -> str:
    """Of Envoy's log, what says why."""
    written = [line for line in lines if line.strip()]
    telling = [line for line in written if "reject" in line.lower() or "error" in line.lower()] or written
    return " | ".join(line.rpartition("] ")[2] or line for line in telling[:3])[:400]


def main() -> int:
    logs.to_stdout()
    return Agent(parse(sys.argv[1:])).run()


if __name__ == "__main__":
    raise SystemExit(main())
