"""How long a deployment's phases usually take, when this one will be over, and which phase hangs.

What is kept is the newest durations of each phase for an image, a model and an instance type; their median is the
usual time. Deciding is pure and takes `now`: `estimate` and `stall`.

A phase that went wrong on its way says nothing about the usual time: only replicas that got their traffic are
recorded, and of them no phase that had to be begun twice (`DeployPhase.tries`). Waiting for room is nobody's usual
time, so `queued` and `scheduling` are neither recorded nor estimated. Where the image was there already, there is no
pull and nothing is recorded for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import median
from typing import Protocol
from uuid import UUID

from django.utils import timezone

from endpoints.models import PhaseName, PhaseTimes, Replica, Revision
from endpoints.specs import image_for
from registry.frameworks import DefinitionError

# The phases whose time says something, in order.
PULL_MOST_S = 365 * 86_400.0  # a byte a second would end in a year that no calendar has
TIMED = (
    PhaseName.PULLING,
    PhaseName.CREATING,
    PhaseName.STARTING,
    PhaseName.LOADING,
    PhaseName.HEALTH_CHECK,
    PhaseName.ROUTING,
)
# A phase is late this long after its usual time, in parts of it and at least in seconds…
LATE_PART, LATE_S = 0.25, 2.0
# …and stands still after this many times its usual time, and at least so many seconds more.
STALL_TIMES, STALL_S = 3.0, 10.0
# A pull whose bytes have not moved for so long has no pace; after the second it stands still, whatever is usual.
PACE_S, SILENCE_S = 5.0, 30.0


class PhaseFacts(Protocol):
    """What is read of a `DeployPhase`."""

    name: str
    started_at: datetime
    finished_at: datetime | None
    bytes_done: int
    bytes_total: int
    bytes_per_s: float
    bytes_moved_at: datetime | None
    layers_waiting: int


@dataclass(frozen=True, slots=True)
class Eta:
    """When the deployment will be over.

    seconds_left   from now; never negative. Without the time that a late phase still takes: nobody knows it
    at             the moment; None while it waits for room, when the clock does not run yet
    late           the phase that takes longer than usual, if one does
    late_at        when the present phase will count as late, so that a page knows without asking again
    """

    seconds_left: float
    at: datetime | None
    late: str | None = None
    late_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """A phase that seems to hang.

    usual   seconds that it usually takes; None where no byte comes in a pull that nobody has done before
    since   when what is missing was last seen: the phase's beginning, or the last byte
    """

    phase: str
    since: datetime
    seconds: float
    usual: float | None


def record(replica_id: str) -> None:
    """Keep how long its phases took. Call it in the transaction in which the replica got routed: four queries."""
    replica = Replica.objects.select_related("revision__model__framework", "revision__instance_type").get(
        pk=replica_id
    )
    key = _key(replica.revision)
    if key is None:
        return
    took = {
        phase.name: (phase.finished_at - phase.started_at).total_seconds()
        for phase in replica.phases.filter(name__in=TIMED, finished_at__isnull=False, tries=1)
        if phase.finished_at is not None and phase.finished_at >= phase.started_at
    }
    image, model, size = key
    rows = PhaseTimes.objects.filter(image=image, model=model, instance_type=size, name__in=took)
    kept = {row.name: row.seconds for row in rows.select_for_update().order_by("name")}
    fresh = [
        PhaseTimes(
            image=image,
            model_id=model,
            instance_type_id=size,
            name=name,
            seconds=[*kept.get(name, []), round(seconds, 3)][-PhaseTimes.KEPT :],
            updated_at=timezone.now(),
        )
        for name, seconds in sorted(took.items())
    ]
    # One statement for new and known rows: two replicas that get ready at the same moment must not fail each other.
    PhaseTimes.objects.bulk_create(
        fresh,
        update_conflicts=True,
        unique_fields=["image", "model", "instance_type", "name"],
        update_fields=["seconds", "updated_at"],
    )


def usual_of(revision: Revision) -> Mapping[str, float]:
    """What is usual for a replica of this revision. One query, if it comes with model, framework and size."""
    key = _key(revision)
    return usual(*key) if key else {}


def usual(image: str, model: UUID, instance_type: str) -> Mapping[str, float]:
    """phase → seconds: the median of the last ones. Empty before the first deployment."""
    rows = PhaseTimes.objects.filter(image=image, model=model, instance_type=instance_type)
    return {name: median(seconds) for name, seconds in rows.values_list("name", "seconds") if seconds}


def _key(revision: Revision) -> tuple[str, UUID, str] | None:
    try:
        return image_for(revision)[:300], revision.model_id, revision.instance_type_id
    except DefinitionError:
        return None  # its framework's definition was changed since, and means nothing any more


def estimate(phases: Sequence[PhaseFacts], usual: Mapping[str, float], now: datetime) -> Eta | None:
    """When it will be over. None where nothing is known, or nothing is under way.

    phases   the replica's, in order
    usual    phase → seconds
    """
    if not any(usual.get(name) for name in TIMED):
        return None
    present = next((phase for phase in phases if phase.finished_at is None), None)
    if present is None or present.name == PhaseName.ACTIVE:
        return None
    if present.name not in TIMED:
        # Whether the image has to be fetched turns out when there is room; mostly it is there.
        return Eta(_to_come(usual, after=PhaseName.PULLING), at=None)
    later = _to_come(usual, after=present.name)
    over_at = _over_at(present, usual, now)
    if over_at is None:
        return None
    late_at = over_at + timedelta(seconds=_margin(usual.get(present.name, 0.0)))
    if now >= late_at:
        return Eta(later, now + timedelta(seconds=later), late=present.name, late_at=late_at)
    at = max(over_at, now) + timedelta(seconds=later)
    return Eta((at - now).total_seconds(), at, late_at=late_at)


def _margin(usual_s: float) -> float:
    return max(LATE_S, LATE_PART * usual_s)


def _to_come(usual: Mapping[str, float], *, after: str) -> float:
    return sum(usual.get(name, 0.0) for name in TIMED[TIMED.index(PhaseName(after)) + 1 :])


def _over_at(phase: PhaseFacts, usual: Mapping[str, float], now: datetime) -> datetime | None:
    """When the phase under way should be over. A pull's own pace tells it better than what was usual."""
    known = usual.get(phase.name)
    from_history = phase.started_at + timedelta(seconds=known) if known is not None else None
    if phase.name != PhaseName.PULLING:
        return from_history or phase.started_at
    missing = phase.bytes_total - phase.bytes_done
    moved = phase.bytes_moved_at
    if moved is None or phase.bytes_per_s <= 0 or missing <= 0 or (now - moved).total_seconds() > PACE_S:
        return from_history
    by_pace: datetime = moved + timedelta(seconds=min(missing / phase.bytes_per_s, PULL_MOST_S))
    if not phase.layers_waiting:
        return by_pace
    # Of some layers nobody has told the size: it takes at least as long as the known ones.
    return max(by_pace, from_history) if from_history else None


def stall(phases: Sequence[PhaseFacts], usual: Mapping[str, float], now: datetime) -> Stall | None:
    """The phase under way, if it takes far longer than usual, or a pull in which nothing moves."""
    present = next((phase for phase in phases if phase.finished_at is None), None)
    if present is None or present.name not in TIMED:
        return None
    known = usual.get(present.name)
    seconds = (now - present.started_at).total_seconds()
    if present.name == PhaseName.PULLING and (silent := _silent_since(present)):
        quiet = (now - silent).total_seconds()
        if quiet >= SILENCE_S:
            return Stall(present.name, silent, quiet, None)
    if known is not None and seconds >= max(STALL_TIMES * known, known + STALL_S):
        return Stall(present.name, present.started_at, seconds, known)
    return None


def _silent_since(pull: PhaseFacts) -> datetime | None:
    """Since when no byte has come. None once all of them are there, when the engine unpacks, and for an image that is
    built here, which has none."""
    complete = pull.bytes_total and pull.bytes_done >= pull.bytes_total and not pull.layers_waiting
    return None if complete else pull.bytes_moved_at
