"""What the autoscaler decided and how things stand now, as pages and the API show it. Reads, never writes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q

from endpoints.autoscaling import words
from endpoints.autoscaling.ledger import decisions_of
from endpoints.errors import describe
from endpoints.models import Decision, Endpoint, ScaleState

PAGE = 25
# It looks every five seconds and writes down an unchanged finding every thirty; so long without one is worth a word.
STALE = timedelta(seconds=60)


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
        return words.title(self.metric)

    @property
    def measured(self) -> str:
        """With its unit; "" where it is not known."""
        return "" if self.value is None else words.quantity(self.metric, self.value)

    @property
    def threshold(self) -> str:
        """With its unit; "" where it is not known."""
        return "" if self.target is None else words.quantity(self.metric, self.target)


@dataclass(frozen=True, slots=True)
class Entry:
    """One decision in words."""

    row: Decision
    said: str
    inputs: tuple[Input, ...]

    @property
    def change(self) -> int:
        """-1 fewer, 0 the same number, 1 more: for the eye."""
        return (self.row.after > self.row.before) - (self.row.after < self.row.before)


@dataclass(frozen=True, slots=True)
class Present:
    """How an endpoint's scaling stands.

    said      the last finding in words, with what is left of a wait by now; "" before the first one
    inputs    what was measured for it
    stale     for how long nobody has looked, in words; "" if somebody has just now
    fixed     nothing can change the number: min and max are equal
    """

    wanted: int
    ready: int
    low: int
    high: int
    said: str = ""
    inputs: tuple[Input, ...] = ()
    stale: str = ""
    fixed: bool = False


def sentence(row: Decision) -> str:
    """The decision in one line."""
    return _said(row.rule, row.blocker, row.before, row.after, row.params)


def _said(rule: str, blocker: str, before: int, after: int, params: Mapping[str, Any]) -> str:
    shortage = params.get("shortage")
    if isinstance(shortage, Mapping):  # why there is no room
        params = {**params, "reason": describe("no_capacity", shortage).message}
    return words.sentence(rule, blocker, before, after, params)


def page_of(endpoint: Endpoint, before: int | None = None) -> tuple[list[Entry], int | None]:
    """Some decisions, newest first, older ones than the one with the id `before`; and the id to go on with, None at
    the end. Where there is none of that id, the nearest smaller one is the first. Two queries at most."""
    rows = decisions_of(endpoint)
    if before is not None:
        mine = endpoint.decisions.filter(pk__lte=before).order_by("-pk").values_list("pk", "at").first()
        if mine is None:
            return [], None
        first, at = mine
        older = Q(at__lt=at) | Q(at=at, pk__lt=first)
        rows = rows.filter(older if first == before else older | Q(pk=first))
    found = list(rows[: PAGE + 1])
    entries = [Entry(row, sentence(row), _inputs(row.inputs)) for row in found[:PAGE]]
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
    rule, blocker = str(finding.get("rule", "")), str(finding.get("blocker", ""))
    before, after = finding.get("before", plain.wanted), finding.get("after", plain.wanted)
    params = _by_now(finding.get("params") or {}, age)
    return replace(
        plain,
        said=_said(rule, blocker, before, after, params) if rule else "",
        inputs=_inputs(finding.get("inputs") or {}),
        stale=words.span(age.total_seconds()) if age > STALE else "",
    )


def _by_now(params: Mapping[str, Any], age: timedelta) -> Mapping[str, Any]:
    """A wait goes on between two looks, and no further when nobody looks."""
    left = params.get("left_s")
    if not isinstance(left, int | float):
        return params
    passed = min(max(age, timedelta()), STALE).total_seconds()
    changed = {"left_s": max(0.0, left - passed)}
    if isinstance(params.get("seconds"), int | float):
        changed["seconds"] = params["seconds"] + passed
    return {**params, **changed}


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
