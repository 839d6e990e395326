"""What was asked for."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.utils.translation import gettext_lazy as _

from config.crypto import EncryptedJSONField
from iam.models import Limited


class Status(models.TextChoices):
    """Derived from conditions (`endpoints.conditions`), never set by hand (contract §5)."""

    PENDING = "PENDING", _("Pending")
    DEPLOYING = "DEPLOYING", _("Deploying")
    ACTIVE = "ACTIVE", _("Active")
    UPDATING = "UPDATING", _("Updating")
    DEGRADED = "DEGRADED", _("Degraded")
    ASLEEP = "ASLEEP", _("Asleep")
    INACTIVE = "INACTIVE", _("Inactive")
    FAILED = "FAILED", _("Failed")
    DELETING = "DELETING", _("Deleting")


def new_endpoint_id() -> str:
    """The path segment of its URL (contract §3)."""
    return f"me-{uuid.uuid4()}"


class Endpoint(Limited):
    """A model behind a URL, as its owner wants it, with the reconciler's findings beside.

    generation           counts changes of what is wanted; `observed_generation` is the last one acted on
    requested_at         when the present generation was asked for: the deploy timeline's zero
    conditions           list of {type, status, reason, params, generation, since}; see endpoints.conditions
    epoch                counts restarts: replicas of an older one are replaced, like those of an older revision
    stable_revision      the last revision whose replicas all got ready; what a failed update goes back to
    desired_replicas     what the autoscaler wants, None before it has decided for the first time
    settled_replicas     the number of wanted replicas that all served last: more than that is growth, not a loss
    failed_update        {"revision": number, "code", "params", "at"} of an update that was taken back by itself, {}
                         after the next change
    max_concurrency      requests that may run at once on all its replicas together; None: as many as come
    lease_token/_until   who reconciles it now
    """

    id = models.CharField(primary_key=True, max_length=40, default=new_endpoint_id, editable=False)
    project = models.ForeignKey("iam.Project", models.PROTECT, related_name="endpoints")
    region = models.ForeignKey("endpoints.Region", models.PROTECT, related_name="endpoints")
    name = models.CharField(_("name"), max_length=50)
    private = models.BooleanField(_("private access"), default=True)
    min_replicas = models.PositiveSmallIntegerField(_("min replicas"), default=1)
    max_replicas = models.PositiveSmallIntegerField(_("max replicas"), default=1)
    cpu_percent = models.PositiveSmallIntegerField(_("CPU threshold (%)"), null=True, blank=True)
    memory_percent = models.PositiveSmallIntegerField(_("RAM threshold (%)"), null=True, blank=True)
    gpu_percent = models.PositiveSmallIntegerField(_("GPU utilisation threshold (%)"), null=True, blank=True)
    latency_ms = models.PositiveIntegerField(_("response latency threshold (ms)"), null=True, blank=True)
    in_flight = models.PositiveIntegerField(_("requests in flight per replica"), null=True, blank=True)
    idle_timeout_s = models.PositiveIntegerField(_("idle timeout (s)"), null=True, blank=True)
    max_concurrency = models.PositiveIntegerField(_("requests at once"), null=True, blank=True)
    scale_up_after_s = models.PositiveIntegerField(_("scale up after (s)"), default=15)
    scale_down_after_s = models.PositiveIntegerField(_("scale down after (s)"), default=300)
    desired_replicas = models.PositiveSmallIntegerField(null=True, blank=True, editable=False)
    settled_replicas = models.PositiveSmallIntegerField(default=0, editable=False)
    revision = models.ForeignKey(
        "endpoints.Revision", models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    stable_revision = models.ForeignKey(
        "endpoints.Revision", models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    failed_update = models.JSONField(default=dict, blank=True, editable=False)
    epoch = models.PositiveIntegerField(default=0, editable=False)
    paused_at = models.DateTimeField(null=True, blank=True, editable=False)
    deleting_at = models.DateTimeField(null=True, blank=True, editable=False)
    generation = models.PositiveIntegerField(default=1, editable=False)
    observed_generation = models.PositiveIntegerField(default=0, editable=False)
    requested_at = models.DateTimeField(editable=False)
    conditions = models.JSONField(default=list, editable=False)
    status = models.CharField(
        _("status"),
        max_length=12,
        choices=Status.choices,
        default=Status.PENDING,
        db_index=True,
        editable=False,
    )
    reason_code = models.CharField(max_length=60, blank=True, default="queued", editable=False)
    reason_params = models.JSONField(default=dict, blank=True, editable=False)
    ready_replicas = models.PositiveSmallIntegerField(default=0, editable=False)
    lease_token = models.CharField(max_length=40, blank=True, default="", editable=False)
    lease_until = models.DateTimeField(null=True, blank=True, editable=False)
    created_by = models.ForeignKey(
        "iam.User", models.SET_NULL, null=True, blank=True, related_name="+", editable=False
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("endpoint")
        verbose_name_plural = _("endpoints")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["project", "region", "name"], name="endpoint_name_unique_in_project_and_region"
            ),
            models.CheckConstraint(
                condition=models.Q(min_replicas__lte=models.F("max_replicas")), name="min_replicas_lte_max"
            ),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def url(self) -> str:
        """The base URL that clients call (contract §3)."""
        return f"{settings.BERTH_GATEWAY_URL}/v1/{self.id}"

    @property
    def wanted_replicas(self) -> int:
        """How many replicas should run now: what the autoscaler decided, within today's min and max."""
        if self.paused_at or self.deleting_at:
            return 0
        desired = max(self.min_replicas, 1) if self.desired_replicas is None else self.desired_replicas
        return min(max(desired, self.min_replicas), self.max_replicas)

    @property
    def is_asleep(self) -> bool:
        """Scaled to zero: the next request wakes it."""
        return not (self.paused_at or self.deleting_at) and self.wanted_replicas == 0

    @property
    def has_failed(self) -> bool:
        """Of what was asked for last: a status that is older says nothing about that."""
        return self.status == Status.FAILED and self.observed_generation >= self.generation


class Revision(models.Model):
    """One configuration of an endpoint: everything its replicas are made of.

    environment          extra variables of its containers as JSON, encrypted: some of them are secrets
    allow_interruption   its author accepted that an old replica goes before its successor comes
    restores             the revision whose configuration it takes up again, if it is a roll-back
    failed_code/_params  why it was taken back by itself, "" if it was not
    """

    endpoint = models.ForeignKey(Endpoint, models.CASCADE, related_name="revisions")
    number = models.PositiveIntegerField()
    model = models.ForeignKey("registry.RegisteredModel", models.PROTECT, related_name="revisions")
    instance_type = models.ForeignKey("endpoints.InstanceType", models.PROTECT, related_name="revisions")
    settings = models.JSONField(default=dict, blank=True)
    environment = EncryptedJSONField(default=dict, blank=True)
    allow_interruption = models.BooleanField(_("short interruption allowed"), default=False)
    restores = models.ForeignKey("self", models.SET_NULL, null=True, blank=True, related_name="+")
    failed_code = models.CharField(max_length=60, blank=True, default="")
    failed_params = models.JSONField(default=dict, blank=True)
    created_by = models.ForeignKey("iam.User", models.SET_NULL, null=True, blank=True, related_name="+")
    created_by_name = models.CharField(max_length=200, blank=True, default="")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name = _("revision")
        verbose_name_plural = _("revisions")
        ordering = ["-number"]
        constraints = [models.UniqueConstraint(fields=["endpoint", "number"], name="revision_number_unique")]

    def __str__(self) -> str:
        return f"#{self.number}"
