"""The deploy timeline: one row a phase and replica, each beginning where the one before ended."""

from __future__ import annotations

from datetime import datetime

from django.db.models import F

from endpoints.models import DeployPhase, PhaseName

# A replica waits in these for others; they are no work whose usual time anyone could tell.
WAITS = (PhaseName.QUEUED, PhaseName.SCHEDULING)


def enter(replica_id: str, name: PhaseName, now: datetime) -> None:
    """Begin `name`, ending what was open. Entering a phase again (a second try) keeps its first beginning."""
    DeployPhase.objects.filter(replica_id=replica_id, finished_at=None).exclude(name=name).update(
        finished_at=now
    )
    phase, fresh = DeployPhase.objects.get_or_create(
        replica_id=replica_id, name=name, defaults={"started_at": now}
    )
    if fresh:
        return
    # A pull is asked for anew while one is under way, too: images.py counts its tries.
    again = 0 if name in (*WAITS, PhaseName.PULLING) else 1
    if again or phase.finished_at is not None:
        DeployPhase.objects.filter(pk=phase.pk).update(finished_at=None, tries=F("tries") + again)


def close(replica_id: str, now: datetime) -> None:
    """End whatever is open."""
    DeployPhase.objects.filter(replica_id=replica_id, finished_at=None).update(finished_at=now)
