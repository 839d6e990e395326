"""The agent's fourth thread: follows Envoy's access log and counts what each request used, for the token limits.

It also begins a new file of the log from time to time, removes what both it and the control plane have counted
(gateway.shipping), and keeps the disk from filling up while the control plane is away.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Iterable
from typing import Protocol

from gateway.access_logs import AccessLogs, Position
from gateway.admin import AdminError
from gateway.control import Heard
from gateway.process import EnvoyProcess
from gateway.request_line import Used, used_in
from gateway.shipping import Shipping

LOOK_S = 0.2
FILE_LIMIT = 64 * 1024 * 1024
TOTAL_LIMIT = 10 * 1024**3  # of all files together
_PIECE = 1024 * 1024
_TIDY_S = 1.0

log = logging.getLogger("gateway")


class Budgets(Protocol):
    """What knows the token limits (gateway.budgets). Used by one thread only."""

    @property
    def position(self) -> Position:
        """What of the log is counted, as of the last `save`."""

    @property
    def is_kept(self) -> bool:
        """Whether all that was heard is on disk."""

    def count(self, requests: Iterable[Used]) -> None:
        """Add what they used."""

    def save(self, position: Position) -> None:
        """Keep what is counted together with the position up to which it is. Raises OSError."""

    def hear(self, heard: Heard) -> None:
        """What the control plane has counted, of this gateway and of the others."""

    def tick(self) -> None:
        """Have Envoy refuse who has used up what they may. Raises OSError."""


class Accounting(threading.Thread):
    """Of its own: a control plane that is slow or away delays no count."""

    def __init__(self, logs: AccessLogs, envoy: EnvoyProcess, budgets: Budgets, shipping: Shipping) -> None:
        super().__init__(name="accounting", daemon=True)
        self._logs = logs
        self._envoy = envoy
        self._budgets = budgets
        self._shipping = shipping
        self._position = budgets.position
        self._tidied = 0.0
        self._complaint = ""

    def run(self) -> None:
        while True:
            try:
                self._look()
            except (OSError, AdminError) as error:  # a full disk, an Envoy that has just ended
                self._complain(str(error))
            else:
                self._complaint = ""
            time.sleep(LOOK_S)

    def _look(self) -> None:
        self._hear()
        self._budgets.tick()
        self._keep()
        while (piece := self._logs.read(self._position, _PIECE)) is not None:
            self._budgets.count(used_in(piece.lines))
            self._position = piece.end  # they are counted, whether that can be kept or not
            self._budgets.tick()
            self._keep()
            self._shipping.wake()
        if time.monotonic() - self._tidied > _TIDY_S:
            self._tidied = time.monotonic()
            self._rotate()
            self._tidy()

    def _keep(self) -> None:
        """What is counted and not kept yet. Nothing more is counted while it can't be."""
        if self._budgets.position != self._position or not self._budgets.is_kept:
            self._budgets.save(self._position)

    def _hear(self) -> None:
        while True:
            try:
                self._budgets.hear(self._shipping.heard.get_nowait())
            except queue.Empty:
                return

    def _rotate(self) -> None:
        if not self._envoy.is_alive():
            return
        # One that somebody deleted is not made again: what is counted of it is no part of what would be in it then.
        if self._logs.size() > FILE_LIMIT or not self._logs.is_open():
            self._logs.begin()
            self._envoy.admin.request("POST", "/reopen_logs")

    def _tidy(self) -> None:
        """Whoever still needs a file is at it or before it."""
        for name in self._logs.left_behind(self._budgets.position, self._shipping.position):
            self._logs.remove(name)
        left = self._logs.files()
        total = sum(self._logs.size(name) for name in left)
        for name in left[:-1]:
            if total <= TOTAL_LIMIT:
                return
            size = self._logs.size(name)
            total -= size
            log.error(
                "access log too long, the control plane is away: %s (%d bytes) is not counted", name, size
            )
            self._logs.remove(name)

    def _complain(self, problem: str) -> None:
        """Say it once."""
        if self._complaint != problem:
            self._complaint = problem
            log.error("accounting: %s", problem)
