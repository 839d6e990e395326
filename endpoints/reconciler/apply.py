"""Carry out a plan's actions, one by one. A row says what we are about to do before we do it, so that a worker that
dies in between leaves something the next one can see."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import Any

from django.db import IntegrityError, transaction
from django.utils import timezone

from endpoints import addresses, events, phase_times, placement, replica_logs
from endpoints.models import Endpoint, PhaseName, Replica, ReplicaState, Revision
from endpoints.models.replica import LIVE_STATES
from endpoints.queue import pull_soon
from endpoints.reconciler import phases
from endpoints.reconciler.evidence import cause_of, collect
from endpoints.reconciler.lease import Lease
from endpoints.reconciler.observe import view_of
from endpoints.reconciler.state import (
    Action,
    Create,
    Drain,
    Fail,
    Finish,
    Healthy,
    Hint,
    Observed,
    Place,
    Plan,
    Pull,
    Ready,
    Recovered,
    RemoveOrphan,
    ReplicaView,
    Routed,
    Start,
    Stop,
    TakeBack,
)
from endpoints.specs import container_spec, image_for, replica_name
from endpoints.usage import replica_time
from runtimes.contract import Runtime
from runtimes.errors import RuntimeFailure

log = logging.getLogger(__name__)
DEAD_KEPT = 20  # records of ended replicas an endpoint keeps
# and of each slot, however many others fail: the back-off is read from them, and that one has failed for good
DEAD_KEPT_A_SLOT = 7


class LeaseLost(Exception):
    """Another worker took over: whatever we still meant to do is its business now."""


@dataclass(frozen=True, slots=True)
class Applied:
    """changed: a row changed, so planning again at once may find more to do; finished: the endpoint is gone."""

    changed: bool
    finished: bool = False


def apply(plan: Plan, endpoint: Endpoint, observed: Observed, runtime: Runtime, lease: Lease) -> Applied:
    """Do everything the plan says. Raises LeaseLost; a driver's failure is recorded and ends only its action."""
    changed = False
    for action in plan.actions:
        if not lease.renew():
            raise LeaseLost(endpoint.id)
        if isinstance(action, Finish):
            _finish(endpoint, runtime)
            return Applied(changed=True, finished=True)
        if isinstance(action, TakeBack):
            take_back(action, endpoint, lease)
            return Applied(changed=True)
        changed |= _carry_out(action, endpoint, observed, runtime)
    return Applied(changed)


def _carry_out(action: Action, endpoint: Endpoint, observed: Observed, runtime: Runtime) -> bool:
    match action:
        case Create():
            try:
                _create(action, endpoint, runtime)
            except IntegrityError as error:  # another worker was faster: this attempt is there already
                raise LeaseLost(endpoint.id) from error
        case Place(replica):
            return _place(replica, runtime)
        case Pull(replica):
            _pull(replica, endpoint)
            return False
        case Start(replica):
            return _start(replica, endpoint, runtime)
        case Hint(replica, code, params):
            _update(replica, reason_code=code, evidence=dict(params))
        case Healthy(replica):
            _update(replica, healthy_since=timezone.now())
            phases.enter(replica.id, PhaseName.HEALTH_CHECK, timezone.now())
        case Ready(replica):
            _ready(replica, endpoint, observed)
        case Recovered(replica):
            _update(replica, unhealthy_since=None)
        case Drain(replica):
            _update(replica, state=ReplicaState.DRAINING, drain_started_at=timezone.now())
        case Stop():
            try:
                _stop(action, endpoint, runtime)
            except IntegrityError as error:  # its heir is there already
                raise LeaseLost(endpoint.id) from error
        case Fail():
            _fail(action, endpoint, runtime)
        case RemoveOrphan(name):
            _remove(runtime, name)
            return False
        case Routed(replica):
            _routed(replica)
    return True


def _update(replica: ReplicaView, **columns: Any) -> None:
    """Write on the replica's row if it is still in the state that was planned for.

    A driver's call may outlive the lease; what another worker has decided since then must not be turned back.
    """
    if not Replica.objects.filter(pk=replica.id, state=replica.state).update(**columns):
        raise LeaseLost(replica.name)


def _create(action: Create, endpoint: Endpoint, runtime: Runtime) -> None:
    _forget_old(endpoint)
    replica = _written(action, endpoint, runtime)
    # At once, if there is room; where there is none, the planner asks again.
    _place(view_of(replica), runtime)


