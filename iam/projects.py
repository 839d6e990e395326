"""Projects: made by the platform's staff, renamed and deleted by their own admins.

Raises django's PermissionDenied, ValidationError({field: [...]}) for input and Conflict for what is not empty.
"""

from __future__ import annotations

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.db.models import ProtectedError, QuerySet
from django.utils.translation import gettext as _

from config.errors import Conflict
from iam import audit, belongings
from iam.actors import Actor
from iam.membership import require_admin
from iam.models import Membership, Project, User
from iam.roles import Role


def projects_of(user: User) -> QuerySet[Project]:
    """Those that the person belongs to, by name."""
    return Project.objects.filter(memberships__user=user).order_by("name")


def create_project(user: User, name: str) -> Project:
    """A new project whose admin is `user`, of the platform's staff."""
    if not (user.is_active and user.is_staff):
        raise PermissionDenied(_("Only the platform's admins make projects."))
    project = Project(name=_clean_name(name))
    with transaction.atomic():
        _save(project)
        Membership.objects.create(user=user, project=project, role=Role.ADMIN)
        audit.record(user, "project.create", project, project_id=project.id, after={"name": project.name})
    return project


def rename_project(actor: Actor, project: Project, name: str) -> Project:
    """Another name; the id stays, and with it everything that was written down outside of here."""
    require_admin(actor, project.id)
    wanted = _clean_name(name)
    with transaction.atomic():
        stored = Project.objects.select_for_update().get(pk=project.pk)
        before, stored.name = stored.name, wanted
        if before != wanted:
            _save(stored)
            audit.record(
                actor,
                "project.rename",
                stored,
                project_id=stored.id,
                before={"name": before},
                after={"name": wanted},
            )
    return stored


def delete_project(actor: Actor, project: Project) -> None:
    """The project with its service accounts, keys, members and invitations. Raises Conflict while it has endpoints
    or models: those hold machines and files, which must be given back first."""
    require_admin(actor, project.id)
    with transaction.atomic():
        stored = Project.objects.select_for_update().get(pk=project.pk)
        if why := why_not_empty(stored):
            raise Conflict(why, code="project-not-empty")
        told = {"name": stored.name, **belongings.of_project(stored)}
        audit.record(actor, "project.delete", stored, project_id=stored.id, before=told)
        try:
            stored.delete()
        except ProtectedError as error:
            raise Conflict(
                _("Something in the project is still in use."), code="project-not-empty"
            ) from error


def why_not_empty(project: Project) -> str:
    """What stands in the way of deleting it, "" if nothing does."""
    endpoints, models = project.endpoints.count(), project.models.count()
    if not endpoints and not models:
        return ""
    return _(
        "The project still has endpoints (%(endpoints)s) and models (%(models)s). Delete them first."
    ) % {"endpoints": endpoints, "models": models}


def _clean_name(name: str) -> str:
    name = " ".join(name.split())
    if not name:
        raise ValidationError({"name": [_("Give it a name.")]})
    if "\x00" in name or len(name) > 80:
        raise ValidationError({"name": [_("At most 80 characters.")]})
    return name


def _save(project: Project) -> None:
    try:
        with transaction.atomic():
            project.save()
    except IntegrityError as error:
        raise ValidationError({"name": [_("Choose another name: this one is taken.")]}) from error
