"""What the control plane knows about its gateways, kept in Redis: who lives, and what each one has applied.

Everything here may vanish at any moment (a flushed Redis) and comes back with the gateways' next polls: whoever
answers a poll calls `report`, and builds and stores a snapshot whenever `current` has none.
Every method raises redis.RedisError if Redis does not answer: unknown is never read as "applied".
"""

from __future__ import annotations

import gzip
import json
import secrets
import time
import zlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

from gateway import leaving
from gateway.leaving import GatewayReport, Leaving, Sample
from gateway.snapshot import Snapshot

LIVE_S = 5  # polls come every 0.25 s, every 2 s at worst
KNOWN_S = 3600  # how long a gateway that stopped asking may still be serving somewhere out of sight
VERSION_S = 3600  # a version that a gateway reports is kept for as long as it does
CURRENT_S = 5  # what changes by itself, or without a word to anybody, is served after that time at the latest
SETTLED_S = 10  # after that time every gateway that lives has been heard of again by a Redis that was emptied

_PREFIX = "berth:gateway"
_INDEX = f"{_PREFIX}:index"
_CURRENT = f"{_PREFIX}:current"
_GENERATION = f"{_PREFIX}:generation"
_NEWEST = f"{_PREFIX}:newest"
_UNBUILT = f"{_PREFIX}:unbuilt"
_COUNTING = f"{_PREFIX}:counting"
_COUNTING_S = 10**9  # for ever; the time that is left tells since when
_GIVEN_KEPT = 100  # a gateway takes the newest of what waits: it never works through so many
_ADDRESSES_KEPT = 32  # versions whose addresses this process remembers


@dataclass(frozen=True, slots=True)
class Current:
    """The snapshot that is served. body: gzip-compressed JSON (`Content-Encoding: gzip`)."""

    version: str
    body: bytes

    @classmethod
    def of(cls, built: Snapshot) -> Current:
        """As gateways get it."""
        return cls(built.version, gzip.compress(built.body(), 1))


@dataclass(frozen=True, slots=True)
class Unbuilt:
    """No snapshot can be built. since, at: the first try that failed, and the last, in seconds since 1970."""

    since: float
    at: float
    evidence: str


@dataclass(frozen=True, slots=True)
class Building:
    """What became of the last tries to build a snapshot.

    version  the newest that was built, "" if none is known. It is served until something changes
    since    when it was, in seconds since 1970
    unbuilt  why there is no newer one though there should be
    """

    version: str
    since: float
    unbuilt: Unbuilt | None


