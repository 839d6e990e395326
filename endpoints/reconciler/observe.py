"""Read what is wanted and what is there. No transaction is open while the runtime is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from endpoints import gateway_feed
from endpoints.models import Endpoint, Replica, ReplicaState, Revision, Status
from endpoints.reconciler import probe
from endpoints.reconciler.state import Desired, Observed, ReplicaView
from endpoints.specs import blocked_reason, health_check, image_for
from runtimes.contract import LABEL_ENDPOINT, Observation, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)


def desired_of(endpoint: Endpoint, runtime: Runtime | None) -> Desired:
    """What is asked for, from the endpoint's row and its revision. runtime: None where it does not answer."""
    revision = endpoint.revision
    blocked, params = _blocked(revision, runtime)
    return Desired(
        endpoint_id=endpoint.id,
        generation=endpoint.generation,
        wanted=endpoint.wanted_replicas,
        revision_id=revision.pk if revision else None,
        deleting=endpoint.deleting_at is not None,
        paused=endpoint.paused_at is not None,
        start_timeout_s=health_check(revision).timeout_s if revision else 600,
        blocked=blocked if endpoint.wanted_replicas else "",
        blocked_params=params,
        was_serving=endpoint.status in (Status.ACTIVE, Status.DEGRADED, Status.UPDATING),
        was_settled=endpoint.observed_generation == endpoint.generation
        and endpoint.status in (Status.ACTIVE, Status.DEGRADED),
    )


def _blocked(revision: Revision | None, runtime: Runtime | None) -> tuple[str, dict[str, Any]]:
    if revision is None:
        return "model_gone", {}
    if runtime is None:
        return "", {}
    try:
        return blocked_reason(revision, runtime.info())
    except RuntimeFailure:
        return "", {}  # `observe` tells of it


def view_of(replica: Replica) -> ReplicaView:
    """The replica's row as plain data."""
    return ReplicaView(
        id=str(replica.id),
        name=replica.name,
        slot=replica.slot,
        attempt=replica.attempt,
        revision_id=replica.revision_id,
        generation=replica.generation,
        state=replica.state,
        started_at=replica.started_at,
        healthy_since=replica.healthy_since,
        ready_at=replica.ready_at,
        routed_at=replica.routed_at,
        ended_at=replica.ended_at,
        drain_started_at=replica.drain_started_at,
        pull_beat_at=replica.pull_beat_at,
        reason_code=replica.reason_code,
        evidence=replica.evidence,
    )


def observe(endpoint: Endpoint, replicas: Iterable[Replica], runtime: Runtime) -> Observed:
    """What the runtime, the replicas' health paths and the gateways say now."""
    gateways, applied = gateway_feed.route_state(endpoint)
    rows = list(replicas)
    try:
        found = {item.name: item for item in runtime.list({LABEL_ENDPOINT: endpoint.id})}
        waiting = any(item.state == "waiting" for item in rows)
        image = image_for(endpoint.revision) if waiting and endpoint.revision else None
        present = runtime.has_image(image) if image else None
    except RuntimeFailure as failure:
        log.warning("%s: %s (%s)", endpoint.id, failure.code, failure.evidence)
        return Observed(
            unreachable=failure.code, evidence=failure.evidence, gateways=gateways, route_applied=applied
        )
    return Observed(
        containers=found,
        healthy=_healthy(rows, found),
        image_present=present,
        gateways=gateways,
        route_applied=applied,
    )


def _healthy(replicas: Iterable[Replica], found: dict[str, Observation]) -> frozenset[str]:
    urls = {}
    for replica in replicas:
        container = found.get(replica.name)
        if replica.state != ReplicaState.STARTING or container is None or container.address is None:
            continue
        path = health_check(replica.revision).path
        urls[replica.name] = f"http://{_host(container.address.host)}:{container.address.port}{path}"
    return probe.healthy(urls) if urls else frozenset()


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