def _written(action: Create, endpoint: Endpoint, runtime: Runtime) -> Replica:
    """The row of a new replica."""
    assert endpoint.revision is not None
    now = timezone.now()
    with transaction.atomic():
        replica = Replica.objects.create(
            endpoint=endpoint,
            revision=endpoint.revision,
            slot=action.slot,
            attempt=action.attempt,
            generation=endpoint.generation,
            epoch=endpoint.epoch,
            name=replica_name(endpoint, endpoint.revision, action.slot, action.attempt),
            runtime=runtime.kind,
        )
        # Only a first attempt was waited for since the request; a replacement begins when the old one ended.
        queued = endpoint.requested_at if action.attempt == 1 else now
        phases.enter(str(replica.id), PhaseName.QUEUED, min(queued, now))
        phases.enter(str(replica.id), PhaseName.SCHEDULING, now)
    return replica


def _forget_old(endpoint: Endpoint) -> None:
    """A replica that crashes for weeks must not fill the database with its obituaries, nor the disk with its logs."""
    dead = endpoint.replicas.exclude(state__in=LIVE_STATES).order_by("-created_at")
    seen: Counter[tuple[int, int]] = Counter()
    old = []
    for place, (pk, name, slot, revision_id) in enumerate(
        dead.values_list("pk", "name", "slot", "revision_id")
    ):
        seen[slot, revision_id] += 1
        of_now = revision_id == endpoint.revision_id and seen[slot, revision_id] <= DEAD_KEPT_A_SLOT
        if place >= DEAD_KEPT and not of_now:
            old.append((pk, name))
    if old:
        with transaction.atomic():
            gone = endpoint.replicas.filter(pk__in=[pk for pk, _ in old])
            replica_time.settle(gone, timezone.now())
            gone.delete()
        replica_logs.forget([name for _, name in old])


def _place(replica: ReplicaView, runtime: Runtime) -> bool:
    row = Replica.objects.select_related("endpoint__region", "revision__instance_type").get(pk=replica.id)
    outcome = placement.place(row, now=timezone.now())
    if isinstance(outcome, placement.NoRoom) and outcome.kind == "no_node" and placement.first_look(runtime):
        outcome = placement.place(row, now=timezone.now())  # the first endpoint came before the first sweep
    if isinstance(outcome, placement.NoRoom):
        waits = {"reason_code": "no_capacity", "evidence": dict(outcome.params)}
        if (replica.reason_code, dict(replica.evidence)) == (waits["reason_code"], waits["evidence"]):
            return False
        _update(replica, **waits)
        return True
    if replica.reason_code:
        _update(replica, reason_code="", evidence={})
    return True


def _pull(replica: ReplicaView, endpoint: Endpoint) -> None:
    assert endpoint.revision is not None
    now = timezone.now()
    # Why it failed before stays until bytes come: the status would flicker with every try, and be an event each time.
    told = {} if replica.reason_code else {"evidence": {"image": image_for(endpoint.revision)}}
    _update(replica, pull_beat_at=now, **told)
    phases.enter(replica.id, PhaseName.PULLING, now)
    pull_soon(replica.id)


def _start(replica: ReplicaView, endpoint: Endpoint, runtime: Runtime) -> bool:
    row = Replica.objects.select_related("revision__model__framework", "revision__instance_type").get(
        pk=replica.id
    )
    spec = container_spec(row, endpoint)
    phases.enter(replica.id, PhaseName.CREATING, timezone.now())
    try:
        container = runtime.start(spec, avoid=addresses.held())
    except RuntimeFailure as failure:
        if failure.transient:
            _update(
                replica,
                reason_code=cause_of(failure),
                evidence={"error": failure.evidence, "image": spec.image},
            )
            log.warning("%s: %s (%s); trying again", replica.name, failure.code, failure.evidence)
            return False
        _fail(
            Fail(replica, failure.code, {"error": failure.evidence, "image": spec.image}), endpoint, runtime
        )
        return True
    now = timezone.now()
    with transaction.atomic():
        _update(
            replica,
            state=ReplicaState.STARTING,
            runtime_id=container.runtime_id,
            started_at=replica.started_at or now,
            reason_code="",
            evidence={},
            **_address(container.address.host, container.address.port) if container.address else {},
        )
        phases.enter(replica.id, PhaseName.STARTING, now)
        phases.enter(replica.id, PhaseName.LOADING, timezone.now())
        events.record(endpoint, "replica.started", replica=replica.name)
    return True


def _address(host: str, port: int) -> dict[str, Any]:
    return {"host": host, "port": port}


