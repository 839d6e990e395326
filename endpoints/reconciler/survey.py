"""The sweep's look at every endpoint at once: which of them does a reconcile have anything to do for?

Reads what a reconcile reads, but for all endpoints together and without their leases, and plans with the same planner.
An endpoint that is as it should be costs no query of its own.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from django.utils import timezone

from endpoints import conditions, gateway_feed
from endpoints.models import Endpoint, Replica, ReplicaState
from endpoints.reconciler.observe import desired_of, view_of
from endpoints.reconciler.plan import plan
from endpoints.reconciler.state import Observed
from runtimes.contract import LABEL_ENDPOINT, Observation, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
CHUNK = 500  # endpoints that are in memory together
_ON_THE_WAY = (ReplicaState.WAITING, ReplicaState.STARTING, ReplicaState.DRAINING)


def unsettled(runtime: Runtime) -> Iterator[str]:
    """Ids of the endpoints that a reconcile should look at now, the one that has waited longest first."""
    try:
        containers = _by_endpoint(runtime.list())
    except RuntimeFailure as failure:
        log.warning("the sweep can't see what runs: %s (%s)", failure.code, failure.evidence)
        yield from Endpoint.objects.order_by("requested_at").values_list("pk", flat=True)
        return
    everything = (
        Endpoint.objects.select_related("revision__model__framework", "revision__instance_type")
        .order_by("requested_at")
        .iterator(chunk_size=CHUNK)
    )
    while chunk := list(islice(everything, CHUNK)):
        yield from _unsettled(chunk, containers, runtime.kind)


def _by_endpoint(found: Iterable[Observation]) -> dict[str, dict[str, Observation]]:
    containers: dict[str, dict[str, Observation]] = defaultdict(dict)
    for item in found:
        containers[item.labels.get(LABEL_ENDPOINT, "")][item.name] = item
    return containers


def _unsettled(
    chunk: Sequence[Endpoint], containers: dict[str, dict[str, Observation]], runtime_kind: str
) -> Iterator[str]:
    replicas: dict[str, list[Replica]] = defaultdict(list)
    for row in Replica.objects.filter(endpoint__in=chunk):
        replicas[row.endpoint_id].append(row)
    routed = gateway_feed.routes_applied(
        (item, [row for row in replicas[item.id] if row.state == ReplicaState.READY]) for item in chunk
    )
    for endpoint in chunk:
        rows = replicas[endpoint.id]
        seen = Observed(
            containers=containers.get(endpoint.id, {}), gateways=1, route_applied=endpoint.id in routed
        )
        if _is_moving(rows) or _has_work(endpoint, rows, seen, runtime_kind):
            yield endpoint.id


def _is_moving(rows: Iterable[Replica]) -> bool:
    return any(row.state in _ON_THE_WAY or row.unhealthy_since is not None for row in rows)


def _has_work(endpoint: Endpoint, rows: Sequence[Replica], seen: Observed, runtime_kind: str) -> bool:
    if endpoint.observed_generation != endpoint.generation or endpoint.lease_token:
        return True
    now = timezone.now()
    desired = desired_of(endpoint, runtime_kind)
    step = plan(desired, [view_of(row) for row in rows], seen, now)
    if step.actions or (step.settled and endpoint.stable_revision_id != desired.revision_id):
        return True
    if step.conditions[0].status and endpoint.settled_replicas != desired.wanted:
        return True
    verdict = conditions.derive(desired, step.conditions)
    if (verdict.status, verdict.reason) != (endpoint.status, endpoint.reason_code):
        return True
    told = conditions.as_json(step.conditions, endpoint.generation, endpoint.conditions, now.isoformat())
    return bool(told != endpoint.conditions)
