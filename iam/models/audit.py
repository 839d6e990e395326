"""Who did what to what. Rows are added and never changed."""

from __future__ import annotations

from typing import Any, NoReturn

from django.db import models
from django.utils.translation import gettext_lazy as _


class AppendOnly(models.QuerySet["AuditEvent"]):
    """No way to change or remove rows."""

    def update(self, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise TypeError("The audit log is append-only.")

    def delete(self) -> NoReturn:
        """Refused."""
        raise TypeError("The audit log is append-only.")


class AuditEvent(models.Model):
    """One act. It outlives its project, its actor and its target: all are kept by name and id, as text.

    action         stable word, "service_account.create"; its sentence is in iam.audit_words
    actor_kind     "user", "service_account", "command", "platform" or "anonymous"
    target_kind    "service_account", "endpoint", "model", "member", "project", ...
    before, after  what changed, {field: value}; secrets masked
    address        where the request came from, "" for the platform itself
    """

    at = models.DateTimeField(_("time"), auto_now_add=True, db_index=True)
    project_id = models.CharField(max_length=40, blank=True, default="", db_index=True)
    actor_kind = models.CharField(max_length=20)
    actor_id = models.CharField(max_length=60, blank=True, default="")
    actor_name = models.CharField(_("actor"), max_length=200, blank=True, default="")
    action = models.CharField(_("action"), max_length=60, db_index=True)
    target_kind = models.CharField(max_length=40, blank=True, default="")
    target_id = models.CharField(max_length=60, blank=True, default="", db_index=True)
    target_name = models.CharField(_("target"), max_length=200, blank=True, default="")
    before = models.JSONField(default=dict, blank=True)
    after = models.JSONField(default=dict, blank=True)
    address = models.CharField(_("address"), max_length=45, blank=True, default="")
    request_id = models.CharField(max_length=64, blank=True, default="")

    objects = AppendOnly.as_manager()

    class Meta:
        verbose_name = _("audit event")
        verbose_name_plural = _("audit log")
        ordering = ["-id"]
        indexes = [models.Index(fields=["project_id", "-id"], name="audit_of_project")]

    def __str__(self) -> str:
        return f"{self.action} {self.target_id}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Add it. Refused for a row that is there."""
        if self.pk is not None:
            raise TypeError("The audit log is append-only.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refused."""
        raise TypeError("The audit log is append-only.")
