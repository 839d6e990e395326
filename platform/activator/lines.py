"""Who waits for which endpoint, in order of arrival, within bounds, and what the control plane said of it last."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

# A word of the control plane is acted on for that long after it was asked for: it keeps an address from being given
# to anybody else for longer than that (gateway.activators.GIVEN_S).
LEASE_S = 2.0
SPARED_S = 1.0  # an address that refused a connection
RETRY_MAX_S = 60
_LOST_KEPT = 1000

Address = tuple[str, int]


class Waiting(Protocol):
    """One request that waits."""

    def stir(self) -> None:
        """Look again: something has changed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """each, total: requests that may wait for one endpoint, and altogether. size: bytes kept of all of them.
    hold_s: how long one may wait."""

    each: int = 1000
    total: int = 5000
    size: int = 64 * 1024 * 1024
    hold_s: float = 300.0


@dataclass(frozen=True, slots=True)
class Word:
    """What the control plane said of an endpoint.

    state     "ready", "waking", "failed" or "gone"
    replicas  where it may be sent to
    at_once   to how many requests of ours at the same time, None: to any number
    phase     what happens now, in words
    eta_s     how long that and what follows will take, None if nobody knows
    status, code, message, retry_after_s   as in the gateway's 503
    """

    asked_at: float
    state: str
    replicas: tuple[Address, ...] = ()
    phase: str = ""
    eta_s: float | None = None
    status: str = ""
    code: str = ""
    message: str = ""
    retry_after_s: float | None = None
    at_once: int | None = None

    @classmethod
    def of(cls, data: Mapping[str, Any], asked_at: float) -> Word:
        """From the control plane's JSON. Raises ValueError, KeyError or TypeError."""
        eta, after, at_once = data.get("eta_s"), data.get("retry_after_s"), data.get("at_once")
        return cls(
            asked_at,
            str(data["state"]),
            tuple((str(host), int(port)) for host, port in data.get("replicas", ())),
            str(data.get("phase", "")),
            None if eta is None else float(eta),
            str(data.get("status", "")),
            str(data.get("code", "")),
            str(data.get("message", "")),
            None if after is None else float(after),
            None if at_once is None else int(at_once),
        )

    @property
    def is_final(self) -> bool:
        """It won't be ready, whoever waits."""
        return self.state in ("failed", "gone")


@dataclass(slots=True)
class Line:
    """Those who wait for one endpoint. since: when the first of them came."""

    endpoint_id: str
    since: float
    word: Word | None = None
    _waiting: OrderedDict[Waiting, float] = field(default_factory=OrderedDict)
    _spared: dict[Address, float] = field(default_factory=dict)
    _turn: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(tuple(self._waiting))

    def add(self, who: Waiting, now: float) -> None:
        """At its end."""
        self._waiting[who] = now

    def remove(self, who: Waiting) -> None:
        """The next one's turn, if it was the first. Who does not wait is no matter."""
        was_first = self.is_first(who)
        self._waiting.pop(who, None)
        if was_first and self._waiting:
            next(iter(self._waiting)).stir()

    def is_first(self, who: Waiting) -> bool:
        """Whether nobody came earlier."""
        return next(iter(self._waiting), None) is who

    def oldest_s(self, now: float) -> float:
        """How long the first of them has waited."""
        return now - next(iter(self._waiting.values()), now)

    def address(self, now: float) -> Address | None:
        """Where the next request may be sent, in turn; None while there is nothing, or the word is too old."""
        word = self.word
        if word is None or word.state != "ready" or now - word.asked_at > LEASE_S:
            return None
        ready = [one for one in word.replicas if self._spared.get(one, 0.0) <= now]
        if not ready:
            return None
        self._turn += 1
        return ready[self._turn % len(ready)]

    def spare(self, address: Address, now: float) -> None:
        """It refused a connection: leave it alone for a moment."""
        self._spared[address] = now + SPARED_S

    def retry_after(self, now: float) -> int:
        """Seconds after which another try may help: what the wake still takes, or once more what it has taken."""
        eta = self.word.eta_s if self.word is not None else None
        guess = now - self.since if eta is None else eta - (now - (self.word.asked_at if self.word else now))
        return max(1, min(RETRY_MAX_S, math.ceil(guess)))