class Cluster:
    """client: a redis-py client, whether it decodes answers or not."""

    def __init__(self, client: Any) -> None:
        self._redis = client
        self._addresses: OrderedDict[str, frozenset[str]] = OrderedDict()

    # --- the snapshot that is served ----------------------------------------------------------------------

    def invalidate(self) -> None:
        """Something changed: the next poll finds no current snapshot and builds one. Call after the commit."""
        self._redis.set(_GENERATION, secrets.token_hex(8))

    def generation(self) -> str:
        """Read before the database is: `store` wants it, so that a change in between is not overlooked."""
        self._redis.set(_GENERATION, secrets.token_hex(8), nx=True)
        return _text(self._redis.get(_GENERATION)) or ""

    def store(self, built: Snapshot, generation: str, mark: str = "") -> Current:
        """Serve `built`, read from the database after `generation` and `mark` were, until one of them is another."""
        current = Current.of(built)
        newest = _text(self._redis.hget(_NEWEST, "version"))
        pipe = self._redis.pipeline()
        _remember(pipe, built)
        if newest != current.version:
            pipe.hset(_NEWEST, mapping={"version": current.version, "since": time.time()})
        pipe.delete(_CURRENT, _UNBUILT)
        told = {"generation": generation, "mark": mark, "version": current.version}
        fields = {**told, "body": current.body.hex()}
        pipe.hset(_CURRENT, mapping=fields)
        pipe.expire(_CURRENT, CURRENT_S)
        pipe.execute()
        return current

    def cannot_build(self, evidence: str, now: float) -> None:
        """None could be built to `store`; noted until one is, or until nobody has tried for a while."""
        pipe = self._redis.pipeline()
        pipe.hsetnx(_UNBUILT, "since", now)
        pipe.hset(_UNBUILT, mapping={"at": now, "evidence": evidence})
        pipe.expire(_UNBUILT, KNOWN_S)
        pipe.execute()

    def building(self) -> Building:
        """What became of the last tries."""
        pipe = self._redis.pipeline()
        pipe.hmget(_NEWEST, ["version", "since"])
        pipe.hmget(_UNBUILT, ["since", "at", "evidence"])
        (version, built), (since, at, evidence) = pipe.execute()
        unbuilt = Unbuilt(float(since), float(at), _text(evidence) or "") if since and at else None
        return Building(_text(version) or "", float(built or 0), unbuilt)

    def current_version(self, mark: str | None = None) -> str | None:
        """The version to compare an If-None-Match with; None: build and store a snapshot.

        mark: what the database says of changes (endpoints.changes); None: nothing, Redis decides alone
        """
        generation, (of, version, marked) = self._current("generation", "version", "mark")
        return version if of and of == generation and mark in (None, marked) else None

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

    def remember(self, built: Snapshot) -> None:
        """Note which target each endpoint has in it, and where it leads (`store` does). A version's content never
        changes."""
        pipe = self._redis.pipeline()
        _remember(pipe, built)
        pipe.execute()

    # --- gateways -----------------------------------------------------------------------------------------

    def report(
        self,
        gateway_id: str,
        applied: str,
        rejected: str = "",
        *,
        given: str = "",
        sample: Sample | None = None,
        gone: bool = False,
    ) -> None:
        """One poll of a gateway, in the words of gateway.control.Report. given: its If-None-Match."""
        given_key, samples_key = _given_key(gateway_id), _samples_key(gateway_id)
        waiting = [_text(version) for version in self._redis.lrange(given_key, 0, -1)]
        last = waiting[-1] if waiting else None
        pipe = self._redis.pipeline()
        pipe.set(_COUNTING, "1", ex=_COUNTING_S, nx=True)
        pipe.sadd(_INDEX, gateway_id)
        pipe.set(_report_key(gateway_id), json.dumps([applied, rejected, gone]), ex=KNOWN_S)
        if gone:
            pipe.delete(_live_key(gateway_id))
        else:
            pipe.set(_live_key(gateway_id), "1", ex=LIVE_S)
        if given and given not in waiting:
            pipe.rpush(given_key, given)  # Redis was emptied, or away when it was given; the gateway was not
        elif applied and applied == last:
            pipe.ltrim(given_key, -1, -1)
        pipe.expire(given_key, KNOWN_S)
        if sample is not None:
            pipe.lpush(samples_key, json.dumps([sample.applied, sample.connections]))
            pipe.ltrim(samples_key, 0, 1)
        pipe.expire(samples_key, KNOWN_S)
        for version in {applied, last or given} - {""}:
            pipe.expire(_version_key(version), VERSION_S)
            pipe.expire(_addresses_key(version), VERSION_S)
        pipe.execute()

    def give(self, gateway_id: str, version: str) -> None:
        """The gateway is about to be answered with this version, and may serve it before it says so."""
        pipe = self._redis.pipeline()
        pipe.rpush(_given_key(gateway_id), version)
        pipe.ltrim(_given_key(gateway_id), -_GIVEN_KEPT, -1)
        pipe.expire(_given_key(gateway_id), KNOWN_S)
        pipe.execute()

    def gateways(self) -> list[GatewayReport]:
        """Every gateway heard of within KNOWN_S, by id."""
        ids = sorted(_text(i) or "" for i in self._redis.smembers(_INDEX))
        if not ids:
            return []
        pipe = self._redis.pipeline()
        for i in ids:
            pipe.mget(_report_key(i), _live_key(i))
            pipe.lrange(_given_key(i), 0, -1)
            pipe.lrange(_samples_key(i), 0, 1)
        answers = pipe.execute()
        rows = list(zip(ids, answers[::3], answers[1::3], answers[2::3], strict=True))
        forgotten = [i for i, (word, _), _, _ in rows if not word]
        if forgotten:
            self._redis.srem(_INDEX, *forgotten)
        return [_report(i, word, alive, given, samples) for i, (word, alive), given, samples in rows if word]

    def live_gateways(self) -> list[GatewayReport]:
        """Every gateway heard of within LIVE_S, by id."""
        return [g for g in self.gateways() if g.live]

    def ages(self) -> dict[str, float]:
        """Seconds since each gateway was heard of last, by id; of those heard of within KNOWN_S."""
        ids = sorted(_text(i) or "" for i in self._redis.smembers(_INDEX))
        pipe = self._redis.pipeline()
        for i in ids:
            pipe.pttl(_report_key(i))
        return {i: KNOWN_S - left / 1000 for i, left in zip(ids, pipe.execute(), strict=True) if left >= 0}

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

    def leaving(self, addresses: Mapping[str, str]) -> dict[str, Leaving]:
        """Of each replica (name → "host:port"): whether requests still go there, and how many run.

        Asks also the gateways that are silent at the moment: one that lost the control plane goes on serving. A
        platform without any gateway needs not wait for one; a Redis that was just emptied knows of none yet.
        """
        if not self._is_settled():
            return dict.fromkeys(addresses, leaving.UNKNOWN)
        gateways = self.gateways()
        routed = self._routed(gateways)
        return {name: leaving.leaving(gateways, routed, address) for name, address in addresses.items()}

    def free(self, addresses: Set[str]) -> set[str]:
        """Those that another replica may have: no gateway leads there, nor would one that is started again."""
        if not self._is_settled():
            return set()
        gateways = self.gateways()
        routed = self._routed(gateways)
        return {address for address in addresses if leaving.is_free(gateways, routed, address)}

    def _is_settled(self) -> bool:
        pipe = self._redis.pipeline()
        pipe.set(_COUNTING, "1", ex=_COUNTING_S, nx=True)
        pipe.ttl(_COUNTING)
        age = _COUNTING_S - int(pipe.execute()[1])
        if age < 0:  # Redis's clock was set back: as long as that would nothing be settled. Count anew.
            self._redis.set(_COUNTING, "1", ex=_COUNTING_S)
        return age >= SETTLED_S

    def _routed(self, gateways: Iterable[GatewayReport]) -> dict[str, frozenset[str]]:
        """The addresses of every version that the gateways named, those that Redis has forgotten left out."""
        wanted = {v for g in gateways for v in (*g.versions(), *(s.applied for s in g.samples))}
        missing = [version for version in wanted if version and version not in self._addresses]
        if missing:
            found = self._redis.mget([_addresses_key(version) for version in missing])
            for version, packed in zip(missing, found, strict=True):
                if packed:
                    self._addresses[version] = _unpacked(_text(packed) or "")
        known = {v: found for v in wanted if (found := self._addresses.get(v)) is not None}
        while len(self._addresses) > _ADDRESSES_KEPT:
            self._addresses.popitem(last=False)
        return known

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


