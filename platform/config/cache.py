"""Django's Redis cache with connections that outlive a request.

Under ASGI every request has a thread of its own, and Django makes a cache object, with a pool of its own, for
each thread: every request would connect to Redis anew, which takes longer than all the rest of a token call's
work on it. redis-py's pools are safe to share between threads and notice a fork.

Django's backend counts time in whole seconds and makes 0 of anything shorter, which keeps nothing at all: `add`
keeps fractions, in milliseconds.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, ClassVar

from django.core.cache import cache
from django.core.cache.backends.base import DEFAULT_TIMEOUT
from django.core.cache.backends.redis import RedisCache, RedisCacheClient
from redis.exceptions import RedisError


class SharedRedisCacheClient(RedisCacheClient):
    """One connection pool per server and process."""

    _shared: ClassVar[dict[tuple[str, ...], dict[int, Any]]] = {}

    def __init__(self, servers: list[str], *args: Any, **kwargs: Any) -> None:
        super().__init__(servers, *args, **kwargs)
        self._pools = self._shared.setdefault(tuple(servers), {})

    _serializer: Any  # RedisCacheClient makes it

    def add_briefly(self, key: str, value: Any, seconds: float) -> bool:
        """Set unless it is there, for `seconds`, which need not be whole."""
        client = self.get_client(key, write=True)
        milliseconds = max(1, round(seconds * 1000))
        return bool(client.set(key, self._serializer.dumps(value), px=milliseconds, nx=True))


class SharedRedisCache(RedisCache):
    """`BACKEND` for settings.CACHES."""

    def __init__(self, server: str, params: dict[str, Any]) -> None:
        super().__init__(server, params)
        self._class = SharedRedisCacheClient

    def add(self, key: str, value: Any, timeout: Any = DEFAULT_TIMEOUT, version: int | None = None) -> bool:
        """Whether it was not there and is now. `timeout` in seconds, fractions count."""
        if not isinstance(timeout, float):
            return bool(super().add(key, value, timeout, version=version))
        client: Any = self._cache
        return bool(client.add_briefly(self.make_and_validate_key(key, version=version), value, timeout))


@contextmanager
def alone(what: str, limit_s: int) -> Iterator[bool]:
    """Whether nobody else is at `what` just now, on any machine. Who dies over it is waited for until `limit_s`.
    While Redis is away everybody is alone."""
    key, token = f"alone:{what}", secrets.token_hex(8)
    try:
        mine = cache.add(key, token, timeout=limit_s)
    except (RedisError, OSError):
        yield True
        return
    try:
        yield mine
    finally:
        if mine:
            with suppress(RedisError, OSError):
                if cache.get(key) == token:
                    cache.delete(key)
