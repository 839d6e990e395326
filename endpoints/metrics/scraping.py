"""Asking model servers for their own metrics: many at once, none for long, and the hopeless not in every round.

What answers is a tenant's container. It may be silent, drip one byte a second, send without end, or send us elsewhere:
all of that is no answer, none of it costs more than LIMIT_S and a megabyte, and redirects are not followed. No HTTP
library, which would cost a millisecond a replica.
"""

from __future__ import annotations

import asyncio
import resource
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from endpoints.metrics.page import Target, page_of

Found = TypeVar("Found")

LIMIT_S = 1.0  # of one question
ROUND_S = 3.0  # of all of them: who is left over is asked first in the next round
HUNG_S = 2.0  # of it at most that those cost who do not answer in time
# Each is an open file, and this process has others. Many, because one that hangs keeps its place for LIMIT_S.
AT_ONCE = min(400, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 3)
MOST_BYTES = 1 << 20
# After so many failures in a row, how long a replica is left alone; a server that computes hard may miss one round.
PATIENCE_S = (0.0, 0.0, 10.0, 20.0, 40.0, 60.0)


@dataclass(slots=True)
class _Past:
    """How asking a replica went. asked_at: 0 before the first time."""

    failures: int = 0
    asked_at: float = 0.0
    not_before: float = 0.0


class Scraper(Generic[Found]):
    """Rounds of questions, with what is remembered of those who did not answer well.

    read   (target, page, steady seconds of its arrival) → what the page says, None if it says nothing of use
    """

    def __init__(
        self,
        read: Callable[[Target, bytes, float], Found | None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read = read
        self._clock = clock
        self._past: dict[str, _Past] = {}

    def ask(self, targets: Iterable[Target]) -> dict[str, Found]:
        """By name, what those said who were asked and answered. Takes ROUND_S at most, and of that HUNG_S for
        those that hang."""
        asked = {target.name: target for target in targets}
        self._past = {name: self._past.get(name) or _Past() for name in asked}
        now = self._clock()
        due = [target for target in asked.values() if self._past[target.name].not_before <= now]
        # Who failed lately goes last, so that it takes no time from the others.
        due.sort(key=lambda item: (self._past[item.name].failures, self._past[item.name].asked_at))
        return asyncio.run(self._ask(due)) if due else {}

    async def _ask(self, due: Sequence[Target]) -> dict[str, Found]:
        waiting = iter(due)
        found: dict[str, Found] = {}
        patience = HUNG_S * AT_ONCE  # they wait side by side

        async def ask_on() -> None:
            nonlocal patience
            for target in waiting:
                past = self._past[target.name]
                past.asked_at = self._clock()
                page = await page_of(target, LIMIT_S, MOST_BYTES)
                said = None if page is None else self._read(target, page, self._clock())
                if said is not None:
                    past.failures = 0
                    found[target.name] = said
                    continue
                past.failures += 1
                past.not_before = self._clock() + PATIENCE_S[min(past.failures, len(PATIENCE_S) - 1)]
                patience -= LIMIT_S if page is None and self._clock() - past.asked_at >= LIMIT_S else 0
                if patience <= 0:
                    return

        workers = [asyncio.create_task(ask_on()) for _ in range(min(AT_ONCE, len(due)))]
        done, late = await asyncio.wait(workers, timeout=ROUND_S)
        for worker in late:
            worker.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        for worker in done:
            worker.result()  # a mistake of ours must not pass for silence
        return found
