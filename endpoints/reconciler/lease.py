"""Who reconciles an endpoint now: one row's conditional UPDATE, with an expiry for the worker that dies.

A token names its holder: "<host>:<pid>:<start of the process>.<random>". A worker on the same host that finds a dead
holder need not wait for the expiry.
"""

from __future__ import annotations

import hashlib
import os
import platform
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
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
    lease = Lease(endpoint_id, _new_token())
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
    host = _host()
    if not host:
        return []
    held = Endpoint.objects.filter(lease_token__startswith=f"{host}:").values_list("pk", "lease_token")
    dead = [(endpoint_id, token) for endpoint_id, token in held if is_dead(token)]
    return [endpoint_id for endpoint_id, token in dead if Lease(endpoint_id, token).finish()]


def is_dead(token: str) -> bool:
    """Whether the process that made this token is certainly gone. False where that can't be known from here."""
    holder, _, _ = token.partition(".")
    host, _, process = holder.partition(":")
    pid, _, began = process.partition(":")
    if not host or host != _host() or not pid.isdigit():
        return False
    start = _start_of(int(pid))
    return start is not None and start != began


def _new_token() -> str:
    """At most 40 characters, as the column has."""
    host = _host()
    if not host:
        return secrets.token_hex(16)
    pid = os.getpid()
    return f"{host}:{pid}:{_start_of(pid)}.{secrets.token_hex(5)}"


@lru_cache(maxsize=1)
def _host() -> str:
    """This machine since its start, and the part of it whose process ids we see; "" where /proc doesn't say."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        seen = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return ""
    return hashlib.sha256(f"{platform.node()} {boot} {seen}".encode()).hexdigest()[:8]


def _start_of(pid: int) -> str | None:
    """When a process began, in the kernel's ticks since the machine's start; "" if there is none or it has ended, None
    if that is hidden from us."""
    try:
        # The second field, the program's name, may contain anything; what follows its last ")" is regular.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "" if _is_free(pid) else None
    state, began = fields[0], fields[19]
    return "" if state in "ZX" else began


def _is_free(pid: int) -> bool:
    """Whether no process has this number. /proc may hide those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
