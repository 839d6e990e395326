"""Who belongs to a project, in which role. Every function checks that its actor may do it.

What a change means elsewhere (keys that are blocked, sockets that end, sessions that lose the project) follows from
the rows themselves, see iam.followers: it is the same whoever changed them.

Raises django's PermissionDenied where the role does not allow it, ValidationError({field: [...]}) for input and
Conflict where the project would be left without an admin.
"""

from __future__ import annotations

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from config.errors import Conflict
from iam import audit
from iam.actors import Actor
from iam.models import Membership, Project, User
from iam.roles import GRANTS, Permission, Role, allows


def require_admin(actor: Actor, project_id: str) -> None:
    """Raises PermissionDenied unless `actor` administers that project."""
    if not actor.may(Permission.ADMINISTER) or actor.project.id != project_id:
        raise PermissionDenied(_("Only a project admin manages the project and its members."))


def clean_role(actor: Actor, role: str) -> Role:
    """The role, if there is one of that name. Nobody may grant what they don't have."""
    if role not in Role.values:
        raise ValidationError({"role": [_("There is no role %(role)s.") % {"role": role}]})
    if not all(actor.may(permission) for permission in GRANTS[Role(role)]):
        raise ValidationError(
            {"role": [_("You can't grant %(role)s: it allows more than your own role.") % {"role": role}]}
        )
    return Role(role)


def person_named(email: str) -> User | None:
    """The person who signs in with this address. A person who was deactivated counts as nobody."""
    return User.objects.filter(email__iexact=email.strip(), is_active=True).first()


def add_member(actor: Actor, user: User, role: str) -> Membership:
    """A person who has an account already becomes a member of the actor's project."""
    require_admin(actor, actor.project.id)
    wanted = clean_role(actor, role)
    try:
        with transaction.atomic():
            member = Membership.objects.create(user=user, project=actor.project, role=wanted)
            audit.record(actor, "member.add", member, name=user.email, after={"role": wanted.value})
    except IntegrityError as error:
        raise ValidationError(
            {"email": [_("%(email)s belongs to this project already.") % {"email": user.email}]}
        ) from error
    return member


def change_role(actor: Actor, member: Membership, role: str) -> Membership:
    """Give a member another role. It counts at once everywhere; the same role again is no change."""
    require_admin(actor, member.project_id)
    wanted = clean_role(actor, role)
    with transaction.atomic():
        stored = _locked(member)
        if stored.role == wanted:
            return stored
        if not allows((wanted,), Permission.ADMINISTER):
            _keep_an_admin(stored)
        before, stored.role = stored.role, wanted.value
        stored.save(update_fields=["role"])
        audit.record(
            actor,
            "member.role",
            stored,
            name=stored.user.email,
            before={"role": before},
            after={"role": wanted.value},
        )
    return stored


def remove_member(actor: Actor, member: Membership) -> None:
    """The person belongs to the project no more; the account stays. Removing twice is no error."""
    require_admin(actor, member.project_id)
    with transaction.atomic():
        try:
            stored = _locked(member)
        except Membership.DoesNotExist:
            return
        _keep_an_admin(stored)
        audit.record(actor, "member.remove", stored, name=stored.user.email, before={"role": stored.role})
        stored.delete()


def _locked(member: Membership) -> Membership:
    """As it is stored now. The project's row is locked, so that two admins can't remove each other at once."""
    Project.objects.select_for_update().get(pk=member.project_id)
    return Membership.objects.select_related("user", "project").get(pk=member.pk)


def _keep_an_admin(member: Membership) -> None:
    if member.is_last_admin:
        raise Conflict(member.last_admin_words(), code="last-admin")
