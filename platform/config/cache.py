"""Django's Redis cache with connections that outlive a request.

Under ASGI every request has a thread of its own, and Django makes a cache object, with a pool of its own, for
each thread: every request would connect to Redis anew, which takes longer than all the rest of a token call's
work on it. redis-py's pools are safe to share between threads and notice a fork.
"""

from __future__ import annotations

from typing import Any, ClassVar

from django.core.cache.backends.redis import RedisCache, RedisCacheClient


class SharedRedisCacheClient(RedisCacheClient):
    """One connection pool per server and process."""

    _shared: ClassVar[dict[tuple[str, ...], dict[int, Any]]] = {}

    def __init__(self, servers: list[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(servers, *args, **kwargs)
        self._pools = self._shared.setdefault(tuple(servers), {})


class SharedRedisCache(RedisCache):
    """`BACKEND` for settings.CACHES."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = SharedRedisCacheClient
