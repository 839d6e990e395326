"""The agent's third thread: reads what Envoy counted, every 5 s, and tells the control plane what is new in it.

Nothing is told twice and nothing is negative, whoever was started anew. Lost are the last seconds of an Envoy that
was killed, and what an adopted Envoy counted while it had no agent.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from gateway import meters
from gateway.admin import Admin, AdminError
from gateway.control import ControlAway, Nonsense, Teller
from gateway.figures import Bins, EndpointFigures, Told, add
from gateway.meters import Totals
from gateway.process import EnvoyProcess

TELL_S = 5.0
KEPT_S = 3600.0  # how much is added up for a control plane that is away
_BEHIND_S = 0.2  # after the slot's end
_LEAST_S = 0.25  # less than that is told with what follows
_ALARMING = 3  # readings that failed one after the other

log = logging.getLogger("gateway")
Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at what an Envoy has counted.

    envoy   which one
    fresh   it was started by this agent, so that all it has counted belongs to the time since
    at      seconds of a steady clock
    """

    envoy: Hashable
    fresh: bool
    totals: Totals
    at: float


_NOTHING = Totals({}, {}, {}, {})


class Tally:
    """What is to be told, from readings. No clock and no I/O.

    What was told and perhaps not heard stays as it is, under its number, until it is known to be heard; what comes
    meanwhile is added up beside it. Snapshots (`waiting`, `in_flight`) are always the newest reading's.
    """

    def __init__(self, gateway_id: str, began: float, number: int) -> None:
        """began: from when on a fresh Envoy's counts are new. number: of the first push."""
        self._gateway_id = gateway_id
        self._number = number
        self._last = Reading(None, fresh=True, totals=_NOTHING, at=began)
        self._since = began
        self._new: dict[str, EndpointFigures] = {}
        self._told: tuple[float, dict[str, EndpointFigures]] | None = None
        self._now: dict[str, EndpointFigures] = {}

    def take(self, reading: Reading) -> None:
        """Readings come in the order of their times."""
        before = self._last
        self._last = reading
        if reading.envoy != before.envoy and not reading.fresh:
            if not self._new:
                self._since = reading.at
            self._now = _snapshot(reading.totals, {}, 0)
            return
        if reading.at - self._since > KEPT_S:
            log.warning("the control plane is away for too long: figures of %.0f s are dropped", KEPT_S)
            self._new, self._since = {}, before.at
        base = before.totals if reading.envoy == before.envoy else _NOTHING
        for name, found in _ended(reading.totals, base).items():
            self._new[name] = add((self._new[name], found)) if name in self._new else found
        looks = max(reading.at - before.at, meters.LOOK_S) / meters.LOOK_S
        self._now = _snapshot(reading.totals, _more(reading.totals.waiting, base.waiting), looks)

    def told(self) -> Told | None:
        """The push to make after the newest reading; None: too little time for one."""
        if self._told is None:
            seconds = self._last.at - self._since
            if seconds < _LEAST_S:
                return None
            self._told = seconds, self._new
            self._new, self._since = {}, self._last.at
        seconds, ended = self._told
        names = ended.keys() | self._now.keys()
        nothing = EndpointFigures()
        both = {name: (ended.get(name, nothing), self._now.get(name, nothing)) for name in names}
        endpoints = {
            name: replace(old, waiting=now.waiting, in_flight=now.in_flight)
            for name, (old, now) in both.items()
        }
        return Told(self._gateway_id, self._number, seconds, endpoints)

    def heard(self) -> None:
        """What `told` returned needs not be told again."""
        self._told = None
        self._number += 1


def _more(now: Mapping[Key, Bins], before: Mapping[Key, Bins]) -> dict[Key, Bins]:
    """What each histogram has more than it had. One that has less of anything has begun anew meanwhile."""
    found: dict[Key, Bins] = {}
    for key, bins in now.items():
        old = before.get(key, {})
        if any(bins.get(number, 0) < count for number, count in old.items()):
            old = {}
        more = {number: count - old.get(number, 0) for number, count in bins.items()}
        if any(more.values()):
            found[key] = {number: count for number, count in more.items() if count}
    return found


def _ended(now: Totals, before: Totals) -> dict[str, EndpointFigures]:
    found: dict[str, EndpointFigures] = {}
    for (name, status), bins in _more(now.duration, before.duration).items():
        item = EndpointFigures({_class_of(status): int(sum(bins.values()))}, duration=bins)
        found[name] = add((found[name], item)) if name in found else item
    for name, bins in _more(now.first_byte, before.first_byte).items():
        found[name] = replace(found.get(name, EndpointFigures()), first_byte=bins)
    return found


def _class_of(status: int) -> str:
    """Of gateway.figures.CLASSES. A WebSocket that was granted (101) has succeeded."""
    if status == 101:
        return "2xx"
    return f"{status // 100}xx" if 200 <= status < 600 else "other"


def _snapshot(totals: Totals, waited: Mapping[str, Bins], looks: float) -> dict[str, EndpointFigures]:
    """looks: how often Envoy has looked meanwhile at a request that waited all the time; it counts once."""
    return {
        name: EndpointFigures(
            waiting={number: count / looks for number, count in waited.get(name, {}).items()},
            in_flight=totals.in_flight.get(name, 0),
        )
        for name in totals.in_flight.keys() | waited.keys()
    }


# --- the thread -------------------------------------------------------------------------------------------


def read(admin: Admin) -> Totals:
    """What the Envoy behind `admin` has counted. Raises AdminError."""
    gauges, histograms = (admin.request("GET", target) for target in (meters.GAUGES, meters.HISTOGRAMS))
    try:
        return meters.parse(json.loads(gauges), json.loads(histograms))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdminError(f"no statistics: {error!r}") from error


class Counting(threading.Thread):
    """Of its own: a slow control plane delays no poll, a slow poll no reading."""

    def __init__(self, gateway_id: str, envoy: EnvoyProcess, teller: Teller, every_s: float = TELL_S) -> None:
        super().__init__(name="counting", daemon=True)
        self._gateway_id = gateway_id
        self._envoy = envoy
        self._teller = teller
        self._every_s = every_s
        self._failures = 0

    def run(self) -> None:
        tally = Tally(self._gateway_id, time.monotonic(), secrets.randbits(48))
        while True:
            reading = self._read()
            if reading is not None:
                tally.take(reading)
                self._tell(tally)
            # By the clock on the wall: all gateways tell when a slot of the metrics is over, and not in its middle.
            time.sleep(self._every_s - (time.time() - _BEHIND_S) % self._every_s)

    def _read(self) -> Reading | None:
        # Another Envoy can answer only after it was noted as running: if none was, both answers are this one's.
        running, fresh = self._envoy.running, self._envoy.is_child
        if running is None:
            return None
        try:
            totals = read(self._envoy.admin)
        except AdminError as error:
            self._failures += 1
            if self._failures == _ALARMING:
                log.warning("Envoy's figures cannot be read: %s", error)
            return None
        self._failures = 0
        if self._envoy.running != running:
            return None
        return Reading(running, fresh, totals, time.monotonic())

    def _tell(self, tally: Tally) -> None:
        told = tally.told()
        if told is None:
            return
        try:
            self._teller.tell(told)
        except ControlAway:
            return  # the poller says so
        except Nonsense as problem:
            log.error("the control plane does not take figures, %.0f s are lost: %s", told.seconds, problem)
        tally.heard()
