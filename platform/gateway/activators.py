"""What the control plane knows about its activators, kept in Redis: who lives, what waits there, and to which replicas
it is, or may be, connected.

An activator acts on a word about a replica's address for `lines.LEASE_S` and tries to connect for a moment more; so
long, and for some reports after it, the address counts as led to. What it is connected to it says every two seconds.
Every method raises redis.RedisError if Redis does not answer.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.leaving import Leaving

LIVE_S = 6  # reports come every 2 s at the latest
# Lease 2 s, a connection that is being made 2 s, the report that names it 2 s, and as much again for a slow machine.
GIVEN_S = 10
# How long the last word of one that went silent counts: it may go on with its answers, cut off from us alone.
KNOWN_S = 600

_PREFIX = "berth:activator"
_INDEX = f"{_PREFIX}:index"


@dataclass(frozen=True, slots=True)
class ActivatorReport:
    """What an activator tells with every question.

    instance     drawn at its start: another one under the same name means that this one's connections are gone
    waiting      endpoint → how many requests wait
    passing      endpoint → how many were let through and are being answered
    oldest       endpoint → seconds for which the first of them has waited
    connections  "host:port" → its connections to that replica, those being made included
    gone         it ends, this is its last word
    """

    name: str
    instance: str
    waiting: Mapping[str, int] = field(default_factory=dict)
    passing: Mapping[str, int] = field(default_factory=dict)
    oldest: Mapping[str, float] = field(default_factory=dict)
    connections: Mapping[str, int] = field(default_factory=dict)
    gone: bool = False

    @classmethod
    def of(cls, data: Any) -> ActivatorReport:
        """From the activator's JSON. Raises ValueError."""
        try:
            rows = {str(key)[:40]: dict(row) for key, row in dict(data["waiting"]).items()}
            return cls(
                str(data["activator"])[:100],
                str(data["instance"])[:100],
                {key: int(row["count"]) for key, row in rows.items() if int(row["count"]) > 0},
                {key: int(row["passing"]) for key, row in rows.items() if int(row.get("passing", 0)) > 0},
                {key: float(row.get("oldest_s", 0)) for key, row in rows.items()},
                {str(key)[:300]: int(n) for key, n in dict(data["connections"]).items() if int(n) > 0},
                bool(data.get("gone")),
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"no activator's report: {error!r}") from error


class Activators:
    """client: a redis-py client, whether it decodes answers or not."""

    def __init__(self, client: Any) -> None:
        self._redis = client

    def report(self, said: ActivatorReport, given: Iterable[str]) -> None:
        """One question of an activator, and the addresses that it is about to be answered: call it before that."""
        addresses = sorted(set(given))
        held = Counter(said.waiting)
        held.update(said.passing)
        word = json.dumps([said.instance, dict(said.connections), addresses])
        pipe = self._redis.pipeline()
        if said.gone:
            pipe.delete(_word_key(said.name), _live_key(said.name))
            pipe.srem(_INDEX, said.name)
        else:
            pipe.sadd(_INDEX, said.name)
            pipe.set(_word_key(said.name), word, ex=KNOWN_S)
            pipe.set(_live_key(said.name), json.dumps(held), ex=LIVE_S)
        for address in addresses:
            pipe.set(_given_key(address), "1", ex=GIVEN_S)
        pipe.execute()

    def waiting(self) -> dict[str, int]:
        """Endpoint → requests in the hands of the activators that live: those that wait, and those let through."""
        names = self._names()
        found = self._redis.mget([_live_key(name) for name in names]) if names else []
        total: Counter[str] = Counter()
        for held in found:
            if held:
                total.update(json.loads(_text(held)))
        return dict(total)

    def leaving(self, found: Mapping[str, tuple[str, Leaving]]) -> dict[str, Leaving]:
        """Of each replica (name → its "host:port" and what the gateways say), with the activators' part added."""
        leads, connections = self._leads_to({address for address, _ in found.values()})
        return {
            name: _with_activators(said, leads=address in leads, count=connections.get(address, 0))
            for name, (address, said) in found.items()
        }

    def free(self, addresses: Iterable[str]) -> set[str]:
        """Those to which no activator may connect any more."""
        wanted = set(addresses)
        return wanted - self._leads_to(wanted)[0]

    def _leads_to(self, addresses: set[str]) -> tuple[set[str], Mapping[str, int]]:
        """Those of `addresses` to which somebody may yet connect; and connections as they were heard of."""
        wanted, names = sorted(addresses), self._names()
        pipe = self._redis.pipeline()
        pipe.mget([_given_key(address) for address in wanted] or [_given_key("")])
        for name in names:
            pipe.mget(_word_key(name), _live_key(name))
        given, *words = pipe.execute()
        leads = {address for address, mark in zip(wanted, given, strict=False) if mark}
        connections: Counter[str] = Counter()
        for word, alive in words:
            if not word:
                continue
            _, open_, last_given = json.loads(_text(word))
            connections.update(open_)
            if not alive:  # what it did with its last answer nobody has heard
                connections.update({address: 1 for address in last_given if address not in open_})
        return leads, connections

    def _names(self) -> list[str]:
        return sorted(_text(name) for name in self._redis.smembers(_INDEX))


def _with_activators(said: Leaving, *, leads: bool, count: int) -> Leaving:
    if leads:
        return Leaving(left=False, streams=None)
    return Leaving(said.left, None if said.streams is None else said.streams + count)


def _word_key(name: str) -> str:
    return f"{_PREFIX}:word:{name}"


def _live_key(name: str) -> str:
    return f"{_PREFIX}:live:{name}"


def _given_key(address: str) -> str:
    return f"{_PREFIX}:given:{address}"


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
