"""What the machine has, for pages that must not ask the engine: the worker's sweep says it, the cache keeps it."""

from __future__ import annotations

from dataclasses import dataclass

from django.core.cache import cache
from redis.exceptions import RedisError

from endpoints.models import InstanceType
from runtimes.contract import RuntimeInfo

KEY = "machine-capacity"
KEPT_S = 60  # the sweep repeats it every few seconds
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Shortfall:
    """What an instance type asks for and the machine does not have, each with its unit."""

    needs: str
    has: str


def shortfall(size: InstanceType, cpus: int, memory_bytes: int) -> Shortfall | None:
    """Why a replica of this size can't run on such a machine at all; None if it could."""
    if size.vcpu > cpus:
        return Shortfall(f"{size.vcpu:g} CPUs", f"{cpus}")
    if size.memory_gib * GIB > memory_bytes:
        return Shortfall(f"{size.memory_gib:g} GiB RAM", f"{memory_bytes / GIB:.1f} GiB")
    return None


def publish(info: RuntimeInfo) -> None:
    """Keep what the runtime says of its machine. Raises RedisError."""
    cache.set(KEY, (info.cpus, info.memory_bytes), KEPT_S)


def known_shortfall(size: InstanceType) -> Shortfall | None:
    """`shortfall` on this machine; None while its capacity is not known."""
    try:
        known = cache.get(KEY)
    except (RedisError, OSError):
        return None
    return shortfall(size, *known) if known else None
