"""Everything that changes an endpoint because someone asked for it.

Each function is one transaction: it writes what is wanted, an event and a record in the audit log, and asks for a
reconcile after the commit. It never touches a runtime. Bad input raises ValidationError({field: [messages]}); what the
endpoint's present state forbids raises config.errors.Conflict.

What replaces running replicas (a revision, a roll-back, a restart) needs room for one more beside them. Where there
is none, endpoints.interruption says whether an old one has to go first, and that is done only with
`allow_interruption`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from config.errors import Conflict
from endpoints import environment, events, gateway_feed, limits, revisions
from endpoints.autoscaling import ledger
from endpoints.interruption import is_needed
from endpoints.limits import LIMITS
from endpoints.live import endpoint_changed
from endpoints.models import Endpoint, Revision
from endpoints.queue import reconcile_soon
from endpoints.validation import REVISION_FIELDS, clean, duplicate_name
from iam import audit
from iam.actors import Actor


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What a new endpoint shall be. Ids are as typed: they are checked, not trusted.

    scale_up_after_s, scale_down_after_s   None: the defaults of endpoints.validation
    requests_per_minute … max_concurrency   of all its callers together; None: no limit
    settings      framework settings that differ from the model's own
    environment   variables for its containers; may hold secrets
    """

    name: str
    region: str
    model_id: str
    instance_type: str
    min_replicas: int = 1
    max_replicas: int = 1
    private: bool = True
    cpu_percent: int | None = None
    memory_percent: int | None = None
    gpu_percent: int | None = None
    latency_ms: int | None = None
    in_flight: int | None = None
    idle_timeout_s: int | None = None
    scale_up_after_s: int | None = None
    scale_down_after_s: int | None = None
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None
    max_concurrency: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


_COLUMNS = (
    "name",
    "private",
    "min_replicas",
    "max_replicas",
    "cpu_percent",
    "memory_percent",
    "gpu_percent",
    "latency_ms",
    "in_flight",
    "idle_timeout_s",
    "scale_up_after_s",
    "scale_down_after_s",
    *LIMITS,
)


def create_endpoint(*, actor: Actor, spec: EndpointSpec) -> Endpoint:
    """A new endpoint in the actor's project, with its first revision. Deploys after the commit. Raises
    PermissionDenied for limits that the actor may not set."""
    limits.require(actor, [name for name in LIMITS if getattr(spec, name) is not None])
    values = {name: getattr(spec, name) for name in EndpointSpec.__dataclass_fields__}
    values["environment"] = environment.merge({}, spec.environment)
    cleaned = clean(actor.project, values)
    try:
        with transaction.atomic():
            endpoint = Endpoint.objects.create(
                project=actor.project,
                region=cleaned["region"],
                requested_at=timezone.now(),
                created_by=actor.user,
                **{name: cleaned[name] for name in _COLUMNS},
            )
            _revise(endpoint, actor, revisions.of_cleaned(cleaned))
            events.record(endpoint, "endpoint.created", actor)
            audit.record(actor, "endpoint.create", endpoint, after=_state(endpoint))
            _announce(endpoint)
    except IntegrityError as error:
        raise duplicate_name(spec.name) from error
    return endpoint


def update_endpoint(
    *, actor: Actor, endpoint: Endpoint, changes: Mapping[str, Any], allow_interruption: bool = False
) -> Endpoint:
    """Change what `changes` names (EndpointSpec's fields; the region stays).

    What a replica is made of makes a new revision, which is rolled out; the rest takes effect in place. What comes
    to the present values changes nothing. `environment` is a change of its own kind: see endpoints.environment.
    Raises PermissionDenied for limits that the actor may not set.
    """
    unknown = set(changes) - set(present_values(endpoint))
    if unknown:
        raise ValidationError({name: [_("This can't be changed.")] for name in sorted(unknown)})
    try:
        with transaction.atomic():
            # Compared under the lock: what somebody else has just changed must not be turned back.
            return _update(actor, _lock(endpoint), changes, allow_interruption)
    except IntegrityError as error:
        raise duplicate_name(str(changes.get("name", endpoint.name))) from error


def _update(
    actor: Actor, endpoint: Endpoint, changes: Mapping[str, Any], allow_interruption: bool
) -> Endpoint:
    present = present_values(endpoint)
    if "environment" in changes:
        merged = environment.merge(present["environment"], changes["environment"])
        changes = {**changes, "environment": merged}
    if not any(_differs(present[name], value) for name, value in changes.items()):
        return endpoint
    cleaned = clean(endpoint.project, {**present, **changes, "region": endpoint.region_id}, endpoint=endpoint)
    changed = {name for name in changes if _differs(present[name], _as_present(cleaned, name))}
    if not changed:
        return endpoint
    limits.require(actor, changed)
    was = _state(endpoint)
    for name in _COLUMNS:
        setattr(endpoint, name, cleaned[name])
    in_place = sorted(changed - REVISION_FIELDS)
    if REVISION_FIELDS & changed:
        asked = revisions.of_cleaned(cleaned)
        before = revisions.of_revision(endpoint.revision) if endpoint.revision else None
        told = [*(change.field for change in revisions.diff(before, asked)), *in_place]
        revision = _revise(endpoint, actor, asked, allow_interruption=allow_interruption)
        events.record(endpoint, "endpoint.revised", actor, number=revision.number, fields=", ".join(told))
    else:
        events.record(endpoint, "endpoint.changed", actor, fields=", ".join(in_place))
    _audit_change(actor, "endpoint.change", endpoint, was)
    if changed & LIMITS.keys():
        gateway_feed.changed()
    _wanted_changed(endpoint)
    return endpoint


