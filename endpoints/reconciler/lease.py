"""Who reconciles an endpoint now: one row's conditional UPDATE, with an expiry for the worker that dies."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db.models import Q
from django.utils import timezone

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

    def finish(self) -> bool:
        """Give the lease back. False: it had been lost."""
        return bool(self._mine().update(lease_token="", lease_until=None))

    def _mine(self) -> Any:
        return Endpoint.objects.filter(pk=self.endpoint_id, lease_token=self.token)


def acquire(endpoint_id: str) -> Lease | None:
    """The lease, or None while someone else holds it or when there is no such endpoint."""
    now = timezone.now()
    token = secrets.token_hex(16)
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    taken = Endpoint.objects.filter(free, pk=endpoint_id).update(lease_token=token, lease_until=now + LEASE)
    return Lease(endpoint_id, token) if taken else None
