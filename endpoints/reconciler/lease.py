"""Who reconciles an endpoint now: one row's conditional UPDATE, with an expiry for the worker that dies.

A worker on the same host that finds a dead holder need not wait for the expiry (config.holders)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

from config.holders import host, is_dead, new_token
from endpoints.models import Endpoint

# Long enough for any single driver call, short enough that a killed worker is not missed for long.
LEASE = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to reconcile one endpoint until it expires. Every write is guarded by its token."""

    endpoint_id: str
    token: str

    def renew(self) -> bool:
        """Another 20 s, before a call that may take long. False: someone else took over, stop at once."""
        return bool(self._mine().update(lease_until=timezone.now() + LEASE))

    def write(self, **columns: Any) -> bool:
        """Write findings and keep the lease. False: it had been lost, and nothing was written."""
        return bool(self._mine().update(**columns))

    def write_if(self, unchanged: Mapping[str, Any], **columns: Any) -> bool:
        """`write`, but only while these columns still have these values. False: nothing was written."""
        return bool(self._mine().filter(**unchanged).update(**columns))

    def finish(self) -> bool:
        """Give the lease back. False: it had been lost."""
        return bool(self._mine().update(lease_token="", lease_until=None))

    def _mine(self) -> Any:
        return Endpoint.objects.filter(pk=self.endpoint_id, lease_token=self.token)


def acquire(endpoint_id: str) -> Lease | None:
    """The lease, or None while someone else holds it or when there is no such endpoint."""
    now = timezone.now()
    lease = Lease(endpoint_id, new_token())
    row = Endpoint.objects.filter(pk=endpoint_id)
    terms = {"lease_token": lease.token, "lease_until": now + LEASE}
    # One that ends later than any lease can was taken before the clock was set back.
    free = Q(lease_until=None) | Q(lease_until__lt=now) | Q(lease_until__gt=now + 3 * LEASE)
    if row.filter(free).update(**terms):
        return lease
    holder = row.values_list("lease_token", flat=True).first()
    if holder and is_dead(holder) and row.filter(lease_token=holder).update(**terms):
        return lease
    return None


def release_dead() -> list[str]:
    """End the leases of this host's dead workers; answers whose endpoints that freed. One query if there are none."""
    here = host()
    if not here:
        return []
    held = Endpoint.objects.filter(lease_token__startswith=f"{here}:").values_list("pk", "lease_token")
    dead = [(endpoint_id, token) for endpoint_id, token in held if is_dead(token)]
    return [endpoint_id for endpoint_id, token in dead if Lease(endpoint_id, token).finish()]
