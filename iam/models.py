"""People, projects, memberships and service accounts."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.contrib.auth.base_user import BaseUserManager
from django.contrib.auth.models import AbstractUser
from django.db import models
from django.utils.translation import gettext_lazy as _

from iam.roles import Role


class UserManager(BaseUserManager["User"]):
    """Makes users by their email address."""

    def create_user(self, email: str, password: str | None = None, **fields: object) -> User:
        """A user who can sign in with `email` and `password`; without a password nobody can."""
        user = self.model(email=self.normalize_email(email).lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: object) -> User:
        """A user who may use Django's admin."""
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)


class User(AbstractUser):
    """A person. The email address is the name they sign in with."""

    username = None  # type: ignore[assignment]
    email = models.EmailField(_("email address"), unique=True)

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = UserManager()  # type: ignore[assignment,misc]

    def __str__(self) -> str:
        return self.email


class Project(models.Model):
    """What everything belongs to. `id` is the `project` claim of a token."""

    id = models.CharField(primary_key=True, max_length=40, default="", editable=False)
    name = models.CharField(_("name"), max_length=80, unique=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("project")
        verbose_name_plural = _("projects")

    def __str__(self) -> str:
        return self.name

    def save(self, *args: object, **kwargs: object) -> None:
        """Give a new project its id."""
        self.id = self.id or f"prj-{uuid.uuid4().hex[:12]}"
        super().save(*args, **kwargs)  # type: ignore[arg-type]


class Membership(models.Model):
    """A person's role in a project."""

    user = models.ForeignKey(User, models.CASCADE, related_name="memberships")
    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    role = models.CharField(_("role"), max_length=40, choices=Role.choices)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("member")
        verbose_name_plural = _("members")
        constraints = [models.UniqueConstraint(fields=["user", "project"], name="one_role_a_member")]

    def __str__(self) -> str:
        return f"{self.user} · {self.get_role_display()}"


def new_client_id() -> str:
    """A service account's id, which is also its OAuth2 client_id and its tokens' `sub`."""
    return f"sa-{uuid.uuid4()}"


# Two, so that a secret is replaced without a gap: add one, move the programs over, delete the other.
MAX_SECRETS = 2


class ServiceAccount(models.Model):
    """A program's identity. It gets access tokens with its client_id and one of its secrets."""

    id = models.CharField(primary_key=True, max_length=40, default=new_client_id, editable=False)
    project = models.ForeignKey(Project, models.CASCADE, related_name="service_accounts")
    name = models.CharField(_("name"), max_length=80)
    description = models.CharField(_("description"), max_length=200, blank=True)
    roles = models.JSONField(_("roles"), default=list)
    disabled_at = models.DateTimeField(_("disabled at"), null=True, blank=True)
    last_used_at = models.DateTimeField(_("last used"), null=True, blank=True)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")
    # Kept when the user is gone, and the only record where another service account made this one.
    created_by_name = models.CharField(max_length=200, blank=True, default="", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("service account")
        verbose_name_plural = _("service accounts")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="service_account_name_unique_in_project")
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def client_id(self) -> str:
        """The OAuth2 name of `id`."""
        return self.id

    @property
    def is_active(self) -> bool:
        """Whether it may get tokens."""
        return self.disabled_at is None


class ServiceAccountSecret(models.Model):
    """One of an account's secrets, as a keyed hash. The secret itself is shown once and kept nowhere."""

    account = models.ForeignKey(ServiceAccount, models.CASCADE, related_name="secrets")
    digest = models.CharField(max_length=200, editable=False)
    hint = models.CharField(_("last four characters"), max_length=8, editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    last_used_at = models.DateTimeField(null=True, blank=True)
    expires_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("secret")
        verbose_name_plural = _("secrets")

    def __str__(self) -> str:
        return f"…{self.hint}"
