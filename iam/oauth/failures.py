"""How often an address may fail to authenticate.

Counted by address, never by client_id: otherwise anybody could lock another's account out by failing in its name.
Guessing a 256-bit secret is hopeless anyway; the limit keeps a broken or hostile client from costing work.
"""

from __future__ import annotations

import logging
import time

from django.core.cache import cache
from django.http import HttpRequest
from redis.exceptions import RedisError

from iam import addresses

logger = logging.getLogger(__name__)

LIMIT = 30
WINDOW_S = 60


def client_address(request: HttpRequest) -> str:
    """What the caller's failures are counted by."""
    return addresses.network_of(addresses.client_address(request))


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
