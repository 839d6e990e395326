"""Whether anybody still sends requests to an address, from what the gateways said last. Pure.

A gateway may be doing more than it has told: between taking a snapshot and saying so it can lose the control plane.
So every version that it said it serves or was given since counts, and a version that nobody remembers counts as
routing everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass

# Version → the addresses ("host:port") that its clusters lead to. What is missing was forgotten.
Routed = Mapping[str, Set[str]]


@dataclass(frozen=True, slots=True)
class Leaving:
    """How far a replica is out of the gateways' hands.

    left      no gateway sends it new requests, and each has counted since, or said that it cannot
    streams   requests that gateways still hold to it, as far as they were heard; None: one of them cannot count, or
              has not yet
    """

    left: bool
    streams: int | None


UNKNOWN = Leaving(left=False, streams=None)


@dataclass(frozen=True, slots=True)
class Sample:
    """The connections that a gateway's Envoy held to addresses outside the clusters of `applied`; None: it cannot
    count them."""

    applied: str
    connections: Mapping[str, int] | None


@dataclass(frozen=True, slots=True)
class GatewayReport:
    """One gateway's last word.

    applied    newest version whose routing its Envoy serves, "" if none does as far as it knows
    rejected   what of the newest version its Envoy does not work with, and why, "" if it works with all
    live       it was heard of a moment ago
    given      versions that it was given since it last had applied all, the one it applies included
    gone       it said that it has stopped its Envoy; the files of `applied` are still on its disk
    samples    its last two counts, the newest first
    """

    gateway_id: str
    applied: str
    rejected: str
    live: bool
    given: tuple[str, ...] = ()
    gone: bool = False
    samples: tuple[Sample, ...] = ()

    def versions(self) -> set[str]:
        """All that it may be serving, or start with."""
        return {self.applied, *self.given}


def leaving(gateways: Iterable[GatewayReport], routed: Routed, address: str) -> Leaving:
    """Of a replica at `address`. Without any gateway it has left, and nobody streams."""
    serving = [gateway for gateway in gateways if not gateway.gone]
    if any(_may_route(gateway, routed, address) for gateway in serving):
        return UNKNOWN
    counts = [_counts(gateway, routed, address) for gateway in serving]
    if any(len(found) < 2 for found in counts):
        return UNKNOWN
    total = 0
    for found in counts:
        known = [count for count in found if count is not None]
        if len(known) < 2:
            return Leaving(left=True, streams=None)
        total += max(known)
    return Leaving(left=True, streams=total)


def is_free(gateways: Iterable[GatewayReport], routed: Routed, address: str) -> bool:
    """Whether another replica may have the address: not even a stopped gateway would lead there when it starts."""
    return not any(_may_route(gateway, routed, address) for gateway in gateways)


def _may_route(gateway: GatewayReport, routed: Routed, address: str) -> bool:
    # No applied version is no comfort: Envoy has just ended or did not answer, and the files are there.
    return any(version not in routed or address in routed[version] for version in gateway.versions())


def _counts(gateway: GatewayReport, routed: Routed, address: str) -> list[int | None]:
    """Its last two, those of versions with the address left out.

    Two, because Envoy's workers follow its main thread a moment later: one alone may come too early. Of a gateway
    that is silent the last ones stay true: there will be no more connections than there were.
    """
    return [
        None if sample.connections is None else sample.connections.get(address, 0)
        for sample in gateway.samples[:2]
        if sample.applied in routed and address not in routed[sample.applied]
    ]
