"""Writes the audit log: who did what to what, from where.

Call `record` in the transaction of the change, so that there is no change without its record and no record without
its change.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from django.db.models import Model

from iam.actors import Actor
from iam.models import AuditEvent, User

MASK = "••••"
# `hub_token` is one, `tokens_per_minute` is not.
_SECRET_WORDS = frozenset({"secret", "password", "token", "environment", "digest"})
_LIMIT = 2000  # characters of one value


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the present request came from; empty outside of requests."""

    address: str = ""
    request_id: str = ""


origin: ContextVar[Origin] = ContextVar("origin", default=Origin())  # noqa: B039 - frozen


def record(
    actor: Actor | User | None,
    action: str,
    target: Model | None = None,
    *,
    kind: str = "",
    name: str = "",
    project_id: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Add one act. actor: None is the platform. kind, name: of the target, told from it where they are left out.

    `before` and `after` hold only what changed; values whose names look like secrets are masked.
    """
    where = origin.get()
    actor_kind, actor_id, actor_name = _who(actor)
    AuditEvent.objects.create(
        project_id=project_id or _project_of(actor, target),
        actor_kind=actor_kind,
        actor_id=actor_id,
        actor_name=actor_name[:200],
        action=action,
        target_kind=kind or (target._meta.model_name or "" if target is not None else ""),
        target_id=str(target.pk)[:60] if target is not None else "",
        target_name=(name or (str(target) if target is not None else ""))[:200],
        before=masked(before or {}),
        after=masked(after or {}),
        address=where.address[:45],
        request_id=where.request_id[:64],
    )


def masked(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can hold it, and without what looks like a secret."""
    return {name: _value(name, value) for name, value in values.items()}


def _value(name: str, value: Any) -> Any:
    if value not in (None, "", [], {}) and not _SECRET_WORDS.isdisjoint(name.lower().split("_")):
        return MASK
    if isinstance(value, Mapping):
        return masked({str(k): v for k, v in value.items()})
    if isinstance(value, list | tuple):
        return [_value("", item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:_LIMIT]


def _who(actor: Actor | User | None) -> tuple[str, str, str]:
    if actor is None:
        return "platform", "", ""
    if isinstance(actor, User):
        return "user", str(actor.pk), str(actor)
    if actor.account is not None:
        return "service_account", actor.account.id, actor.name
    return "user", str(actor.user.pk) if actor.user else "", actor.name


def _project_of(actor: Actor | User | None, target: Model | None) -> str:
    found = getattr(target, "project_id", None)
    if found:
        return str(found)
    return actor.project.id if isinstance(actor, Actor) else ""
