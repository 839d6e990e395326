"""How often an address may fail to authenticate.

Counted by address, never by client_id: otherwise anybody could lock another's account out by failing in its name.
Guessing a 256-bit secret is hopeless anyway; the limit keeps a broken or hostile client from costing work.
"""

from __future__ import annotations

import ipaddress
import logging
import time

from django.core.cache import cache
from django.http import HttpRequest
from redis.exceptions import RedisError

logger = logging.getLogger(__name__)

LIMIT = 30
WINDOW_S = 60


def client_address(request: HttpRequest) -> str:
    """The caller's address; of an IPv6 address its /64, which one host may fill at will.

    `X-Forwarded-For` counts only from our own gateway, a peer on loopback, and only its last entry, which the
    gateway's Envoy wrote: what stands before it is the caller's own claim.
    """
    peer = _parse(request.META.get("REMOTE_ADDR", ""))
    if peer is not None and peer.is_loopback:
        forwarded = request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip()
        peer = _parse(forwarded) or peer
    if peer is None:
        return "unknown"
    if peer.version == 6:
        return str(ipaddress.ip_network((peer, 64), strict=False))
    return str(peer)


def blocked_for(address: str, now: float | None = None) -> int:
    """Seconds until `address` may try again, 0 if it may now."""
    moment = time.time() if now is None else now
    try:
        failures = cache.get(_key(address, moment), 0)
    except RedisError:
        # Without Redis nobody is limited; programs go on getting their tokens.
        logger.warning("Token failures are not counted: Redis does not answer.")
        return 0
    return WINDOW_S - int(moment) % WINDOW_S if failures >= LIMIT else 0


def count_failure(address: str, now: float | None = None) -> None:
    """Note one failed authentication."""
    key = _key(address, time.time() if now is None else now)
    try:
        cache.add(key, 0, timeout=WINDOW_S)
        cache.incr(key)
    except (RedisError, ValueError):  # ValueError: the window closed between the two calls
        logger.warning("A token failure of %s was not counted.", address)


def _key(address: str, moment: float) -> str:
    return f"token-failures:{address}:{int(moment) // WINDOW_S}"


def _parse(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped or address
