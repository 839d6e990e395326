"""What the control plane knows about its gateways, kept in Redis: who lives, and what each one has applied.

Everything here may vanish at any moment (a flushed Redis) and comes back with the gateways' next polls: whoever
answers a poll calls `report`, and builds and stores a snapshot whenever `current` has none.
Every method raises redis.RedisError if Redis does not answer: unknown is never read as "applied".
"""

from __future__ import annotations

import gzip
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from gateway.snapshot import Snapshot

LIVE_S = 5  # polls come every 0.25 s, every 2 s at worst
KNOWN_S = 3600  # how long a gateway that stopped asking may still be serving somewhere out of sight
VERSION_S = 3600  # a version that a gateway reports is kept for as long as it does
CURRENT_S = 5  # a change whose `invalidate` got lost is served after that time at the latest

_PREFIX = "berth:gateway"
_INDEX = f"{_PREFIX}:index"
_CURRENT = f"{_PREFIX}:current"
_GENERATION = f"{_PREFIX}:generation"


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """One gateway's last word. applied: version, "" if it serves nothing. rejected: its reason, "" if none."""

    gateway_id: str
    applied: str
    rejected: str
    live: bool


@dataclass(frozen=True, slots=True)
class Current:
    """The snapshot that is served. body: gzip-compressed JSON (`Content-Encoding: gzip`)."""

    version: str
    body: bytes


