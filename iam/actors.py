"""Who acts, and in which project. Services take an Actor; views, API and sockets make one."""

from __future__ import annotations

from dataclasses import dataclass

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.utils.translation import gettext as _

from iam.models import Membership, Project, ServiceAccount, User
from iam.roles import Permission, Role, allows, roles_granting

SESSION_KEY = "project"
# Outlives the session: the project that this browser was in last.
PROJECT_COOKIE = "berth_project"


@dataclass(frozen=True, slots=True)
class Actor:
    """A person or a service account acting in one project."""

    project: Project
    roles: tuple[str, ...]
    user: User | None = None
    account: ServiceAccount | None = None

    @property
    def name(self) -> str:
        """What an event calls the actor."""
        return str(self.user or self.account or "")

    def may(self, permission: Permission) -> bool:
        """Whether one of the roles grants `permission`."""
        return allows(self.roles, permission)


def actor_for_user(user: User, project_id: str | None = None) -> Actor | None:
    """The user's actor in `project_id`, or in the project they joined first; None if they belong to none.

    An unknown project and one the user is no member of are the same: None.
    """
    if not user.is_authenticated or not user.is_active:
        return None
    if project_id and "\x00" in project_id:  # PostgreSQL refuses to look for it
        return None
    memberships = Membership.objects.select_related("project").filter(user=user).order_by("created_at", "id")
    if project_id:
        memberships = memberships.filter(project_id=project_id)
    membership = memberships.first()
    return Actor(membership.project, (membership.role,), user=user) if membership else None


def actor_for_account(account: ServiceAccount) -> Actor:
    """The account's actor in its own project."""
    return Actor(account.project, tuple(account.roles), account=account)


def refusal(actor: Actor, permission: Permission) -> str:
    """Why `actor` may not do what takes `permission`, and who can change that."""
    names = [str(Role(role).label) for role in actor.roles if role in Role.values]
    return _(
        "This takes the role %(needed)s in the project %(project)s, and yours is %(roles)s. Ask an admin of it."
    ) % {
        "needed": Role(roles_granting(permission)[0]).label,  # the weakest that allows it
        "project": actor.project.name,
        "roles": ", ".join(names) or "–",
    }


def current_actor(request: HttpRequest) -> Actor:
    """The actor that ProjectMiddleware or the API's authentication found. Call it behind a permission check."""
    actor = getattr(request, "actor", None)
    if actor is None:
        raise LookupError("No actor on this request: the view lacks its permission check.")
    assert isinstance(actor, Actor)
    return actor


def enter(request: HttpRequest, response: HttpResponse, project: Project) -> None:
    """From now on this session, and later ones of this browser, are about `project`."""
    request.session[SESSION_KEY] = project.id
    response.set_cookie(
        PROJECT_COOKIE,
        project.id,
        max_age=365 * 86400,
        httponly=True,
        samesite="Lax",
        secure=bool(settings.SESSION_COOKIE_SECURE),
    )
