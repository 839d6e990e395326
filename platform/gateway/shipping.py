"""The agent's fifth thread: sends Envoy's access log to the control plane, where it is counted (endpoints.usage), and
hears what all gateways together have counted: with each answer, and at least once a second.

Every line counts once. Each shipment says up to where the sender believes the log to be counted; the control plane
takes it only if that is so, and moves its position in the transaction that counts. So an answer that was lost, a
shipment that arrives twice or late, and a database that went back to a backup are all told apart from what is new.
"""

from __future__ import annotations

import logging
import queue
import threading
import time

from gateway.access_logs import START, AccessLogs, Position
from gateway.control import ControlAway, Heard, Shipper

SHIP_S = 0.5  # between two shipments; between two questions, with nothing to send, twice that
RETRY_MAX_S = 5.0
PIECE = 2 * 1024 * 1024  # bytes: some thousand lines

log = logging.getLogger("gateway")


class Shipping(threading.Thread):
    """position: what the control plane has counted, as far as is known. heard: what it told of everybody's counts."""

    def __init__(self, logs: AccessLogs, shipper: Shipper, every_s: float = SHIP_S) -> None:
        super().__init__(name="shipping", daemon=True)
        self.position = START
        self.heard: queue.SimpleQueue[Heard] = queue.SimpleQueue()
        self._logs = logs
        self._shipper = shipper
        self._every_s = every_s
        self._stored = START  # by the control plane, as it said last
        self._was_refused = False
        self._complaint = ""
        self._ending = False
        self._new = threading.Event()

    def wake(self) -> None:
        """There are new lines."""
        self._new.set()

    def finish(self, within_s: float) -> None:
        """Send what is left and end; a control plane that is away is not waited for."""
        self._ending = True
        self.wake()
        if self.is_alive():
            self.join(within_s)

    def run(self) -> None:
        pause = self._every_s
        while True:
            ending = self._ending
            try:
                if not self.ship() and not ending:
                    self.ask()
                while self.ship():
                    pass
            except (ControlAway, OSError) as problem:
                self._complain(str(problem))
                pause = min(pause * 1.5, RETRY_MAX_S)
            else:
                self._complaint = ""
                pause = self._every_s
                self._new.wait(self._every_s)  # and then it asks
            self._new.clear()
            if ending:
                return
            if not self._ending:
                time.sleep(pause)

    def ship(self) -> bool:
        """Send the next piece; whether there was one. Raises ControlAway, OSError."""
        piece = self._logs.read(self.position, PIECE)
        if piece is None:
            return False
        after = self._stored
        answer = self._shipper.ship(piece, after)
        self._stored = answer.stored
        if answer.heard is not None:
            self.heard.put(answer.heard)
        if answer.taken:
            self.position = piece.end
        else:
            self._go_to(answer.stored)
            if self._was_refused:
                self._was_refused = False
                raise ControlAway(f"it takes nothing that follows {after or 'nothing'}")  # not at once again
        self._was_refused = not answer.taken
        return True

    def ask(self) -> None:
        """Hear what is counted, also by a gateway that nobody calls, or that has just lost its home. Raises
        ControlAway."""
        names = self._logs.files()
        heard = self._shipper.ask(Position(names[-1]) if names else START)
        if heard is not None:
            self.heard.put(heard)

    def _go_to(self, stored: Position) -> None:
        """The database knows what it has counted, and nobody else. What is no longer here is lost to it."""
        if self.position != START:
            log.warning("the control plane has counted up to %s, not %s", stored or "nothing", self.position)
        self.position = stored

    def _complain(self, problem: str) -> None:
        """Say it once."""
        if self._complaint != problem:
            self._complaint = problem
            log.warning("the access log is kept until the control plane takes it: %s", problem)