def _remember(pipe: Any, built: Snapshot) -> None:
    # The empty field tells a version without endpoints from one that was forgotten.
    pipe.hset(_version_key(built.version), mapping={"": "known", **built.endpoints})
    pipe.expire(_version_key(built.version), VERSION_S)
    pipe.set(_addresses_key(built.version), _packed(built.addresses), ex=VERSION_S)


def _packed(addresses: Iterable[str]) -> str:
    """Never empty: nothing stands for a version that was forgotten."""
    return zlib.compress("\n".join(sorted(addresses)).encode(), 1).hex()


def _unpacked(packed: str) -> frozenset[str]:
    return frozenset(zlib.decompress(bytes.fromhex(packed)).decode().split())


def _report(gateway_id: str, word: Any, alive: Any, given: list[Any], samples: list[Any]) -> GatewayReport:
    applied, rejected, gone = json.loads(_text(word) or "")
    return GatewayReport(
        gateway_id,
        applied,
        rejected,
        live=bool(alive),
        given=tuple(_text(version) or "" for version in given),
        gone=gone,
        samples=tuple(Sample(*json.loads(_text(one) or "")) for one in samples),
    )


def _version_key(version: str) -> str:
    return f"{_PREFIX}:version:{version}"


def _addresses_key(version: str) -> str:
    return f"{_PREFIX}:addresses:{version}"


def _given_key(gateway_id: str) -> str:
    return f"{_PREFIX}:given:{gateway_id}"


def _samples_key(gateway_id: str) -> str:
    return f"{_PREFIX}:samples:{gateway_id}"


def _report_key(gateway_id: str) -> str:
    return f"{_PREFIX}:report:{gateway_id}"


def _live_key(gateway_id: str) -> str:
    return f"{_PREFIX}:live:{gateway_id}"


def _text(value: Any) -> str | None:
    if value is None:
        return None
    return value.decode() if isinstance(value, bytes) else str(value)
