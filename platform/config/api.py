"""What every resource of the management API shares: the scope of the caller's project."""

from __future__ import annotations

from typing import ClassVar, Generic, TypeVar

from django.db.models import Model, QuerySet
from rest_framework import viewsets

from iam.actors import Actor, current_actor
from iam.roles import Permission

M = TypeVar("M", bound=Model)


class ProjectViewSet(viewsets.GenericViewSet[M], Generic[M]):
    """A resource of a project. What belongs to another project is not there: its ids are 404.

    permissions         action → what the role must allow
    default_permission  the same for the actions that are not in `permissions`; None: VIEW to read, EDIT to write
    project_field       the way from the model to its project
    """

    permissions: ClassVar[dict[str, Permission]] = {}
    default_permission: ClassVar[Permission | None] = None
    project_field = "project"
    # What ids are made of. Anything else is 404 here and never reaches the database, which may refuse it loudly.
    lookup_value_regex = "[A-Za-z0-9_-]+"

    @property
    def actor(self) -> Actor:
        """Who calls, in which project."""
        return current_actor(self.request)

    def get_queryset(self) -> QuerySet[M]:
        """The rows of the caller's project."""
        queryset = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):  # drf-spectacular reads the model, nobody calls
            return queryset.none()
        return queryset.filter(**{self.project_field: self.actor.project})
