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
    present = present_values(endpoint)
    unknown = set(changes) - set(present)
    if unknown:
        raise ValidationError({name: [_("This can't be changed.")] for name in sorted(unknown)})
    changed = {name for name, value in changes.items() if _differs(present[name], value)}
    if not changed:
        return endpoint
    cleaned = clean(endpoint.project, {**present, **changes, "region": endpoint.region_id}, endpoint=endpoint)
    try:
        with transaction.atomic():
            locked = _lock(endpoint)
            for name in _COLUMNS:
                setattr(locked, name, cleaned[name])
            if changed & REVISION_FIELDS:
                revision = _revise(locked, actor, cleaned)
                events.record(
                    locked,
                    "endpoint.revised",
                    actor,
                    number=revision.number,
                    fields=", ".join(sorted(changed)),
                )
            else:
                events.record(locked, "endpoint.changed", actor, fields=", ".join(sorted(changed)))
            _wanted_changed(locked)
    except IntegrityError as error:
        raise duplicate_name(cleaned["name"]) from error
    return locked


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
    return (str(old) if old is not None else None) != (str(new) if new is not None else None)


def _lock(endpoint: Endpoint) -> Endpoint:
    locked = Endpoint.objects.select_for_update().get(pk=endpoint.pk)
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
