"""What the gateways' agents told, on its way from web to the metering loop: a bounded list in Redis.

The list holds bodies as they came, compressed. It may vanish with Redis at any moment; what is lost then is a few
seconds of figures.
"""

from __future__ import annotations

import gzip
import json
import logging
import time
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import redis
from django.conf import settings

from gateway.figures import Told

KEPT = 500  # pushes that wait to be drained: forty minutes of one gateway, four of ten
KEPT_S = 600  # and no older than that
_SEEN_S = 7200  # agents tell again for an hour at most
_LIMIT = 32 * 1024 * 1024  # bytes of one push, decompressed: thousands of endpoints take a few
_LIST = "berth:gateway:figures"

log = logging.getLogger(__name__)

# In one step, so that a push is never noted as seen without lying in the list.
# KEYS: the list, the note. ARGV: the push, KEPT, KEPT_S, _SEEN_S.
_PUSH = """
if not redis.call('SET', KEYS[2], '1', 'NX', 'EX', ARGV[4]) then return 0 end
redis.call('RPUSH', KEYS[1], ARGV[1])
redis.call('LTRIM', KEYS[1], -tonumber(ARGV[2]), -1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class Heard:
    """told, and when web received it: seconds since 1970."""

    told: Told
    at: float


@lru_cache(maxsize=1)
def _default() -> Any:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)


def hear(body: bytes, encoding: str) -> None:
    """Let the next `drain` have what stands in an agent's request; encoding: its Content-Encoding.

    Raises ValueError for what no agent sends, RedisError.
    """
    if encoding not in ("", "gzip"):
        raise ValueError(f"Content-Encoding {encoding[:40]}")
    try:
        found = Told.of(json.loads(unpack(body, _LIMIT) if encoding else body))
    except RecursionError as error:
        raise ValueError(f"no figures: {error}") from error
    _push(_default(), found, body if encoding else gzip.compress(body, 1), time.time())


def push(told: Told, client: Any = None, at: float | None = None) -> bool:
    """Let the next `drain` have it; False if it was pushed before. at: seconds since 1970, now by default.

    Raises RedisError.
    """
    body = gzip.compress(json.dumps(told.as_json(), separators=(",", ":")).encode(), 1)
    return _push(_default() if client is None else client, told, body, time.time() if at is None else at)


def _push(client: Any, told: Told, body: bytes, at: float) -> bool:
    """body: as agents send it. The list has the time before it, and a line feed."""
    seen = f"{_LIST}:seen:{told.gateway_id}:{told.number}"
    return bool(client.eval(_PUSH, 2, _LIST, seen, f"{at}\n".encode() + body, KEPT, KEPT_S, _SEEN_S))


def drain(client: Any = None) -> list[Heard]:
    """All that was pushed since the call before, the oldest first; each once. Raises RedisError."""
    pipe = (_default() if client is None else client).pipeline(transaction=True)
    pipe.lrange(_LIST, 0, -1)
    pipe.delete(_LIST)
    found = [heard for body in pipe.execute()[0] if (heard := _heard(body)) is not None]
    oldest = time.time() - KEPT_S
    return [heard for heard in found if heard.at > oldest]


def _heard(body: bytes) -> Heard | None:
    at, _, packed = body.partition(b"\n")
    try:
        return Heard(Told.of(json.loads(unpack(packed, _LIMIT))), float(at))
    except ValueError as error:
        log.error("a gateway's figures cannot be read, they are left out: %r", error)
        return None


def unpack(body: bytes, limit: int) -> bytes:
    """What was compressed by gzip. Raises ValueError for what was not, and for more than `limit` bytes."""
    unpacking = zlib.decompressobj(31)  # gzip
    try:
        content = unpacking.decompress(body, limit)
    except zlib.error as error:
        raise ValueError(f"no gzip: {error}") from error
    if not unpacking.eof:
        raise ValueError("it is cut off" if not unpacking.unconsumed_tail else "it is too long")
    return content
