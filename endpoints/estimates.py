"""What is left of a deployment and what hangs in it, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil

from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from endpoints.models import PhaseName
from endpoints.phase_times import Eta, PhaseFacts, Stall, estimate, stall

# What a person can look at when a phase stands still, and whether the replica has a log that tells more.
_ADVICE = {
    PhaseName.PULLING: gettext_lazy(
        "The registry or the line to it is slow today, or the engine's disk is: the bytes above tell which."
    ),
    PhaseName.CREATING: gettext_lazy(
        "The engine takes its time: look at its own log, its disk and its load."
    ),
    PhaseName.STARTING: gettext_lazy(
        "The engine takes its time: look at its own log, its disk and its load."
    ),
    PhaseName.LOADING: gettext_lazy("The replica's log tells what it is doing."),
    PhaseName.HEALTH_CHECK: gettext_lazy("It answered its health path and does so no more: see its log."),
    PhaseName.ROUTING: gettext_lazy(
        "It is ready, but not every gateway has taken its route yet: see whether the gateways run."
    ),
}
_SILENT = gettext_lazy(
    "No byte has come from the registry for a while. It is tried again by itself; see whether the registry answers."
)
_STEPS = ((10, 1), (60, 5), (180, 10), (3600, 60))
_WITH_LOG = (PhaseName.LOADING, PhaseName.HEALTH_CHECK)


@dataclass(frozen=True, slots=True)
class Alarm:
    """A phase that stands still. usual: seconds, None if nobody knows; since: its beginning or its last byte."""

    name: str
    label: str
    since: datetime
    usual: float | None
    advice: str
    with_log: bool


@dataclass(frozen=True, slots=True)
class Outlook:
    """How it will go on, as far as anybody knows."""

    eta: Eta | None = None
    alarm: Alarm | None = None

    @property
    def words(self) -> str:
        """ "about 40 s left", "longer than usual"; "" where nothing is known."""
        return "" if self.eta is None else left_in_words(self.eta)


def outlook(phases: Sequence[PhaseFacts], usual: Mapping[str, float], now: datetime) -> Outlook:
    """Of a replica's phases."""
    found = stall(phases, usual, now)
    return Outlook(estimate(phases, usual, now), _alarm(found) if found else None)


def _alarm(found: Stall) -> Alarm:
    name = PhaseName(found.phase)
    silent = name == PhaseName.PULLING and found.usual is None
    return Alarm(
        name=name,
        label=str(name.label),
        since=found.since,
        usual=found.usual,
        advice=str(_SILENT if silent else _ADVICE[name]),
        with_log=name in _WITH_LOG,
    )


def left_in_words(eta: Eta) -> str:
    """As static/js/berth.js says it while the clock ticks."""
    if eta.late:
        return _("longer than usual")
    if eta.at is None:
        return _("then about %s") % about(eta.seconds_left)
    if eta.seconds_left < 3:
        return _("a few seconds left")
    return _("about %s left") % about(eta.seconds_left)


def about(seconds: float) -> str:
    """Rounded up to what an estimate can promise: to 5 s up to a minute, to 10 s up to three, then to minutes."""
    step = next((step for limit, step in _STEPS if seconds <= limit), 300)
    whole = ceil(seconds / step) * step
    minutes, rest = divmod(whole, 60)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
