"""One reconcile of one endpoint: lease → observe → plan → apply → write what was found, once, if it changed."""

from __future__ import annotations

import logging
from typing import Any

from django.db import transaction
from django.utils import timezone

from endpoints import conditions, events, gateway_feed
from endpoints.live import endpoint_changed
from endpoints.models import Endpoint
from endpoints.reconciler.apply import LeaseLost, apply
from endpoints.reconciler.lease import Lease, acquire
from endpoints.reconciler.observe import desired_of, observe, view_of
from endpoints.reconciler.plan import plan
from endpoints.reconciler.state import Desired, Plan
from runtimes.contract import Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
# Each round that changed a row may open the way for the next one (row written → container started). A few in a row
# save the trips through the broker; the rest comes with the next look.
ROUNDS = 4
BUSY_RETRY_S = 0.3


def reconcile(endpoint_id: str, runtime: Runtime) -> float | None:
    """Bring one endpoint closer to what is wanted. Answers in how many seconds to look again, None for the sweep."""
    lease = acquire(endpoint_id)
    if lease is None:
        # Someone else is at it, and may have looked before the change that this hint is about.
        return BUSY_RETRY_S if Endpoint.objects.filter(pk=endpoint_id).exists() else None
    try:
        return _rounds(lease, runtime)
    except LeaseLost:
        # Where only a row had changed under the plan (a pull that failed), the lease is still this one: kept, it would
        # keep everybody out until it expires.
        mine = lease.finish()
        log.info("%s: %s", endpoint_id, "it changed meanwhile" if mine else "another worker took over")
        return BUSY_RETRY_S if mine else None
    except RuntimeFailure as failure:
        log.warning("%s: %s (%s)", endpoint_id, failure.code, failure.evidence)
        lease.finish()
        return 2.0
    except BaseException:
        lease.finish()
        raise


def _rounds(lease: Lease, runtime: Runtime) -> float | None:
    for _ in range(ROUNDS):
        endpoint = _load(lease.endpoint_id)
        replicas = list(endpoint.replicas.select_related("revision__model__framework"))
        observed = observe(endpoint, replicas, runtime)
        desired = desired_of(endpoint, runtime.kind)
        step = plan(desired, [view_of(item) for item in replicas], observed, timezone.now())
        applied = apply(step, endpoint, observed, runtime, lease)
        if applied.finished:
            endpoint_changed(endpoint)
            gateway_feed.changed()
            return None
        _record(lease, endpoint, desired, step, applied.changed)
        if not applied.changed:
            break
    lease.finish()
    return 0.05 if applied.changed else step.look_again_s


def _load(endpoint_id: str) -> Endpoint:
    return Endpoint.objects.select_related(
        "project", "revision__model__framework", "revision__instance_type", "stable_revision"
    ).get(pk=endpoint_id)


def _record(lease: Lease, endpoint: Endpoint, desired: Desired, step: Plan, rows_changed: bool) -> None:
    """Write conditions and status under the lease, only if they changed; tell gateway and pages."""
    verdict = conditions.derive(desired, step.conditions)
    now = timezone.now()
    params = {key: value for key, value in verdict.params.items() if key != "logs"}
    fresh: dict[str, Any] = {
        "conditions": conditions.as_json(
            step.conditions, endpoint.generation, endpoint.conditions, now.isoformat()
        ),
        "status": verdict.status,
        "reason_code": verdict.reason,
        "reason_params": params,
        "ready_replicas": int(step.conditions[0].params["ready"]),
        "observed_generation": desired.generation,
    }
    if step.conditions[0].status:
        fresh["settled_replicas"] = desired.wanted
    if step.settled:
        fresh["stable_revision_id"] = desired.revision_id
    changed = {name: value for name, value in fresh.items() if getattr(endpoint, name) != value}
    if not changed and not rows_changed:
        return
    with transaction.atomic():
        if changed and not lease.write(updated_at=now, **changed):
            raise LeaseLost(endpoint.id)
        if "status" in changed:
            events.record(endpoint, "status.changed", before=endpoint.status, after=verdict.status)
        endpoint_changed(endpoint)
        gateway_feed.changed()