def rollback_endpoint(
    *, actor: Actor, endpoint: Endpoint, number: int, allow_interruption: bool = False
) -> Endpoint:
    """A new revision that takes up the configuration of revision `number`. Counts, name and access stay.

    Where the endpoint has that configuration already, nothing changes: asking twice is fine.
    """
    with transaction.atomic():
        locked = _lock(endpoint)
        wanted = (
            locked.revisions.select_related("model__framework", "instance_type").filter(number=number).first()
        )
        if wanted is None:
            raise ValidationError({"revision": [_("There is no revision %(number)s.") % {"number": number}]})
        if locked.revision and revisions.same(
            revisions.of_revision(locked.revision), revisions.of_revision(wanted)
        ):
            return locked
        values = {**present_values(locked), **_configuration_values(wanted), "region": locked.region_id}
        gpu_percent = locked.gpu_percent
        if not wanted.instance_type.gpu_count:
            values["gpu_percent"] = locked.gpu_percent = None  # a threshold for what it won't have
        asked = revisions.of_cleaned(clean(locked.project, values, endpoint=locked))
        was = {**_state(locked), "gpu_percent": gpu_percent}
        revision = _revise(locked, actor, asked, allow_interruption=allow_interruption, restores=wanted)
        events.record(locked, "endpoint.rolled_back", actor, number=revision.number, restored=wanted.number)
        _audit_change(actor, "endpoint.rollback", locked, was)
        _wanted_changed(locked)
    return locked


def restart_endpoint(*, actor: Actor, endpoint: Endpoint, allow_interruption: bool = False) -> Endpoint:
    """Replace every replica, one after another, by one of the same configuration. One that has no replica serving is
    tried again at once. Raises Conflict while it is paused."""
    with transaction.atomic():
        locked = _lock(endpoint)
        _not_paused(locked)
        if locked.revision:
            alone = is_needed(locked, locked.revision.instance_type, allowed=allow_interruption)
            locked.revision.allow_interruption = alone
            locked.revision.save(update_fields=["allow_interruption"])
        locked.epoch += 1
        locked.failed_update = {}
        events.record(locked, "endpoint.restarted", actor)
        audit.record(actor, "endpoint.restart", locked)
        _wanted_changed(locked)
    return locked


def _as_present(cleaned: Mapping[str, Any], name: str) -> Any:
    """A cleaned value in the form that `present_values` has: rows as their ids."""
    if name in ("model_id", "instance_type"):
        return str(cleaned["model" if name == "model_id" else name].pk)
    return cleaned[name]


def pause_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Stop all replicas and release what they hold; the URL answers 503. Pausing twice is fine.

    What the autoscaler had decided ends with it: a resumed endpoint starts with its min, and one that slept wakes."""
    return _switch(
        endpoint, actor, "pause", "endpoint.paused", paused_at=timezone.now(), desired_replicas=None
    )


def resume_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Serve again after a pause."""
    return _switch(endpoint, actor, "resume", "endpoint.resumed", paused_at=None, failed_update={})


def retry_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Try again what failed, unchanged, without waiting for its next turn. What serves is left alone. Raises Conflict
    while it is paused."""
    with transaction.atomic():
        locked = _lock(endpoint)
        _not_paused(locked)
        locked.failed_update = {}
        events.record(locked, "endpoint.retried", actor)
        audit.record(actor, "endpoint.retry", locked)
        _wanted_changed(locked)
    return locked


def keep_revision(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Be content with the revision that a failed update went back to: the endpoint is whole again."""
    with transaction.atomic():
        locked = _lock(endpoint)
        if not locked.failed_update:
            return locked
        number = locked.revision.number if locked.revision else 0
        events.record(locked, "endpoint.revision_kept", actor, number=number)
        given_up = {"failed_revision": locked.failed_update.get("revision")}
        audit.record(actor, "endpoint.keep_revision", locked, before=given_up, after={"revision": number})
        locked.failed_update = {}
        _wanted_changed(locked)
    return locked


def delete_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Ask for its end. The row goes last, when nothing of it is left. Deleting twice is fine."""
    if endpoint.deleting_at:
        return endpoint
    return _switch(endpoint, actor, "delete", "endpoint.delete_requested", deleting_at=timezone.now())


def present_values(endpoint: Endpoint) -> dict[str, Any]:
    """The endpoint as EndpointSpec's fields, the region left out: what `update_endpoint` compares with."""
    revision = endpoint.revision
    values: dict[str, Any] = {name: getattr(endpoint, name) for name in _COLUMNS}
    if revision is None:
        return {**values, "model_id": "", "instance_type": "", "settings": {}, "environment": {}}
    return {**values, **_configuration_values(revision)}


