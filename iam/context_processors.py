"""What every console template knows of the person in front of it. Costs no query."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from iam.roles import Permission


def console(request: HttpRequest) -> dict[str, Any]:
    """`actor` (None without a project) and what it may do."""
    actor = getattr(request, "actor", None)

    def may(permission: Permission) -> bool:
        return actor is not None and actor.may(permission)

    return {
        "actor": actor,
        "can_edit": may(Permission.EDIT),
        "can_invoke": may(Permission.INVOKE),
        "can_administer": may(Permission.ADMINISTER),
    }
