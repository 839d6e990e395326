"""People, their projects, their roles there, and the links that invite them."""

from __future__ import annotations

import uuid
from typing import ClassVar

from django.contrib.auth.base_user import BaseUserManager
from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.db import models
from django.utils.translation import gettext_lazy as _

from iam.roles import Permission, Role, roles_granting


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

    def clean(self) -> None:
        """For Django's admin: the last admin's role stays. (iam.membership asks for everybody else.)"""
        stored = Membership.objects.filter(pk=self.pk).first() if self.pk else None
        if stored and self.role not in roles_granting(Permission.ADMINISTER) and stored.is_last_admin:
            raise ValidationError({"role": self.last_admin_words()})

    @property
    def is_last_admin(self) -> bool:
        """Whether nobody else who can sign in administers the project."""
        admins = roles_granting(Permission.ADMINISTER)
        others = Membership.objects.filter(project=self.project_id, role__in=admins, user__is_active=True)
        return self.role in admins and not others.exclude(pk=self.pk).exists()

    def last_admin_words(self) -> str:
        """Why the last admin can't go, and what to do."""
        return _(
            "%(email)s is the last admin of %(project)s, and a project needs one. Make somebody else an admin first."
        ) % {"email": self.user.email, "project": self.project.name}


class Invitation(models.Model):
    """A link that makes whoever opens it a member. The link's secret is shown once; its digest is kept.

    email        whom it is for, "" for whoever has the link
    accepted_by  who used it: it works once
    """

    project = models.ForeignKey(Project, models.CASCADE, related_name="invitations")
    role = models.CharField(_("role"), max_length=40, choices=Role.choices)
    email = models.EmailField(_("email address"), blank=True, default="")
    digest = models.CharField(max_length=200, unique=True, editable=False)
    created_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")
    created_by_name = models.CharField(max_length=200, blank=True, default="", editable=False)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(_("expires"))
    accepted_at = models.DateTimeField(null=True, blank=True, editable=False)
    accepted_by = models.ForeignKey(User, models.SET_NULL, null=True, blank=True, related_name="+")

    class Meta:
        verbose_name = _("invitation")
        verbose_name_plural = _("invitations")
        ordering = ["-created_at"]

    def __str__(self) -> str:
        return f"{self.email or '…'} · {self.get_role_display()}"
