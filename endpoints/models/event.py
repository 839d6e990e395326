"""What happened, in the past tense, with who did it."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Event(models.Model):
    """One thing that happened to an endpoint. Written in the transaction of the change itself.

    kind      stable word; its sentence is in endpoints.events
    target    the endpoint's id, kept after the endpoint is gone
    actor     who did it; null is the platform
    params    what the sentence is filled with; plain text, nothing secret
    """

    project = models.ForeignKey("iam.Project", models.CASCADE, related_name="events")
    endpoint = models.ForeignKey(
        "endpoints.Endpoint", models.SET_NULL, null=True, blank=True, related_name="events"
    )
    target = models.CharField(max_length=40, db_index=True)
    kind = models.CharField(max_length=60)
    actor = models.ForeignKey("iam.User", models.SET_NULL, null=True, blank=True, related_name="+")
    actor_name = models.CharField(max_length=200, blank=True, default="")
    params = models.JSONField(default=dict, blank=True)
    at = models.DateTimeField(auto_now_add=True, db_index=True)

    class Meta:
        verbose_name = _("event")
        verbose_name_plural = _("events")
        ordering = ["-id"]  # not by `at`: a clock that is set back must not shuffle what happened

    def __str__(self) -> str:
        return f"{self.kind} {self.target}"