class Lines:
    """All of them, and the addresses to which connections are open.

    arrived      called when somebody begins to wait for an endpoint that nobody waited for
    is_closing   nobody may wait any more
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.arrived: Callable[[], None] = _nothing
        self.is_closing = False
        self.open: Counter[str] = Counter()  # "host:port" → connections, those being made included
        self.passing: Counter[str] = Counter()  # endpoint → requests that were let through and have not ended
        self._lines: dict[str, Line] = {}
        self._count = self._size = 0
        self._lost: OrderedDict[str, None] = OrderedDict()

    def __iter__(self) -> Iterator[Line]:
        return iter(tuple(self._lines.values()))

    def has_room(self, endpoint_id: str, size: int) -> bool:
        """Whether one more may wait, of whom that many bytes are kept."""
        line = self._lines.get(endpoint_id)
        return (
            self._count < self.limits.total
            and (line is None or len(line) < self.limits.each)
            and self._size + size <= self.limits.size
        )

    def enter(self, endpoint_id: str, who: Waiting, now: float) -> Line:
        """To the end of its line."""
        line = self._lines.get(endpoint_id)
        if line is None:
            line = self._lines[endpoint_id] = Line(endpoint_id, now)
            self.arrived()
        line.add(who, now)
        self._count += 1
        return line

    def leave(self, line: Line, who: Waiting) -> None:
        """Out of its line, once."""
        before = len(line)
        line.remove(who)
        self._count -= before - len(line)
        if not line and self._lines.get(line.endpoint_id) is line:
            del self._lines[line.endpoint_id]  # what was said of it goes with it: nobody keeps it up to date

    def line(self, endpoint_id: str) -> Line | None:
        """Of an endpoint, None if nobody waits for it."""
        return self._lines.get(endpoint_id)

    def is_full(self, line: Line) -> bool:
        """Whether the endpoint has as many requests of ours as it may have at once."""
        limit = line.word.at_once if line.word is not None else None
        return limit is not None and self.passing[line.endpoint_id] >= limit

    def begin(self, endpoint_id: str) -> None:
        """One of its requests is let through."""
        self.passing[endpoint_id] += 1

    def end(self, endpoint_id: str) -> None:
        """And has ended: the next one's turn."""
        self.passing[endpoint_id] -= 1
        if self.passing[endpoint_id] <= 0:
            del self.passing[endpoint_id]
        if (line := self._lines.get(endpoint_id)) is not None:
            next(iter(line)).stir()

    def reserve(self, size: int) -> bool:
        """Room for that many bytes more; False: there is none. A negative size gives room back."""
        if size > 0 and self._size + size > self.limits.size:
            return False
        self._size += size
        return True

    def learn(self, words: Mapping[str, Word]) -> None:
        """The control plane's answer."""
        for endpoint_id, word in words.items():
            line = self._lines.get(endpoint_id)
            if line is None:
                continue
            line.word = word
            if word.is_final:
                for one in line:
                    one.stir()
            elif word.state == "ready":
                next(iter(line)).stir()

    def may_try_again(self, request_id: str) -> bool:
        """True for the first time that this request's replica was lost under it, else False."""
        if not request_id or request_id in self._lost:
            return False
        self._lost[request_id] = None
        while len(self._lost) > _LOST_KEPT:
            self._lost.popitem(last=False)
        return True

    def summary(self, now: float) -> dict[str, dict[str, float]]:
        """endpoint → how many wait, the longest for how many seconds, and how many were let through."""
        found: dict[str, dict[str, float]] = {
            line.endpoint_id: {"count": len(line), "oldest_s": round(line.oldest_s(now), 1)} for line in self
        }
        for endpoint_id, count in self.passing.items():
            found.setdefault(endpoint_id, {"count": 0, "oldest_s": 0.0})["passing"] = count
        return found


def _nothing() -> None:
    pass
