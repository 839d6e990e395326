"""Everything that changes an endpoint because someone asked for it.

Each function is one transaction: it writes what is wanted and an event, and asks for a reconcile after the
commit. It never touches a runtime. Bad input raises ValidationError({field: [messages]}).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from endpoints import events
from endpoints.live import endpoint_changed
from endpoints.models import Endpoint, Revision
from endpoints.queue import reconcile_soon
from endpoints.validation import REVISION_FIELDS, clean, duplicate_name
from iam.actors import Actor


@dataclass(frozen=True, slots=True)
class EndpointSpec:
    """What a new endpoint shall be. Ids are as typed: they are checked, not trusted.

    settings   framework settings that differ from the model's own
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
    idle_timeout_s: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


_COLUMNS = (
    "name",
    "private",
    "min_replicas",
    "max_replicas",
    "cpu_percent",
    "memory_percent",
    "gpu_percent",
    "latency_ms",
    "idle_timeout_s",
)


def create_endpoint(*, actor: Actor, spec: EndpointSpec) -> Endpoint:
    """A new endpoint in the actor's project, with its first revision. Deploys after the commit."""
    values = {name: getattr(spec, name) for name in EndpointSpec.__dataclass_fields__}
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
            _revise(endpoint, actor, cleaned)
            events.record(endpoint, "endpoint.created", actor)
            _announce(endpoint)
    except IntegrityError as error:
        raise duplicate_name(spec.name) from error
    return endpoint


def update_endpoint(*, actor: Actor, endpoint: Endpoint, changes: Mapping[str, Any]) -> Endpoint:
    """Change what `changes` names (EndpointSpec's fields; the region stays).

    What a replica is made of makes a new revision, which is rolled out; the rest takes effect in place.
    """
    unknown = set(changes) - set(present_values(endpoint))
    if unknown:
        raise ValidationError({name: [_("This can't be changed.")] for name in sorted(unknown)})
    try:
        with transaction.atomic():
            # Compared under the lock: what somebody else has just changed must not be turned back.
            locked = _lock(endpoint)
            return _update(actor, locked, changes)
    except IntegrityError as error:
        raise duplicate_name(str(changes.get("name", endpoint.name))) from error


def _update(actor: Actor, endpoint: Endpoint, changes: Mapping[str, Any]) -> Endpoint:
    present = present_values(endpoint)
    if not any(_differs(present[name], value) for name, value in changes.items()):
        return endpoint
    cleaned = clean(endpoint.project, {**present, **changes, "region": endpoint.region_id}, endpoint=endpoint)
    changed = sorted(name for name in changes if _differs(present[name], _as_present(cleaned, name)))
    if not changed:
        return endpoint
    for name in _COLUMNS:
        setattr(endpoint, name, cleaned[name])
    fields = ", ".join(changed)
    if REVISION_FIELDS.intersection(changed):
        revision = _revise(endpoint, actor, cleaned)
        events.record(endpoint, "endpoint.revised", actor, number=revision.number, fields=fields)
    else:
        events.record(endpoint, "endpoint.changed", actor, fields=fields)
    _wanted_changed(endpoint)
    return endpoint


def _as_present(cleaned: Mapping[str, Any], name: str) -> Any:
    """A cleaned value in the form that `present_values` has: rows as their ids."""
    if name in ("model_id", "instance_type"):
        return str(cleaned["model" if name == "model_id" else name].pk)
    return cleaned[name]


def pause_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Stop all replicas and release what they hold; the URL answers 503. Pausing twice is fine."""
    return _switch(endpoint, actor, "endpoint.paused", paused_at=timezone.now())


def resume_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Serve again after a pause."""
    return _switch(endpoint, actor, "endpoint.resumed", paused_at=None)


def retry_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Try again what failed, unchanged."""
    return _switch(endpoint, actor, "endpoint.retried")


def delete_endpoint(*, actor: Actor, endpoint: Endpoint) -> Endpoint:
    """Ask for its end. The row goes last, when nothing of it is left. Deleting twice is fine."""
    if endpoint.deleting_at:
        return endpoint
    return _switch(endpoint, actor, "endpoint.delete_requested", deleting_at=timezone.now())


def present_values(endpoint: Endpoint) -> dict[str, Any]:
    """The endpoint as EndpointSpec's fields, the region left out: what `update_endpoint` compares with."""
    revision = endpoint.revision
    values: dict[str, Any] = {name: getattr(endpoint, name) for name in _COLUMNS}
    values["model_id"] = str(revision.model_id) if revision else ""
    values["instance_type"] = revision.instance_type_id if revision else ""
    values["settings"] = dict(revision.settings) if revision else {}
    return values


def _differs(old: Any, new: Any) -> bool:
    if old is None or new is None:
        return old is not new
    return bool(old != new) and str(old) != str(new)


def _lock(endpoint: Endpoint) -> Endpoint:
    locked = Endpoint.objects.select_for_update().filter(pk=endpoint.pk).first()
    if locked is None:
        raise ValidationError({"__all__": [_("The endpoint has been deleted.")]})
    if locked.deleting_at:
        raise ValidationError({"__all__": [_("The endpoint is being deleted.")]})
    return locked


def _switch(endpoint: Endpoint, actor: Actor, kind: str, **fields: Any) -> Endpoint:
    with transaction.atomic():
        locked = _lock(endpoint)
        for name, value in fields.items():
            setattr(locked, name, value)
        events.record(locked, kind, actor)
        _wanted_changed(locked)
    return locked


def _wanted_changed(endpoint: Endpoint) -> None:
    endpoint.generation += 1
    endpoint.requested_at = timezone.now()
    endpoint.save()
    _announce(endpoint)


def _revise(endpoint: Endpoint, actor: Actor, cleaned: Mapping[str, Any]) -> Revision:
    last = endpoint.revisions.order_by("-number").values_list("number", flat=True).first() or 0
    revision = Revision.objects.create(
        endpoint=endpoint,
        number=last + 1,
        model=cleaned["model"],
        instance_type=cleaned["instance_type"],
        settings=cleaned["settings"],
        created_by=actor.user,
    )
    endpoint.revision = revision
    endpoint.save(update_fields=["revision", "updated_at"])
    return revision


def _announce(endpoint: Endpoint) -> None:
    endpoint_changed(endpoint)
    reconcile_soon(endpoint.id)
