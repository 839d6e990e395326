"""One look of the autoscaler at every endpoint: what was measured → the policy → what there is room for → the ledger.

What the policy remembers of an endpoint lives in this object and is written down when its finding changes, and every
half minute otherwise: whoever takes over knows all but the last seconds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from django.db import IntegrityError, transaction

from endpoints import placement, services
from endpoints.autoscaling import ledger
from endpoints.autoscaling.observing import limits_of, seen
from endpoints.autoscaling.policy import Blocker, Memory, Seen, Verdict, decide
from endpoints.metrics.sample import FINEST, Sample
from endpoints.models import Endpoint, InstanceType, ScaleState

log = logging.getLogger(__name__)
WRITTEN_EVERY_S = 30


class _Fits:
    """What there is room for, asked once for all endpoints of a look that want the same in the same place: where
    nothing is left, many of them ask at every look."""

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str], placement.Rooms] = {}
        self._known: dict[tuple[str, str, str, int], tuple[int, dict[str, Any]]] = {}

    def of(self, endpoint: Endpoint, size: InstanceType, asked: int) -> tuple[int, dict[str, Any]]:
        """How many of `asked` more replicas fit, and why not one more: the params of "no_capacity"."""
        place = endpoint.region_id, endpoint.project_id
        key = (*place, size.pk, asked)
        if key not in self._known:
            if place not in self._rooms:
                self._rooms[place] = placement.Rooms(endpoint.region_id, project_id=endpoint.project_id)
            self._known[key] = _fitting(self._rooms[place], size, asked)
        return self._known[key]


def _fitting(rooms: placement.Rooms, size: InstanceType, asked: int) -> tuple[int, dict[str, Any]]:
    refused: placement.NoRoom | None = None
    for count in range(asked, 0, -1):
        missing = rooms.room_for(size, count=count)
        if missing is None:
            return count, dict(refused.params) if refused else {}
        refused = missing
    return 0, dict(refused.params) if refused else {}


@dataclass(slots=True)
class _Known:
    """Of one endpoint. key: what of its last finding a page shows in words."""

    memory: Memory = field(default_factory=Memory)
    told: Mapping[str, Any] = field(default_factory=dict)
    key: tuple[object, ...] = ()
    written_at: float = 0.0


class Autoscaler:
    """Keeps what is remembered of every endpoint between two looks."""

    def __init__(self) -> None:
        self._known: dict[str, _Known] = {}
        self._fits = _Fits()

    def look(
        self,
        endpoints: Iterable[Endpoint],
        samples: Mapping[str, Sample],
        complete: bool,
        held: Collection[str],
    ) -> list[str]:
        """Decide for each endpoint that has a sample of the slot just over; answers whose number was changed.

        endpoints   with revision and instance type
        complete    whether every gateway told its figures; else what they did not tell is not known
        held        ids of endpoints for which requests wait for a replica
        """
        present = {item.id: item for item in endpoints if item.id in samples}
        self._load(present.keys())
        self._fits = _Fits()
        changed, written = [], []
        for endpoint_id, endpoint in present.items():
            sample = samples[endpoint_id] if complete else replace(samples[endpoint_id], seconds=0.0)
            try:
                state, scaled = self._one(endpoint, sample, endpoint_id in held)
            except IntegrityError:
                log.info("%s was deleted while it was looked at", endpoint_id)
                continue
            if scaled:
                changed.append(endpoint_id)
            if state is not None:
                written.append(state)
        _save(written)
        return changed

    def _load(self, endpoint_ids: Collection[str]) -> None:
        self._known = {key: known for key, known in self._known.items() if key in endpoint_ids}
        missing = [key for key in endpoint_ids if key not in self._known]
        if not missing:
            return
        saved = {row.endpoint_id: row for row in ScaleState.objects.all()}
        for key in missing:
            row = saved.get(key)
            self._known[key] = _Known(
                Memory.unpack(row.memory) if row else Memory(),
                row.finding.get("told", {}) if row else {},
            )

    def _one(self, endpoint: Endpoint, sample: Sample, is_held: bool) -> tuple[ScaleState | None, bool]:
        known = self._known[endpoint.id]
        if not _is_decidable(endpoint):
            return None, False
        wanted = endpoint.wanted_replicas
        view = _with_held(seen(sample, wanted, FINEST), is_held)
        verdict, known.memory = decide(limits_of(endpoint), view, known.memory)
        more: dict[str, Any] = {}
        if verdict.wanted > wanted:
            verdict, more = self._that_fits(endpoint, verdict, wanted)
        now = datetime.fromtimestamp(sample.at + FINEST, UTC)
        scaled = verdict.wanted != wanted
        if ledger.is_news(verdict, wanted, known.told, now):
            with transaction.atomic():
                if scaled and not services.scale(endpoint, verdict.wanted):
                    return None, False  # somebody has just changed it: the next look sees what it is now
                known.told = ledger.record(endpoint, verdict, wanted, known.told, now, more)
        if scaled:
            log.info("%s: %s -> %s (%s)", endpoint.id, wanted, verdict.wanted, verdict.rule)
        return self._state(endpoint, known, verdict, wanted, more, now), scaled

    def _that_fits(self, endpoint: Endpoint, verdict: Verdict, wanted: int) -> tuple[Verdict, dict[str, Any]]:
        """The verdict, cut down to what there is room for, and why in words' parameters."""
        assert endpoint.revision is not None
        asked = verdict.wanted - wanted
        count, shortage = self._fits.of(endpoint, endpoint.revision.instance_type, asked)
        if count == asked:
            return verdict, {}
        short = replace(verdict, wanted=wanted + count, blocker=Blocker.NO_CAPACITY)
        return short, {"count": verdict.wanted, "shortage": shortage}

    def _state(
        self,
        endpoint: Endpoint,
        known: _Known,
        verdict: Verdict,
        before: int,
        more: Mapping[str, Any],
        now: datetime,
    ) -> ScaleState | None:
        key = (verdict.rule, verdict.blocker, verdict.metric, before, verdict.wanted)
        age = now.timestamp() - known.written_at
        if key == known.key and 0 <= age < WRITTEN_EVERY_S:
            return None
        known.key, known.written_at = key, now.timestamp()
        finding = ledger.finding(verdict, before, known.told, more)
        return ScaleState(endpoint=endpoint, memory=known.memory.pack(), finding=finding, checked_at=now)


def _is_decidable(endpoint: Endpoint) -> bool:
    """Not before it served for the first time: until then nothing that is measured says anything about it."""
    stopped = endpoint.paused_at or endpoint.deleting_at
    return not stopped and endpoint.stable_revision_id is not None and endpoint.revision is not None


def _with_held(view: Seen, is_held: bool) -> Seen:
    return replace(view, active=True) if is_held else view


def _save(states: list[ScaleState]) -> None:
    try:
        _write(states)
    except IntegrityError:
        # Some were deleted while they were looked at: that is no reason to lose the others.
        ids = [state.endpoint_id for state in states]
        there = set(Endpoint.objects.filter(pk__in=ids).values_list("pk", flat=True))
        _write([state for state in states if state.endpoint_id in there])


def _write(states: list[ScaleState]) -> None:
    if states:
        ScaleState.objects.bulk_create(
            states,
            update_conflicts=True,
            unique_fields=["endpoint"],
            update_fields=["memory", "finding", "checked_at"],
        )
