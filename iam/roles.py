"""The one table of who may do what (contract §7). Console, API, sockets and gateway all read it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from django.db import models
from django.utils.translation import gettext_lazy as _


class Role(models.TextChoices):
    """A role in a project, held by people and by service accounts alike."""

    VIEWER = "aiplatform.viewer", _("Viewer")
    USER = "aiplatform.user", _("User")
    EDITOR = "aiplatform.editor", _("Editor")
    ADMIN = "aiplatform.admin", _("Admin")


class Permission(StrEnum):
    """What a role can allow."""

    VIEW = "view"  # endpoints, models, metrics, events, logs
    INVOKE = "invoke"  # private endpoints, playground
    EDIT = "edit"  # create, change, delete endpoints and models
    ADMINISTER = "administer"  # service accounts, members, credentials, limits, audit log


GRANTS: dict[Role, frozenset[Permission]] = {
    Role.VIEWER: frozenset({Permission.VIEW}),
    Role.USER: frozenset({Permission.VIEW, Permission.INVOKE}),
    Role.EDITOR: frozenset({Permission.VIEW, Permission.INVOKE, Permission.EDIT}),
    Role.ADMIN: frozenset(Permission),
}


def allows(roles: Iterable[str], permission: Permission) -> bool:
    """Whether any of `roles` grants `permission`. Unknown role names grant nothing."""
    return any(permission in GRANTS[Role(role)] for role in roles if role in Role.values)


def roles_granting(permission: Permission) -> tuple[str, ...]:
    """The names of the roles that grant `permission`, for the gateway's rules."""
    return tuple(role.value for role, granted in GRANTS.items() if permission in granted)
