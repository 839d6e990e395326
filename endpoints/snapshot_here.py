"""The snapshot as one web process builds it by itself: what gateways get while Redis, which keeps all they share, is
away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from endpoints import changes
from gateway.cluster import CURRENT_S, Current
from gateway.snapshot import Snapshot

RETRY_S = 1.0  # so long nobody waits for a Redis that did not answer
_NEWS_S = 60.0


@dataclass(frozen=True, slots=True)
class _Built:
    current: Current
    mark: str
    at: float


class Here:
    """build: reads the database; 2,000 endpoints take a quarter of a second, so it is called after changes alone."""

    def __init__(self, build: Callable[[], Snapshot]) -> None:
        self._build = build
        self._built: _Built | None = None
        self._building = threading.Lock()
        self._lost_at = float("-inf")

    def asks_redis(self) -> bool:
        """Whether Redis is worth a try: it may hang, and each try would take half a second of a poll."""
        return time.monotonic() - self._lost_at >= RETRY_S

    def lost_redis(self) -> bool:
        """It did not answer. Whether that is news."""
        before, self._lost_at = self._lost_at, time.monotonic()
        return self._lost_at - before > _NEWS_S

    def current(self) -> Current:
        """At most changes.LOOK_S behind the database. Raises what `build` raises."""
        with self._building:
            last = self._built
            if last is None or not self._holds(last):
                mark, began = changes.mark(), time.monotonic()
                last = self._built = _Built(Current.of(self._build()), mark, began)
            return last.current

    def _holds(self, last: _Built) -> bool:
        # What changes by itself is read as often as with Redis. A look that is older than what was built says nothing.
        if time.monotonic() - last.at > CURRENT_S:
            return False
        return last.mark == changes.recent_mark() or last.mark == changes.mark()
