"""Links that make whoever opens them a member. No mail is sent: the admin hands the link on.

    {public url}/invitation/#<secret>

The secret is 256 random bits. It stands in the address's fragment, which no browser sends to a server or in a Referer;
the page posts it once, and from then on the visitor's session knows which invitation it is about. Only a keyed digest
of it is stored.

An invitation counts while whoever made it administers the project: one who is removed leaves no way back in. All that
is said of one that does not count is that it does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.password_validation import validate_password
from django.core.exceptions import PermissionDenied, ValidationError
from django.core.validators import validate_email
from django.db import IntegrityError, transaction
from django.db.models import F, QuerySet
from django.utils.translation import gettext as _

from config.errors import Conflict
from iam import audit
from iam.actors import Actor
from iam.membership import clean_role, require_admin
from iam.models import Invitation, Membership, User
from iam.oauth.hashers import SecretHasher, new_secret
from iam.roles import Permission, roles_granting

PATH = "/invitation/"
DEFAULT_DAYS, MAX_DAYS = 7, 30
MAX_OPEN = 100  # of one project


class NotUsable(Exception):
    """There is no such invitation, or it was used or withdrawn, or its time is over: which of them is not said."""

    def __str__(self) -> str:
        return _("This invitation can't be used. Ask whoever sent it for a new one.")


class ForAnother(Exception):
    """The invitation names an address, and the person has another one."""

    def __str__(self) -> str:
        return _(
            "This invitation is for another address than yours. Sign in with the account it was made for."
        )


@dataclass(frozen=True, slots=True)
class NewInvitation:
    """An invitation and, this once, its link."""

    invitation: Invitation
    link: str = field(repr=False)


def create(
    actor: Actor, role: str, now: datetime, *, email: str = "", days: int = DEFAULT_DAYS
) -> NewInvitation:
    """Invite somebody into the actor's project. email: who alone may accept; "" for whoever has the link.

    Only people invite: the invitation counts for as long as they could add the member themselves.
    """
    require_admin(actor, actor.project.id)
    if actor.user is None:
        raise PermissionDenied(_("Only people invite: an invitation counts while its maker is an admin."))
    wanted, address = clean_role(actor, role), _clean_email(email)
    if not 1 <= days <= MAX_DAYS:
        raise ValidationError({"days": [_("From 1 to %(most)s days.") % {"most": MAX_DAYS}]})
    secret, hasher = new_secret(), SecretHasher()
    with transaction.atomic():
        if open_ones(actor, now).count() >= MAX_OPEN:
            raise Conflict(
                _("Too many invitations are open. Withdraw some of them."), code="too-many-invitations"
            )
        made = Invitation.objects.create(
            project=actor.project,
            role=wanted,
            email=address,
            digest=hasher.encode(secret, hasher.salt()),
            created_by=actor.user,
            created_by_name=actor.name,
            expires_at=now + timedelta(days=days),
        )
        after = {"role": wanted.value, "email": address, "expires_at": made.expires_at}
        audit.record(actor, "invitation.create", made, name=address, after=after)
    return NewInvitation(made, f"{settings.BERTH_PUBLIC_URL}{PATH}#{secret}")


def open_ones(actor: Actor, now: datetime) -> QuerySet[Invitation]:
    """Those of the actor's project that can still be accepted, newest first."""
    return usable(now).filter(project=actor.project)


def withdraw(actor: Actor, invitation: Invitation) -> None:
    """Its link works no more. Withdrawing twice is no error."""
    require_admin(actor, invitation.project_id)
    with transaction.atomic():
        deleted, _rows = Invitation.objects.filter(pk=invitation.pk, accepted_at=None).delete()
        if deleted:
            before = {"role": invitation.role, "email": invitation.email}
            audit.record(actor, "invitation.withdraw", invitation, name=invitation.email, before=before)


def usable(now: datetime) -> QuerySet[Invitation]:
    """Not used, not over, and made by somebody who still administers the project."""
    return Invitation.objects.filter(
        accepted_at=None,
        expires_at__gt=now,
        created_by__is_active=True,
        created_by__memberships__project=F("project"),
        created_by__memberships__role__in=roles_granting(Permission.ADMINISTER),
    ).select_related("project")


def find(secret: str, now: datetime) -> Invitation:
    """The invitation of this link. Raises NotUsable."""
    digests = SecretHasher().digests(secret.strip()[:200])
    found = usable(now).filter(digest__in=digests).first()
    if found is None:
        raise NotUsable
    return found


def accept(invitation_id: int, user: User, now: datetime) -> Membership:
    """`user` becomes a member; of several who try at once, one does.

    Raises NotUsable, ForAnother, and Conflict for one who is a member already: the invitation stays open then.
    """
    with transaction.atomic():
        found = usable(now).filter(pk=invitation_id).first()
        if found is None:
            raise NotUsable
        if found.email and found.email != user.email.lower():
            raise ForAnother
        if Membership.objects.filter(user=user, project=found.project).exists():
            raise Conflict(
                _("You belong to %(project)s already.") % {"project": found.project.name},
                code="member-already",
            )
        # The one who makes this row change has it. Its own columns alone are asked for: whoever waited for the row in
        # PostgreSQL looks at them again, but not at what a join or a subquery found before.
        unused = Invitation.objects.filter(pk=found.pk, accepted_at=None)
        claimed = unused.update(accepted_at=now, accepted_by=user)
        if not claimed:
            raise NotUsable
        member = Membership.objects.create(user=user, project=found.project, role=found.role)
        after = {"role": found.role, "invited_by": found.created_by_name, "invitation": found.pk}
        audit.record(user, "invitation.accept", member, name=user.email, after=after)
    return member


def sign_up(invitation_id: int, email: str, password: str, now: datetime) -> Membership:
    """An account for somebody who has none, and the membership, or neither. Raises as `accept`, and ValidationError."""
    found = usable(now).filter(pk=invitation_id).first()
    if found is None:
        raise NotUsable
    address = found.email or _clean_email(email)
    if not address:
        raise ValidationError({"email": [_("Enter your email address.")]})
    person = User(email=address)
    try:
        validate_password(password, person)
    except ValidationError as error:
        raise ValidationError({"password": error.messages}) from error
    taken = ValidationError({"email": [_("There is an account with this address. Sign in with it instead.")]})
    if User.objects.filter(email__iexact=address).exists():
        raise taken
    try:
        with transaction.atomic():
            person = User.objects.create_user(address, password)
            audit.record(person, "user.sign_up", person, project_id=found.project_id)
            return accept(invitation_id, person, now)
    except IntegrityError as error:
        raise taken from error


def nobody_named(email: str) -> str:
    """What to do about an address that nobody here signs in with."""
    return _("Nobody here signs in with %(email)s. Create an invitation link and send it to them.") % {
        "email": email
    }


def _clean_email(email: str) -> str:
    email = email.strip().lower()
    if email:
        try:
            validate_email(email)
        except ValidationError as error:
            raise ValidationError({"email": error.messages}) from error
    return email
