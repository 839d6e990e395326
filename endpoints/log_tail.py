"""The last lines of what runs, in Redis: written by the watcher, read by pages, sockets and the API.

A reader keeps its place (`Seen`) and asks for what is new since: nothing is shown twice, however often the watcher,
web or the reader's connection begin anew, and who reads too slowly is told how much was left out.

logs:NAME      list, the oldest line first. "\\0" and a number stands for lines that were left out there; no line of
               a container holds that character.
logs:NAME:at   hash. life: a new one whenever the list does not go on where it was (Redis was emptied, lines were
               read anew); n: how many entries were ever appended in this life; mark: the watcher's place in the log.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import redis
import redis.asyncio
from django.conf import settings
from django.utils.translation import gettext as _

from endpoints.log_text import clean

log = logging.getLogger(__name__)

# Entries of a replica that are kept, and for how long after the last one.
LINES = 500
SECONDS = 24 * 3600
# A line longer than this is cut: one line must not be a page.
LINE_CHARACTERS = 4000
_GAP = "\x00"

# KEYS list, head; ARGV most, seconds, mark, life, anew, entries…
_APPEND = """
if ARGV[5] == '1' then redis.call('DEL', KEYS[1], KEYS[2]) end
local begun = redis.call('HSETNX', KEYS[2], 'life', ARGV[4])
local count = #ARGV - 5
if count > 0 then
  redis.call('RPUSH', KEYS[1], unpack(ARGV, 6))
  redis.call('LTRIM', KEYS[1], -tonumber(ARGV[1]), -1)
