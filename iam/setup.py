"""What a fresh installation needs before anybody can sign in."""

from __future__ import annotations

import secrets

import environ
from allauth.mfa.models import Authenticator
from django.db import transaction

from iam import audit
from iam.models import Membership, Project, User
from iam.roles import Role

PROJECT_NAME = "default"
DEFAULT_EMAIL = "admin@berth.local"


def admin_email() -> str:
    """The first admin's address: `BERTH_ADMIN_EMAIL`, or a default."""
    return str(environ.Env().str("BERTH_ADMIN_EMAIL", DEFAULT_EMAIL)).strip().lower()


def ensure_first_admin() -> tuple[str, str] | None:
    """Make the first project and its admin if nobody administers this installation yet.

    Answers (email, password) only when it made the admin: the password is random and kept nowhere in plain text.
    """
    with transaction.atomic():
        if User.objects.filter(is_superuser=True).exists():
            return None
        email, password = admin_email(), new_password()
        user = User.objects.create_superuser(email, password)
        project, _made = Project.objects.get_or_create(name=PROJECT_NAME)
        Membership.objects.create(user=user, project=project, role=Role.ADMIN)
        after = {"email": email, "is_superuser": True, "project": project.name, "role": Role.ADMIN}
        audit.record(audit.Command("up"), "user.create", user, after=after)
    return email, password


def reset_admin_password(email: str | None = None, *, remove_second_factors: bool = False) -> tuple[str, str]:
    """Give an admin, by default the first one, a new random password: (email, password).

    Their authenticator app, passkeys and recovery codes stay, unless they are to be removed with it. Raises
    User.DoesNotExist if there is no such admin.
    """
    admins = User.objects.filter(is_superuser=True).order_by("id")
    user = admins.get(email=email.strip().lower()) if email else admins.first()
    if user is None:
        raise User.DoesNotExist
    password = new_password()
    who = audit.Command("reset_admin_password")
    with transaction.atomic():
        user.set_password(password)
        user.is_active = True
        user.save(update_fields=["password", "is_active"])
        audit.record(who, "password.reset", user)
        if remove_second_factors:
            removed, _rows = Authenticator.objects.filter(user=user).delete()
            audit.record(who, "mfa.remove", user, kind="mfa", after={"removed": removed})
    return user.email, password


def new_password() -> str:
    """96 random bits that a person can still type."""
    return secrets.token_urlsafe(12)
