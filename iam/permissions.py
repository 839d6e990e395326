"""Roles in the management API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from django.utils.translation import gettext as _
from rest_framework.exceptions import NotFound
from rest_framework.permissions import SAFE_METHODS, BasePermission
from rest_framework.request import Request

from iam.actors import refusal
from iam.roles import Permission

if TYPE_CHECKING:  # DRF reads this module while it defines APIView
    from rest_framework.views import APIView


class RolePermission(BasePermission):
    """Lets a call through if the caller's role in the project allows it.

    A view says what its actions need in `permissions: dict[action, Permission]`, and what all the others need in
    `default_permission`; without either, reading needs VIEW and anything else EDIT.
    """

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether `request.actor` may. A project that the caller doesn't belong to is told like a missing one."""
        actor = getattr(request, "actor", None)
        if actor is None:
            if request.user.is_authenticated and request.query_params.get("project"):
                raise NotFound(_("There is no such project, or you don't belong to it."))
            self.message = _("You belong to no project yet. Ask an admin of one to add you.")
            return False
        wanted = needed(request, view)
        if actor.may(wanted):
            return True
        self.message = refusal(actor, wanted)  # read by APIView.permission_denied
        return False


class PlatformStaff(BasePermission):
    """For what belongs to the platform and to no project. Service accounts belong to one: never."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether a person of the platform's staff calls."""
        return bool(request.user and request.user.is_active and getattr(request.user, "is_staff", False))


def needed(request: Request, view: APIView) -> Permission:
    """The permission that this call needs."""
    declared: dict[str, Permission] = getattr(view, "permissions", {})
    action = getattr(view, "action", None) or ""
    if action in declared:
        return declared[action]
    usual = Permission.VIEW if request.method in SAFE_METHODS else Permission.EDIT
    return getattr(view, "default_permission", None) or usual