end
redis.call('HINCRBY', KEYS[2], 'n', count)
redis.call('HSET', KEYS[2], 'mark', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('EXPIRE', KEYS[2], ARGV[2])
return begun
"""
# KEYS list, head; ARGV life, n. Answers life, n, whether all is new, how many are missing, entries…
_READ = """
local head = redis.call('HMGET', KEYS[2], 'life', 'n')
if not head[1] then return {'', 0, 0, 0} end
local n, anew, missing = tonumber(head[2]), 0, 0
local wanted = n - tonumber(ARGV[2])
local length = redis.call('LLEN', KEYS[1])
if head[1] ~= ARGV[1] then
  anew, wanted = 1, length
elseif wanted > length then
  missing, wanted = wanted - length, length
end
local answer = {head[1], n, anew, missing}
if wanted > 0 then
  for _, entry in ipairs(redis.call('LRANGE', KEYS[1], -wanted, -1)) do answer[#answer + 1] = entry end
end
return answer
"""


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a reader is."""

    life: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True)
class News:
    """What is new to a reader. anew: in place of all that it has."""

    lines: list[str]
    seen: Seen
    anew: bool = False


@dataclass(slots=True)
class Batch:
    """What is to be appended for one replica. anew: it begins a tail that goes on from nothing that was kept."""

    entries: list[str] = field(default_factory=list)
    mark: str = ""
    anew: bool = False


def key(replica_name: str) -> str:
    """The list's name in Redis."""
    return f"logs:{replica_name}"


def _keys(replica_name: str) -> tuple[str, str]:
    return key(replica_name), f"{key(replica_name)}:at"


def gap(count: int = 0) -> str:
    """The entry that stands for about `count` lines left out; 0: nobody knows how many."""
    return f"{_GAP}{count}"


def lines_of(entry: str) -> int:
    """How many lines it stands for."""
    return int(entry[1:]) if entry.startswith(_GAP) else 1


def shortened(entries: list[str]) -> list[str]:
    """No more of them than are kept, the first of which says what was left out."""
    cut = len(entries) - LINES
    if cut <= 0:
        return entries
    return [gap(sum(map(lines_of, entries[: cut + 1]))), *entries[cut + 1 :]]


def words(entry: str) -> str:
    """An entry as it is shown, in the reader's language."""
    if not entry.startswith(_GAP):
        return entry
    count = int(entry[1:] or 0)
    if not count:
        return _("⋯ lines were left out here: more were printed than can be shown ⋯")
    number = f"{count:,}"
    return _("⋯ about %(count)s lines were left out here ⋯") % {"count": number}


# ---- the watcher's side, synchronous


@lru_cache(maxsize=1)
def _client() -> redis.Redis:
    return redis.Redis.from_url(settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2)


def append(batches: Mapping[str, Batch]) -> frozenset[str]:
    """Append to the tails of several replicas in one exchange.

    Answers those whose earlier lines turned out to be lost: Redis was emptied since. Raises RedisError.
    """
    with _client().pipeline(transaction=False) as pipe:
        script = _client().register_script(_APPEND)
        for name, batch in batches.items():
            head = (LINES, SECONDS, batch.mark, secrets.token_hex(6), int(batch.anew))
            script(keys=_keys(name), args=[*head, *shortened(batch.entries)], client=pipe)
        begun = pipe.execute()
    told = zip(batches.items(), begun, strict=True)
    return frozenset(name for (name, batch), new in told if new and not batch.anew)


def entry(text: str) -> str:
    """A printed line as it is kept."""
    return clean(text[: 4 * LINE_CHARACTERS])[:LINE_CHARACTERS]


def publish(replica_name: str, lines: Sequence[str], *, mark: str = "", anew: bool = False) -> None:
    """Append lines of one replica. Raises RedisError."""
    append({replica_name: Batch([entry(line) for line in lines], mark, anew)})


def mark_of(replica_name: str) -> str:
    """Where the watcher was when it last appended; "" if nothing is kept. Raises RedisError."""
    raw = _client().hget(_keys(replica_name)[1], "mark")
    return raw.decode() if isinstance(raw, bytes) else ""


def kept(replica_names: Sequence[str]) -> frozenset[str]:
    """Those of which a tail is kept. Raises RedisError."""
    with _client().pipeline(transaction=False) as pipe:
        for name in replica_names:
            pipe.exists(_keys(name)[1])
        found = pipe.execute()
    return frozenset(name for name, there in zip(replica_names, found, strict=True) if there)


def forget(replica_names: Iterable[str]) -> None:
    """Drop what is kept, when the replicas' records go."""
    keys = [key for name in replica_names for key in _keys(name)]
    if not keys:
        return
    try:
        _client().delete(*keys)
    except redis.RedisError as error:
        log.warning("%d log tails were not removed, they expire: %s", len(keys) // 2, error)


def tail(replica_name: str) -> list[str]:
    """All that is kept, in words; nothing while Redis is away."""
    try:
        raw: Any = _client().eval(_READ, 2, *_keys(replica_name), "", 0)
    except redis.RedisError as error:
        log.warning("the log tail of %s could not be read: %s", replica_name, error)
        return []
    return _news(raw, Seen()).lines


# ---- readers' side, asynchronous

_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, redis.asyncio.Redis] = (
    weakref.WeakKeyDictionary()
)


def _loop_client() -> redis.asyncio.Redis:
    """One pool of connections an event loop, however many read."""
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        _clients[loop] = redis.asyncio.Redis.from_url(
            settings.REDIS_URL, socket_timeout=2, socket_connect_timeout=2
        )
    return _clients[loop]


async def read(replica_name: str, seen: Seen) -> News:
    """What was appended since `seen`. Raises RedisError."""
    client = _loop_client()
    raw: Any = await client.eval(_READ, 2, *_keys(replica_name), seen.life, seen.count)
    return _news(raw, seen)


def _news(raw: Any, seen: Seen) -> News:
    life, count, anew, missing, *entries = raw
    place = Seen(life.decode() if isinstance(life, bytes) else str(life), int(count))
    if (
        not place.life
    ):  # Redis knows nothing of it (any more): what a reader has stays until something replaces it
        return News([], seen)
    lines = [words(item.decode("utf-8", "replace")) for item in entries]
    if missing:
        lines.insert(0, words(gap(int(missing))))
    return News(lines, place, anew=bool(anew))
