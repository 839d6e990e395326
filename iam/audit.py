"""Writes the audit log: who did what to what, from where.

Call `record` in the transaction of the change, so that there is no change without its record and no record without
its change.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db.models import Model

from iam.actors import Actor
from iam.models import AuditEvent, Project, User
from iam.origin import Origin, origin

__all__ = ["MASK", "Command", "Origin", "difference", "kind_of", "masked", "origin", "record"]

MASK = "••••"
# Words of a field's name: `hub_token` is a secret, `tokens_per_minute` is not.
_SECRET_WORDS = frozenset(
    {"secret", "secrets", "password", "passwd", "token", "environment", "digest", "credential", "credentials"}
    | {"authorization", "cookie", "apikey"}
)
_SECRET_NAMES = re.compile(r"(api|private|secret|access|signing)[_.-]?key$", re.IGNORECASE)
_BREAKS = re.compile(r"[^a-z0-9]+")
# What tables are called here, where it is not Django's name for their model.
_KINDS = {
    "serviceaccount": "service_account",
    "serviceaccountsecret": "secret",
    "apikey": "api_key",
    "membership": "member",
    "registeredmodel": "model",
    "instancetype": "instance_type",
}
_LIMIT = 2000  # characters of one value


@dataclass(frozen=True, slots=True)
class Command:
    """Somebody at the machine itself, who ran `manage.py <name>`."""

    name: str

    def __str__(self) -> str:
        return f"manage.py {self.name}"


def record(
    actor: Actor | User | Command | None,
    action: str,
    target: Model | None = None,
    *,
    kind: str = "",
    name: str = "",
    project_id: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Add one act. kind, name: of the target, told from it where they are left out.

    actor: None is somebody unknown within a request, and the platform itself outside of one.
    `before` and `after` hold only what changed; values whose names look like secrets are masked.
    """
    where = origin.get()
    actor_kind, actor_id, actor_name = _who(actor, where)
    AuditEvent.objects.create(
        project_id=project_id or _project_of(actor, target),
        actor_kind=actor_kind,
        actor_id=actor_id,
        actor_name=actor_name[:200],
        action=action,
        target_kind=kind or kind_of(target),
        target_id=str(target.pk)[:60] if target is not None else "",
        target_name=(name or (str(target) if target is not None else ""))[:200],
        before=masked(before or {}),
        after=masked(after or {}),
        address=where.address[:45],
        request_id=where.request_id[:64],
    )


def kind_of(target: Model | type[Model] | None) -> str:
    """What the log calls a row's table."""
    name = target._meta.model_name or "" if target is not None else ""
    return _KINDS.get(name, name)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What changed, on both sides, masked. A secret that became another one is told as changed although both sides
    look alike; what is on neither side is as it was."""
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return (
        masked({name: before[name] for name in changed if name in before}),
        masked({name: after[name] for name in changed if name in after}),
    )


def masked(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON can hold it, and without what looks like a secret. Of a mapping of secrets the names stay."""
    return {name: _value(name, value) for name, value in values.items()}


def is_secret(name: str) -> bool:
    """Whether a field of that name may hold a secret."""
    return bool(not _SECRET_WORDS.isdisjoint(_BREAKS.split(name.lower())) or _SECRET_NAMES.search(name))


def _value(name: str, value: Any) -> Any:
    if value not in (None, "", [], {}) and is_secret(name):
        return {str(key): MASK for key in value} if isinstance(value, Mapping) else MASK
    if isinstance(value, Mapping):
        return masked({str(k): v for k, v in value.items()})
    if isinstance(value, list | tuple | set | frozenset):
        return [_value("", item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:_LIMIT]


def _who(actor: Actor | User | Command | None, where: Origin) -> tuple[str, str, str]:
    if actor is None:
        return ("anonymous" if where.address else "platform"), "", ""
    if isinstance(actor, Command):
        return "command", _operator(), str(actor)
    if isinstance(actor, User):
        return "user", str(actor.pk), str(actor)
    if actor.account is not None:
        return "service_account", actor.account.id, actor.name
    return "user", str(actor.user.pk) if actor.user else "", actor.name


def _operator() -> str:
    """The account of the machine under which a command runs."""
    try:
        return getpass.getuser()[:60]
    except (KeyError, OSError):  # a container's user without a name
        return ""


def _project_of(actor: Actor | User | Command | None, target: Model | None) -> str:
    found = target.pk if isinstance(target, Project) else getattr(target, "project_id", None)
    if found:
        return str(found)
    return actor.project.id if isinstance(actor, Actor) else ""
