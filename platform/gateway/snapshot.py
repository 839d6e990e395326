"""Targets → Envoy's resources, without any I/O: what every gateway of the platform should be doing now.

`resources` maps a file name to the xDS DiscoveryResponse that the agent writes under that name. Envoy reads
clusters and routes as CDS and RDS, the filters that change as extension configurations (ECDS): a filter changed
that way is swapped in under live streams, a changed listener would cut them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gateway import assignments, clusters, denials, filters, names, routes
from gateway.targets import EndpointTarget, GatewayTargets, Limits, address_text

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The gateway's whole configuration at one moment.

    version    hash of `resources`: equal content, equal version
    resources  file name → DiscoveryResponse
    endpoints  endpoint id → digest of its target; two snapshots that treat an endpoint alike agree on it
    addresses  where its clusters lead to, "host:port" each, control plane and activator left out
    """

    version: str
    resources: dict[str, Json]
    endpoints: dict[str, str]
    addresses: frozenset[str]

    def body(self) -> bytes:
        """What the control plane answers to an agent's poll."""
        return json.dumps(
            {"version": self.version, "resources": self.resources}, separators=(",", ":")
        ).encode()


def build(targets: GatewayTargets) -> Snapshot:
    """The snapshot of `targets`. Their order does not matter. Raises ValueError for keys that are no JWK set."""
    endpoints = sorted(targets.endpoints, key=lambda e: e.endpoint_id)
    served = [e for e in endpoints if e.is_served]
    counted = {e.endpoint_id: e.max_concurrency for e in endpoints if e.max_concurrency is not None}
    with_cluster = [e for e in endpoints if e.is_served or e.endpoint_id in counted]
    own = [clusters.control_plane(targets), *([clusters.activator(targets)] if targets.activator else [])]
    resources = {
        names.AT_ONCE: _file([assignments.at_once(counted)]),
        names.ASSIGNMENTS: _file(
            [_file([clusters.assignment(e)]) for e in endpoints if e.endpoint_id in counted]
        ),
        names.CLUSTERS: _file([*own, *map(clusters.of_endpoint, with_cluster)]),
        names.ROUTES: _file([routes.configuration(targets, endpoints)]),
        names.TOKENS: _file([filters.tokens(targets.tokens)]),
        names.ACCESS: _file([filters.access(targets.revoked, targets.callers)]),
        names.BODY_LIMIT: _file([filters.body_limit(targets.max_request_bytes)]),
        names.LIMITS: _file(denials.limits(targets.callers, endpoints)),
    }
    digests = {e.endpoint_id: endpoint_digest(e) for e in endpoints}
    addresses = frozenset(address_text(r.host, r.port) for e in served for r in e.replicas)
    return Snapshot(version_of(resources), resources, digests, addresses)


def version_of(resources: Mapping[str, Json]) -> str:
    """The version of a set of files; what a restarted agent computes for those it finds on its disk."""
    return _digest(" ".join(f"{name}={resources[name]['version_info']}" for name in names.FILES))


def endpoint_digest(target: EndpointTarget) -> str:
    """What tells two targets of one endpoint apart; the replicas' order does not matter."""
    fields = {name: getattr(target, name) for name in _FIELDS}  # in a third of asdict's time
    fields["replicas"] = sorted((r.replica_id, r.host, r.port) for r in target.replicas)
    fields["limits"] = [getattr(target.limits, name) for name in _LIMITS]
    return _digest(json.dumps(fields, sort_keys=True))


_FIELDS = tuple(field.name for field in dataclasses.fields(EndpointTarget))
_LIMITS = tuple(field.name for field in dataclasses.fields(Limits))


def _file(resources: list[Json]) -> Json:
    return {"version_info": _digest(json.dumps(resources, separators=(",", ":"))), "resources": resources}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