def _ready(replica: ReplicaView, endpoint: Endpoint, observed: Observed) -> None:
    address = observed.containers[replica.name].address
    assert address is not None  # it answered a probe there a moment ago
    now = timezone.now()
    with transaction.atomic():
        _update(
            replica,
            state=ReplicaState.READY,
            ready_at=now,
            reason_code="",
            evidence={},
            **_address(address.host, address.port),
        )
        phases.enter(replica.id, PhaseName.ROUTING, now)
        events.record(endpoint, "replica.ready", replica=replica.name)


def _routed(replica: ReplicaView) -> None:
    now = timezone.now()
    with transaction.atomic():
        _update(replica, routed_at=now)
        phases.enter(replica.id, PhaseName.ACTIVE, now)
        phases.close(replica.id, now)
        phase_times.record(replica.id)


def _stop(action: Stop, endpoint: Endpoint, runtime: Runtime) -> None:
    replica = action.replica
    # Before the container goes, and its address with it: whoever starts next must not get an address that some gateway
    # may still send this replica's requests to, or one that is stopped now when it starts again.
    row = Replica.objects.get(pk=replica.id)
    addresses.hold(row, left=addresses.is_free(row))
    _remove(runtime, replica.name)
    now = timezone.now()
    with transaction.atomic():
        _update(replica, state=ReplicaState.STOPPED, ended_at=now)
        placement.release(replica.id)
        phases.close(replica.id, now)
        events.record(endpoint, "replica.stopped", replica=replica.name)
        if action.heir:
            placement.place(_written(action.heir, endpoint, runtime), now=now, heir=True)


def _fail(action: Fail, endpoint: Endpoint, runtime: Runtime) -> None:
    replica = action.replica
    row = Replica.objects.select_related("revision__model__framework", "revision__instance_type").get(
        pk=replica.id
    )
    code, evidence = collect(row, action.code, action.params, runtime)
    now = timezone.now()
    with transaction.atomic():
        _update(replica, state=ReplicaState.FAILED, ended_at=now, reason_code=code, evidence=evidence)
        addresses.hold(row)
        phases.close(replica.id, now)
        kind = "replica.lost" if code == "container_gone" else "replica.failed"
        told = {name: evidence[name] for name in events.TOLD if name in evidence}
        events.record(endpoint, kind, replica=replica.name, reason=code, **told)
    # Last: dying before this leaves a container that no live row knows, which the next look removes. The other way
    # round the evidence would be lost with the container. What it claims it has until then: one that hangs still runs
    # on its GPU. The sweep gives back what a worker that dies here leaves claimed.
    _remove(runtime, replica.name)
    with transaction.atomic():
        placement.release(replica.id)


def take_back(action: TakeBack, endpoint: Endpoint, lease: Lease) -> None:
    """Go back to the stable revision: the endpoint's row tells why, until a person acts on it."""
    failed, stable = endpoint.revision, endpoint.stable_revision
    assert failed is not None
    assert stable is not None
    params = {name: value for name, value in action.params.items() if name != "logs"}
    now = timezone.now()
    told = {"revision": failed.number, "code": action.code, "params": params, "at": now.isoformat()}
    with transaction.atomic():
        # A person's change since this was planned wins: then there is another revision to judge.
        taken = lease.write_if(
            {"generation": endpoint.generation, "revision_id": failed.pk},
            revision_id=stable.pk,
            failed_update=told,
            generation=endpoint.generation + 1,
            requested_at=now,
        )
        if not taken:
            raise LeaseLost(endpoint.id)
        Revision.objects.filter(pk=failed.pk).update(failed_code=action.code, failed_params=params)
        if failed.allow_interruption:
            # Where the way there had no room for one more, the way back has none either.
            Revision.objects.filter(pk=stable.pk).update(allow_interruption=True)
        shown = {name: params[name] for name in events.TOLD if name in params}
        events.record(
            endpoint,
            "revision.taken_back",
            number=failed.number,
            serving=stable.number,
            reason=action.code,
            **shown,
        )


def _remove(runtime: Runtime, name: str) -> None:
    """What it said last goes with the container: it is written down in between. Nobody waits for what has failed."""
    runtime.stop(name, grace_s=2)
    replica_logs.keep(runtime, name)
    runtime.remove(name)


def _finish(endpoint: Endpoint, runtime: Runtime) -> None:
    """The row goes last. The project's network goes when no other endpoint of the project is left."""
    others = Endpoint.objects.filter(project=endpoint.project_id).exclude(pk=endpoint.pk)
    if not others.exists():
        runtime.remove_network(endpoint.project_id)
    replica_logs.forget(list(endpoint.replicas.values_list("name", flat=True)))
    with transaction.atomic():
        events.record(endpoint, "endpoint.deleted")
        replica_time.settle(endpoint.replicas.all(), timezone.now())
        endpoint.delete()
