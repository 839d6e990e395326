"""What the autoscaler decided and how things stand now, as pages and the API show it. Reads, never writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from endpoints.autoscaling.ledger import decisions_of
from endpoints.autoscaling.policy import Blocker, Metric
from endpoints.errors import describe
from endpoints.estimates import about
from endpoints.models import Decision, Endpoint, ScaleState

try:
    from endpoints.autoscaling import words
except ImportError:  # not there yet
    words = None  # type: ignore[assignment]

PAGE = 25
# It looks every five seconds and writes down an unchanged finding every thirty; so long without one is worth a word.
STALE = timedelta(seconds=60)
# Without and with the number that it leads to.
_WAITS: dict[str, tuple[Promise, Promise]] = {
    Blocker.STABILISING: (
        _("Grows in %(time)s if it stays so."),
        _("Grows to %(count)s in %(time)s if it stays so."),
    ),
    Blocker.COOLING_DOWN: (
        _("Shrinks in %(time)s if it stays so."),
        _("Shrinks to %(count)s in %(time)s if it stays so."),
    ),
    Blocker.IDLING: (
        _("Falls asleep in %(time)s if no request comes."),
        _("Falls asleep in %(time)s if no request comes."),
    ),
}
# Name, and unit after a non-breaking space.
_METRICS: dict[str, tuple[Promise, str]] = {
    Metric.CPU: (_("CPU, mean of the replicas"), "\u00a0%"),
    Metric.MEMORY: (_("RAM, mean of the replicas"), "\u00a0%"),
    Metric.GPU: (_("GPU utilisation, mean of the replicas"), "\u00a0%"),
    Metric.LATENCY: (_("Time to first byte, p95"), "\u00a0ms"),
    Metric.IN_FLIGHT: (_("Requests in flight, per replica"), ""),
}


@dataclass(frozen=True, slots=True)
class Input:
    """What one metric said at a decision.

    target, count   its threshold, and how many replicas it asked for by itself; None where that is not known
    """

    metric: str
    value: float | None
    target: float | None
    count: int | None

    @property
    def name(self) -> str:
        """In words."""
        return str(_METRICS[self.metric][0]) if self.metric in _METRICS else self.metric

    @property
    def unit(self) -> str:
        """With the space before it."""
        return _METRICS[self.metric][1] if self.metric in _METRICS else ""


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision in words. more: what its blocker has to say besides, "" if nothing."""

    row: Decision
    said: str
    inputs: tuple[Input, ...]
    more: str = ""

    @property
    def change(self) -> int:
        """-1 fewer, 0 the same number, 1 more: for the eye."""
        return (self.row.after > self.row.before) - (self.row.after < self.row.before)


@dataclass(frozen=True, slots=True)
class Present:
    """How an endpoint's scaling stands.

    said      the last finding in words, "" before the first one
    rule, blocker   of that finding, as stable codes
    left_s    what is left of the wait that the finding speaks of, None if it speaks of none
    target    how many there will be after that wait, None if it is not known
    stale_s   for how long nobody has looked, None if somebody has just now
    fixed     nothing can change the number: min and max are equal
    """

    wanted: int
    ready: int
    low: int
    high: int
    said: str = ""
    rule: str = ""
    blocker: str = ""
    left_s: int | None = None
    target: int | None = None
    inputs: tuple[Input, ...] = ()
    more: str = ""
    checked_at: datetime | None = None
    stale_s: int | None = None
    fixed: bool = False

    @property
    def wait(self) -> str:
        """What happens when nothing changes, and in how long; "" if nothing will."""
        if self.left_s is None or self.blocker not in _WAITS:
            return ""
        alone, to = _WAITS[self.blocker]
        words = alone if self.target is None else to
        return str(words) % {"time": about(self.left_s), "count": self.target}

    @property
    def stale(self) -> str:
        """For how long nobody has looked, in words; "" if somebody has."""
        return "" if self.stale_s is None else about(self.stale_s)


def sentence(row: Decision) -> str:
    """The decision in one line."""
    return _said(row.rule, row.blocker, row.before, row.after, row.params)


def _said(rule: str, blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    if words is None:
        return f"{rule} {blocker}: {before} → {after}"
    return words.sentence(rule, blocker, before, after, params)


def page_of(endpoint: Endpoint, before: int | None = None) -> tuple[list[Entry], int | None]:
    """Some decisions, newest first, older ones than the one with the id `before`; and the id to go on with, None at
    the end. Two queries at most."""
    rows = decisions_of(endpoint)
    if before is not None:
        first = endpoint.decisions.filter(pk=before).values_list("at", flat=True).first()
        rows = rows.filter(Q(at__lt=first) | Q(at=first, pk__lt=before) if first else Q(pk__lt=before))
    found = list(rows[: PAGE + 1])
    entries = [Entry(row, sentence(row), _inputs(row.inputs), _more(row.params)) for row in found[:PAGE]]
    return entries, entries[-1].row.pk if len(found) > PAGE else None


def present(endpoint: Endpoint, now: datetime) -> Present:
    """One query."""
    state = ScaleState.objects.filter(endpoint=endpoint).first()
    plain = Present(
        endpoint.wanted_replicas,
        endpoint.ready_replicas,
        endpoint.min_replicas,
        endpoint.max_replicas,
        fixed=endpoint.min_replicas == endpoint.max_replicas,
    )
    if state is None or state.checked_at is None or endpoint.paused_at or endpoint.deleting_at:
        return plain
    return _with_finding(plain, state.finding, state.checked_at, now)


def _with_finding(plain: Present, finding: Mapping[str, Any], checked_at: datetime, now: datetime) -> Present:
    age = now - checked_at
    params = finding.get("params") or {}
    rule, blocker = str(finding.get("rule", "")), str(finding.get("blocker", ""))
    left = params.get("left_s")
    # The wait goes on between two looks, and no further when nobody looks.
    passed = min(max(age, timedelta()), STALE).total_seconds()
    before, after = finding.get("before", plain.wanted), finding.get("after", plain.wanted)
    return Present(
        plain.wanted,
        plain.ready,
        plain.low,
        plain.high,
        _said(rule, blocker, before, after, params) if rule else "",
        rule,
        blocker,
        max(0, math.ceil(left - passed)) if isinstance(left, int | float) else None,
        _target(blocker, params),
        _inputs(finding.get("inputs") or {}),
        _more(params),
        checked_at,
        int(age.total_seconds()) if age > STALE else None,
        plain.fixed,
    )


def _target(blocker: str, params: Mapping[str, Any]) -> int | None:
    if blocker == Blocker.IDLING:
        return 0
    count = params.get("count")
    return int(count) if isinstance(count, int | float) else None


def _more(params: Mapping[str, Any]) -> str:
    """Why there is no room, where that is what kept it."""
    shortage = params.get("shortage")
    return describe("no_capacity", shortage).message if isinstance(shortage, Mapping) else ""


def _inputs(inputs: Mapping[str, Any]) -> tuple[Input, ...]:
    """Rows of another age, or of nobody's making, are shown as far as they go."""
    found = []
    for metric, figures in inputs.items():
        given = figures if isinstance(figures, Mapping) else {"value": figures}
        value, target, count = (_figure(given.get(name)) for name in ("value", "target", "count"))
        found.append(Input(str(metric), value, target, None if count is None else int(count)))
    return tuple(found)


def _figure(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None
