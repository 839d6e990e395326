"""Who reconciles an endpoint now: one row's conditional UPDATE, with an expiry for the worker that dies."""

from __future__ import annotations

import hashlib
import os
import secrets
import socket
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
    token = f"{_me()}.{secrets.token_hex(5)}"
    free = Q(lease_until=None) | Q(lease_until__lt=now)
    taken = Endpoint.objects.filter(free, pk=endpoint_id).update(lease_token=token, lease_until=now + LEASE)
    return Lease(endpoint_id, token) if taken else None


def release_dead() -> int:
    """Take back the leases of processes of this machine that are certainly gone; how many. The others run out."""
    tokens = Endpoint.objects.exclude(lease_token="").values_list("lease_token", flat=True)
    dead = [token for token in tokens if _is_dead(token)]
    if not dead:
        return 0
    return Endpoint.objects.filter(lease_token__in=dead).update(lease_token="", lease_until=None)


def _me() -> str:
    """This process: machine, pid and the moment of its start, because pids come again."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}"


@lru_cache(maxsize=1)
def _machine() -> str:
    # The boot's id tells hosts, and containers that share a host name, apart.
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid").readlink() if boot.exists() else ""
    known = boot.read_text() if boot.exists() else socket.gethostname()
    return hashlib.sha256(f"{known}{namespace}".encode()).hexdigest()[:8]


def _started(pid: int) -> int | None:
    """Clock ticks from the boot to the process's start (proc(5), stat, field 22); None if there is none, or only
    what its parent has not taken note of yet."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()  # from the third on: state, parent, …
    return None if fields[0] in "ZX" else int(fields[19])


def _is_dead(token: str) -> bool:
    holder, _, _ = token.partition(".")
    machine, _, process = holder.partition("-")
    pid, _, started = process.partition("-")
    if machine != _machine() or not pid.isdigit() or started == "0" or not Path("/proc/self/stat").exists():
        return False
    return str(_started(int(pid))) != started
