"""The agent's second thread: asks the control plane again and again, and tells it how this gateway does."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Set
from dataclasses import dataclass, field

from gateway.connections import Counts
from gateway.control import Control, ControlAway, ControlRefused, Fetched, Report

POLL_S = 0.25
RETRY_MAX_S = 2.0  # between polls of a control plane that does not answer

log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class Serving:
    """What Envoy does. applied: version, "" if it serves none. addresses: where that version's clusters lead to.
    pid: Envoy's, None if none runs."""

    applied: str = ""
    addresses: Set[str] = field(default_factory=frozenset)
    pid: int | None = None


class Poller(threading.Thread):
    """What the control plane sends waits in `fetched`, the newest only.

    asked    set once it was asked for the first time, whether it answered or not
    answers  whether it answered the last time
    """

    def __init__(self, control: Control, counts: Counts) -> None:
        super().__init__(name="poller", daemon=True)
        self.fetched: queue.Queue[Fetched] = queue.Queue(maxsize=1)
        self.asked = threading.Event()
        self.answers = False
        self._control = control
        self._counts = counts
        self._serving = Serving()
        self._rejected = ""
        self._etag = ""
        self._gone = False
        self._wake = threading.Event()
        self._complaint: str | None = None

    def tell(self, serving: Serving | None = None, rejected: str | None = None) -> None:
        """Change what is reported; what the control plane waits for is told at once."""
        before = (self._serving.applied, self._rejected)
        self._serving = self._serving if serving is None else serving
        self._rejected = self._rejected if rejected is None else rejected
        if before != (self._serving.applied, self._rejected):
            self._wake.set()

    def say_goodbye(self, within_s: float) -> None:
        """Tell that Envoy was stopped, and ask no more. A control plane that is away is not waited for."""
        if self.is_alive():
            self._gone = True
            self._wake.set()
            self.join(within_s)

    def run(self) -> None:
        pause = POLL_S
        while True:
            gone = self._gone
            try:
                fetched = self._control.poll(self._report(gone))
            except ControlAway as problem:
                self._lost(problem)
                pause = min(max(pause * 1.5, 2 * POLL_S), RETRY_MAX_S)
            else:
                self._found()
                pause = POLL_S
                if fetched is not None:
                    self._etag = fetched.version
                    self._hand_over(fetched)
            self.asked.set()
            if gone:
                return
            self._wake.wait(pause)
            self._wake.clear()

    def _report(self, gone: bool) -> Report:
        # Read once: a count says nothing about a version that was applied while it was made.
        serving = self._serving
        counted, streams = self._counts.due(serving.pid, serving.addresses)
        return Report(self._etag, serving.applied, self._rejected, counted, streams, gone)

    def _hand_over(self, fetched: Fetched) -> None:
        while True:
            try:
                self.fetched.put_nowait(fetched)
                return
            except queue.Full:  # an older one nobody has looked at yet
                try:
                    self.fetched.get_nowait()
                except queue.Empty:
                    continue

    def _lost(self, problem: ControlAway) -> None:
        self.answers = False
        kind = "refused" if isinstance(problem, ControlRefused) else "away"
        if self._complaint != kind:
            self._complaint = kind
            log.warning("control plane %s, serving what is on disk: %s", kind, problem)

    def _found(self) -> None:
        if self._complaint is not None:
            log.info("control plane answers again")
        self.answers, self._complaint = True, None
