"""What goes with a project or a person that is deleted: one record in the audit log has to tell all of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db.models import Manager, Model

from iam.models import Project, User

NAMED = 50  # rows of a kind that are named; all of them are counted

Words = Callable[[Any], str]


def of_project(project: Project) -> dict[str, Any]:
    """By kind, those alone of which there are any: {"service_accounts": {"count": 1, "rows": ["ci (sa-…)"]}}."""
    kinds: list[tuple[str, Any, str, Words]] = [
        ("service_accounts", project.service_accounts, "name", _named),
        ("api_keys", project.api_keys.select_related("user"), "name", _key),
        ("members", project.memberships.select_related("user"), "user__email", _member),
        ("invitations", project.invitations, "pk", _invitation),
        ("endpoints", project.endpoints, "name", _named),
        ("models", project.models, "name", _named),
    ]
    return _told(kinds)


def of_person(user: User) -> dict[str, Any]:
    """Likewise."""
    kinds: list[tuple[str, Any, str, Words]] = [
        ("api_keys", user.api_keys.select_related("project"), "name", _key_there),
        ("members", user.memberships.select_related("project"), "project__name", _membership),
    ]
    return _told(kinds)


def _told(kinds: list[tuple[str, Any, str, Words]]) -> dict[str, Any]:
    return {kind: found for kind, rows, order, words in kinds if (found := _some(rows, order, words))}


def _some(rows: Manager[Any], order: str, words: Words) -> dict[str, Any]:
    count = rows.count()
    return {"count": count, "rows": [words(row) for row in rows.order_by(order)[:NAMED]]} if count else {}


def _named(row: Model) -> str:
    return f"{row} ({row.pk})"


def _key(row: Any) -> str:
    return f"{row.name}, {row.user.email} ({row.pk})"


def _key_there(row: Any) -> str:
    return f"{row.name}, {row.project.name} ({row.pk})"


def _member(row: Any) -> str:
    return f"{row.user.email} ({row.role})"


def _membership(row: Any) -> str:
    return f"{row.project.name} ({row.role})"


def _invitation(row: Any) -> str:
    return f"{row.email or 'whoever has the link'} ({row.role}, {row.pk})"
