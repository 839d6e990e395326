"""Who works on an import: claimed by a conditional UPDATE, kept by heartbeats, taken over when they stop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Q, QuerySet
from django.utils import timezone

from config.holders import host, is_dead, new_token
from registry.live import model_changed
from registry.models import ModelStatus, RegisteredModel

# Longer than any single step between two heartbeats: a read that times out (30 s) and the wait after it (8 s).
LEASE_S = 60


class LeaseLost(Exception):
    """The model is gone, or another worker has its import: stop, and write nothing more."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to write a model's import columns."""

    model_id: str
    project_id: str
    token: str

    def write(self, **values: Any) -> None:
        """Write these columns and prolong the lease. Raises LeaseLost."""
        now = timezone.now()
        values.setdefault("lease_until", now + timedelta(seconds=LEASE_S))
        mine = RegisteredModel.objects.filter(
            pk=self.model_id, status=ModelStatus.IMPORTING, lease_token=self.token
        )
        if not mine.update(updated_at=now, **values):
            raise LeaseLost(self.model_id)
        model_changed(self.project_id, self.model_id)

    def end(self, **values: Any) -> None:
        """Write the outcome and give the lease back. Raises LeaseLost."""
        self.write(lease_token="", lease_until=None, **values)


def unclaimed(now: datetime) -> QuerySet[RegisteredModel]:
    """Imports that nobody works on: never begun, or their worker's heartbeat stopped."""
    # One that ends later than any lease can was taken before the clock was set back.
    limit = now + timedelta(seconds=3 * LEASE_S)
    free = Q(lease_until=None) | Q(lease_until__lt=now) | Q(lease_until__gt=limit)
    return RegisteredModel.objects.filter(free, status=ModelStatus.IMPORTING)


def claim(model_id: str) -> Lease | None:
    """The lease, or None if there is nothing to import or someone else is at it."""
    now = timezone.now()
    token = new_token()
    won = (
        unclaimed(now)
        .filter(pk=model_id)
        .update(lease_token=token, lease_until=now + timedelta(seconds=LEASE_S))
    )
    if not won:
        return None
    project_id = RegisteredModel.objects.values_list("project_id", flat=True).get(pk=model_id)
    return Lease(str(model_id), project_id, token)


def release_dead() -> int:
    """End the leases of this host's dead workers; how many. What they were at can be claimed at once."""
    here = host()
    if not here:
        return 0
    held = RegisteredModel.objects.filter(lease_token__startswith=f"{here}:")
    tokens = [token for token in held.values_list("lease_token", flat=True) if is_dead(token)]
    return held.filter(lease_token__in=tokens).update(lease_token="", lease_until=None)
