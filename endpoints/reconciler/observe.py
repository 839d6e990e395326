"""Read what is wanted and what is there. No transaction is open while the runtime is asked."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta

from django.conf import settings
from django.utils import timezone

from endpoints import gateway_feed
from endpoints.models import Endpoint, Replica, ReplicaState, Status
from endpoints.reconciler import hints, probe
from endpoints.reconciler.state import Desired, Observed, ReplicaView
from endpoints.specs import blocked_reason, health_check, image_for
from gateway.leaving import Leaving
from runtimes.contract import LABEL_ENDPOINT, Observation, Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
PULL_ALLOWANCE_S = 1800.0  # on top of the start: an update may also have to fetch an image and wait for room
UNCOUNTED = timedelta(seconds=30)


def desired_of(endpoint: Endpoint, kind: str) -> Desired:
    """What is asked for, from the endpoint's row and its revision. kind: of the runtime (docker, process …)."""
    revision = endpoint.revision
    start_timeout_s = health_check(revision).timeout_s if revision else 600
    blocked, params = blocked_reason(revision, kind) if revision else ("model_gone", {})
    return Desired(
        endpoint_id=endpoint.id,
        generation=endpoint.generation,
        wanted=endpoint.wanted_replicas,
        revision_id=revision.pk if revision else None,
        epoch=endpoint.epoch,
        surge=0 if revision and revision.allow_interruption else 1,
        stable_revision_id=endpoint.stable_revision_id,
        # Not the revision's own age: nothing of it was tried while the endpoint was paused.
        revised_at=max(revision.created_at, endpoint.requested_at) if revision else None,
        drain_timeout_s=settings.BERTH_DRAIN_TIMEOUT_S,
        failed_update=endpoint.failed_update,
        deleting=endpoint.deleting_at is not None,
        paused=endpoint.paused_at is not None,
        start_timeout_s=start_timeout_s,
        rollout_timeout_s=start_timeout_s + PULL_ALLOWANCE_S,
        blocked=blocked if endpoint.wanted_replicas else "",
        blocked_params=params,
        was_serving=endpoint.status in (Status.ACTIVE, Status.DEGRADED, Status.UPDATING),
        was_settled=endpoint.observed_generation == endpoint.generation
        and endpoint.status in (Status.ACTIVE, Status.DEGRADED),
        settled_replicas=endpoint.settled_replicas,
        asleep=endpoint.is_asleep,
    )


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
        epoch=replica.epoch,
        placed=replica.claimed,
        started_at=replica.started_at,
        healthy_since=replica.healthy_since,
        ready_at=replica.ready_at,
        routed_at=replica.routed_at,
        unhealthy_since=replica.unhealthy_since,
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
    healthy = _healthy(rows, found)
    return Observed(
        containers=found,
        healthy=healthy,
        hints=hints.look(rows, found, healthy, runtime, timezone.now()),
        image_present=present,
        gateways=gateways,
        route_applied=applied,
        drained=_drained(rows),
    )


def _drained(replicas: Iterable[Replica]) -> frozenset[str]:
    draining = [item for item in replicas if item.state == ReplicaState.DRAINING]
    if not draining:
        return frozenset()
    now = timezone.now()
    found = gateway_feed.leaving(draining)
    return frozenset(
        item.name
        for item in draining
        if item.name in found and _nobody_is_left(found[item.name], item.drain_started_at or now, now)
    )


def _nobody_is_left(leaving: Leaving, since: datetime, now: datetime) -> bool:
    if leaving.streams is None:
        # A gateway that can't count its connections: give what it was doing a while to end.
        return leaving.left and now - since >= UNCOUNTED
    return leaving.left and leaving.streams == 0


def _healthy(replicas: Iterable[Replica], found: dict[str, Observation]) -> frozenset[str]:
    urls = {}
    for replica in replicas:
        container = found.get(replica.name)
        asked = replica.state == ReplicaState.STARTING or (
            replica.state == ReplicaState.READY and replica.unhealthy_since is not None
        )
        if not asked or container is None or container.address is None:
            continue
        path = health_check(replica.revision).path
        urls[replica.name] = probe.url(container.address, path)
    return probe.healthy(urls) if urls else frozenset()