class Cluster:
    """client: a redis-py client, whether it decodes answers or not."""

    def __init__(self, client: Any) -> None:
        self._redis = client

    # --- the snapshot that is served ----------------------------------------------------------------------

    def invalidate(self) -> None:
        """Something changed: the next poll finds no current snapshot and builds one. Call after the commit."""
        self._redis.set(_GENERATION, secrets.token_hex(8))

    def generation(self) -> str:
        """Read before the database is: `store` wants it, so that a change in between is not overlooked."""
        self._redis.set(_GENERATION, secrets.token_hex(8), nx=True)
        return _text(self._redis.get(_GENERATION)) or ""

    def store(self, built: Snapshot, generation: str) -> Current:
        """Serve `built`, read from the database after `generation` was, until something changes."""
        current = Current(built.version, gzip.compress(built.body(), 1))
        pipe = self._redis.pipeline()
        _remember(pipe, built.version, built.endpoints)
        pipe.delete(_CURRENT)
        fields = {"generation": generation, "version": current.version, "body": current.body.hex()}
        pipe.hset(_CURRENT, mapping=fields)
        pipe.expire(_CURRENT, CURRENT_S)
        pipe.execute()
        return current

    def current_version(self) -> str | None:
        """The version to compare an If-None-Match with; None: build and store a snapshot."""
        generation, stored = self._current("generation", "version")
        return stored[1] if stored[0] and stored[0] == generation else None

    def current(self) -> Current | None:
        """The snapshot that is served; None: build and store one."""
        generation, stored = self._current("generation", "version", "body")
        of, version, body = stored
        if not of or of != generation or not version or not body:
            return None
        return Current(version, bytes.fromhex(body))

    def _current(self, *fields: str) -> tuple[str | None, list[str | None]]:
        pipe = self._redis.pipeline()
        pipe.get(_GENERATION)
        pipe.hmget(_CURRENT, list(fields))
        generation, stored = pipe.execute()
        return _text(generation), [_text(value) for value in stored]

    def remember(self, version: str, endpoint_digests: Mapping[str, str]) -> None:
        """Note which target each endpoint has in `version` (`store` does). A version's content never changes."""
        pipe = self._redis.pipeline()
        _remember(pipe, version, endpoint_digests)
        pipe.execute()

    # --- gateways -----------------------------------------------------------------------------------------

    def report(self, gateway_id: str, applied: str, rejected: str = "") -> None:
        """One poll of a gateway: X-Berth-Gateway, X-Berth-Applied and X-Berth-Rejected."""
        pipe = self._redis.pipeline()
        pipe.sadd(_INDEX, gateway_id)
        pipe.set(_report_key(gateway_id), json.dumps([applied, rejected]), ex=KNOWN_S)
        pipe.set(_live_key(gateway_id), "1", ex=LIVE_S)
        if applied:
            pipe.expire(_version_key(applied), VERSION_S)
        pipe.execute()

    def gateways(self) -> list[GatewayReport]:
        """Every gateway heard of within KNOWN_S, by id."""
        ids = sorted(_text(i) or "" for i in self._redis.smembers(_INDEX))
        if not ids:
            return []
        words = self._redis.mget([*map(_report_key, ids), *map(_live_key, ids)])
        gone = [i for i, word in zip(ids, words, strict=False) if not word]
        if gone:
            self._redis.srem(_INDEX, *gone)
        return [
            _report(gateway_id, word, alive)
            for gateway_id, word, alive in zip(ids, words[: len(ids)], words[len(ids) :], strict=True)
            if word
        ]

    def live_gateways(self) -> list[GatewayReport]:
        """Every gateway heard of within LIVE_S, by id."""
        return [g for g in self.gateways() if g.live]

    # --- who has applied what -----------------------------------------------------------------------------

    def route_state(self, endpoint_id: str, digest: str) -> tuple[int, bool]:
        """How many gateways live, and whether all of them (at least one) have applied this target."""
        live = self.live_gateways()
        return len(live), endpoint_id in self._applied_by(live, {endpoint_id: digest})

    def applied_everywhere(self, wanted: Mapping[str, str]) -> set[str]:
        """Those of `wanted` (endpoint id → digest of its target) that every live gateway has applied.

        Without a live gateway, none: nobody can reach an endpoint then.
        """
        return self._applied_by(self.live_gateways(), wanted)

    def has_left_everywhere(self, endpoint_id: str, digest: str) -> bool:
        """Whether no gateway can still be sending requests by the target with this digest.

        Asks also the gateways that are silent at the moment: one that lost the control plane goes on serving.
        A gateway whose applied version is forgotten counts as still sending. No gateway at all: True.
        """
        versions = {g.applied for g in self.gateways()} - {""}
        return all(
            known and carried != digest for known, carried in self._carried(versions, ["", endpoint_id])
        )

    def _applied_by(self, gateways: Iterable[GatewayReport], wanted: Mapping[str, str]) -> set[str]:
        versions = {g.applied for g in gateways}
        if not versions or "" in versions or not wanted:
            return set()
        found = self._carried(versions, list(wanted))
        columns = zip(wanted.items(), zip(*found, strict=True), strict=True)
        return {i for (i, digest), carried in columns if all(c == digest for c in carried)}

    def _carried(self, versions: Iterable[str], ids: list[str]) -> list[list[str | None]]:
        """A row for each version: the digest of each endpoint's target in it, None where it has none."""
        pipe = self._redis.pipeline()
        for version in versions:
            pipe.hmget(_version_key(version), ids)
        return [[_text(digest) for digest in row] for row in pipe.execute()]


def _remember(pipe: Any, version: str, endpoint_digests: Mapping[str, str]) -> None:
    # The empty field tells a version without endpoints from one that was forgotten.
    pipe.hset(_version_key(version), mapping={"": "known", **endpoint_digests})
    pipe.expire(_version_key(version), VERSION_S)


def _report(gateway_id: str, word: Any, alive: Any) -> GatewayReport:
    applied, rejected = json.loads(_text(word) or "")
    return GatewayReport(gateway_id, applied, rejected, live=bool(alive))


def _version_key(version: str) -> str:
    return f"{_PREFIX}:version:{version}"


def _report_key(gateway_id: str) -> str:
    return f"{_PREFIX}:report:{gateway_id}"


def _live_key(gateway_id: str) -> str:
    return f"{_PREFIX}:live:{gateway_id}"


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)
