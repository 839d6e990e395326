"""Bytes done of bytes wanted, written at most four times a second."""

from __future__ import annotations

import time
from collections.abc import Callable

from registry.importing.lease import Lease

INTERVAL_S = 0.25


class Progress:
    """Counts for one import. Every call may raise LeaseLost, which ends the import."""

    def __init__(self, lease: Lease, clock: Callable[[], float] = time.monotonic) -> None:
        self._lease = lease
        self._clock = clock
        self._written_at = float("-inf")
        self.done = 0
        self.total = 0

    def start(self, total: int, done: int = 0) -> None:
        """How many bytes there are, and how many of them are here already."""
        self.total, self.done = total, done
        self.write()

    def add(self, count: int) -> None:
        """More bytes arrived, or fewer are right (negative)."""
        self.done += count
        if self._clock() - self._written_at >= INTERVAL_S:
            self.write()

    def write(self) -> None:
        """Write now, which is a heartbeat too."""
        self._written_at = self._clock()
        self._lease.write(bytes_done=self.done, bytes_total=self.total)