def _configuration_values(revision: Revision) -> dict[str, Any]:
    return {
        "model_id": str(revision.model_id),
        "instance_type": revision.instance_type_id,
        "settings": dict(revision.settings),
        "environment": dict(revision.environment),
    }


def _state(endpoint: Endpoint) -> dict[str, Any]:
    """The endpoint as the audit log tells it, a field a setting and a variable; those are masked there."""
    values = present_values(endpoint)
    for group in ("settings", "environment"):
        values |= {f"{group}.{key}": value for key, value in values.pop(group).items()}
    if endpoint.revision:
        values |= {"model": endpoint.revision.model.name, "revision": endpoint.revision.number}
    return {**values, "region": endpoint.region_id}


def _audit_change(actor: Actor, action: str, endpoint: Endpoint, was: Mapping[str, Any]) -> None:
    before, after = audit.difference(was, _state(endpoint))
    audit.record(actor, action, endpoint, before=before, after=after)


def _not_paused(endpoint: Endpoint) -> None:
    if endpoint.paused_at:
        raise Conflict(_("It is paused: no replica runs. Resume it instead."), code="paused")


def _differs(old: Any, new: Any) -> bool:
    if old is None or new is None:
        return old is not new
    return bool(old != new) and str(old) != str(new)


def wake(endpoint_id: str) -> bool:
    """A request came for an endpoint that sleeps: one replica, and only for the first who says so. False where there
    is nothing to wake. What failed before it fell asleep is no reason to wait: it is tried at once."""
    with transaction.atomic():
        endpoint = Endpoint.objects.select_for_update().filter(pk=endpoint_id).first()
        if endpoint is None or not endpoint.is_asleep:
            return False
        endpoint.desired_replicas = 1
        ledger.woken(endpoint, timezone.now())
        events.record(endpoint, "endpoint.woken")
        _wanted_changed(endpoint)
    return True


def scale(endpoint: Endpoint, count: int) -> bool:
    """The autoscaler's word, inside its transaction. False if the endpoint is not as it saw it any more: then nothing
    is written. No new generation: what failed keeps its back-off, and the deploy timeline its zero."""
    seen = {
        "desired_replicas": endpoint.desired_replicas,
        "generation": endpoint.generation,
        "paused_at": None,
        "deleting_at": None,
    }
    now = timezone.now()
    if not Endpoint.objects.filter(pk=endpoint.pk, **seen).update(desired_replicas=count, updated_at=now):
        return False
    events.record(endpoint, "endpoint.scaled", before=endpoint.wanted_replicas, after=count)
    _announce(endpoint)
    return True


def _lock(endpoint: Endpoint) -> Endpoint:
    locked = Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
    if locked is None:
        raise ValidationError({"__all__": [_("The endpoint has been deleted.")]})
    if locked.deleting_at:
        raise Conflict(_("The endpoint is being deleted."), code="deleting")
    return locked


def _switch(endpoint: Endpoint, actor: Actor, act: str, kind: str, **fields: Any) -> Endpoint:
    """act: what the audit log calls it; kind: the event's."""
    with transaction.atomic():
        locked = _lock(endpoint)
        gone = _state(locked) if act == "delete" else {}
        was = {name: getattr(locked, name) for name in fields}
        for name, value in fields.items():
            setattr(locked, name, value)
        events.record(locked, kind, actor)
        before, after = audit.difference(was, fields)
        audit.record(actor, f"endpoint.{act}", locked, before={**gone, **before}, after=after)
        _wanted_changed(locked)
    return locked


def _wanted_changed(endpoint: Endpoint) -> None:
    endpoint.generation += 1
    endpoint.requested_at = timezone.now()
    endpoint.save()
    _announce(endpoint)


def _revise(
    endpoint: Endpoint,
    actor: Actor,
    asked: revisions.Configuration,
    *,
    allow_interruption: bool = False,
    restores: Revision | None = None,
) -> Revision:
    """Write the next revision and make it the wanted one. What it does not need to be allowed is not kept as
    allowed: room for one more means that nothing is interrupted."""
    last = endpoint.revisions.order_by("-number").values_list("number", flat=True).first() or 0
    revision = Revision.objects.create(
        endpoint=endpoint,
        number=last + 1,
        model=asked.model,
        instance_type=asked.instance_type,
        settings=dict(asked.settings),
        environment=dict(asked.environment),
        allow_interruption=is_needed(endpoint, asked.instance_type, allowed=allow_interruption),
        restores=restores,
        created_by=actor.user,
        created_by_name=actor.name,
    )
    endpoint.revision = revision
    endpoint.failed_update = {}
    endpoint.save(update_fields=["revision", "failed_update", "updated_at"])
    return revision


def _announce(endpoint: Endpoint) -> None:
    endpoint_changed(endpoint)
    reconcile_soon(endpoint.id)
