"""What was used: requests and tokens, counted from the gateways' access logs, and the time of replicas.

Rows hold ids and names as text: what was used stays on record when an endpoint, a model or an account is gone.
"""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class LogPosition(models.Model):
    """How far an access log of a gateway is counted. Written in the transaction that counts.

    log     which of the gateway's: each of its homes, if one was lost, had one of its own (gateway.access_logs)
    file    the log file's own name, never used for another one
    offset  bytes of it that are counted
    """

    gateway = models.CharField(max_length=100)
    log = models.CharField(max_length=100)
    file = models.CharField(max_length=100)
    offset = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["gateway", "log"], name="log_position_once")]

    def __str__(self) -> str:
        return f"{self.gateway} {self.file}:{self.offset}"


class Usage(models.Model):
    """Requests of one hour, one endpoint, one caller and one answer, added up.

    hour               its beginning, UTC
    subject            service account or API key; "" where no token was needed or shown
    status             HTTP status, 0 without an answer (the caller went away before)
    estimated          requests whose tokens are an estimate: the model server did not say
    unread             requests whose answer was too large to look into: no tokens are counted
    duration_ms        sum over the requests; `first_byte_ms` likewise, over `first_bytes` of them
    """

    hour = models.DateTimeField()
    project_id = models.CharField(max_length=40)
    endpoint_id = models.CharField(max_length=40)
    endpoint_name = models.CharField(max_length=50, blank=True, default="")
    model_id = models.CharField(max_length=40, blank=True, default="")
    model_name = models.CharField(max_length=80, blank=True, default="")
    subject = models.CharField(max_length=40, blank=True, default="")
    subject_name = models.CharField(max_length=80, blank=True, default="")
    status = models.PositiveSmallIntegerField()
    requests = models.PositiveBigIntegerField(default=0)
    prompt_tokens = models.PositiveBigIntegerField(default=0)
    completion_tokens = models.PositiveBigIntegerField(default=0)
    estimated = models.PositiveBigIntegerField(default=0)
    unread = models.PositiveBigIntegerField(default=0)
    duration_ms = models.PositiveBigIntegerField(default=0)
    first_byte_ms = models.PositiveBigIntegerField(default=0)
    first_bytes = models.PositiveBigIntegerField(default=0)
    bytes_in = models.PositiveBigIntegerField(default=0)
    bytes_out = models.PositiveBigIntegerField(default=0)

    class Meta:
        verbose_name = _("usage")
        verbose_name_plural = _("usage")
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "project_id", "endpoint_id", "model_id", "subject", "status"],
                name="usage_once_an_hour",
            )
        ]
        indexes = [
            models.Index(fields=["project_id", "hour"], name="usage_of_project"),
            models.Index(fields=["endpoint_id", "hour"], name="usage_of_endpoint"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.endpoint_id} {self.status}"


class TokenCount(models.Model):
    """Tokens of one subject in one minute or month, for its limits; by gateway, so that each can be told what the
    others counted.

    subject  service account, API key or endpoint
    window   "2026-11" or "2026-11-22T10:15", UTC
    """

    gateway = models.CharField(max_length=100)
    subject = models.CharField(max_length=40)
    window = models.CharField(max_length=16)
    tokens = models.PositiveBigIntegerField(default=0)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [
            # The window first: gateways ask for all subjects of a few.
            models.UniqueConstraint(fields=["window", "subject", "gateway"], name="token_count_once")
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.window} {self.tokens}"


class LastUse(models.Model):
    """When and from where a service account or API key called an endpoint last."""

    subject = models.CharField(max_length=40)
    endpoint_id = models.CharField(max_length=40)
    address = models.CharField(max_length=45, blank=True, default="")
    at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["subject", "endpoint_id"], name="last_use_once")]

    def __str__(self) -> str:
        return f"{self.subject} {self.endpoint_id}"


class ReplicaTime(models.Model):
    """For how long replicas of an endpoint ran on an instance type, in one hour, and what that costs.

    seconds      replica-seconds from the claim of its place to its end
    price_month  of the instance type at that time; 0 where it has none
    """

    hour = models.DateTimeField()
    project_id = models.CharField(max_length=40)
    endpoint_id = models.CharField(max_length=40)
    endpoint_name = models.CharField(max_length=50, blank=True, default="")
    model_id = models.CharField(max_length=40, blank=True, default="")
    model_name = models.CharField(max_length=80, blank=True, default="")
    instance_type = models.CharField(max_length=60)
    price_month = models.DecimalField(max_digits=14, decimal_places=2, default=0)
    currency = models.CharField(max_length=3, default="VND")
    seconds = models.PositiveBigIntegerField(default=0)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["hour", "endpoint_id", "model_id", "instance_type", "price_month", "currency"],
                name="replica_time_once_an_hour",
            )
        ]
        indexes = [
            models.Index(fields=["project_id", "hour"], name="replica_time_of_project"),
            models.Index(fields=["endpoint_id", "hour"], name="replica_time_of_endpoint"),
        ]

    def __str__(self) -> str:
        return f"{self.hour:%Y-%m-%d %H} {self.endpoint_id} {self.instance_type}"


class SummedDays(models.Model):
    """One day, week (from Monday on) or month of a project that is over, and summed up in `UsageSum` and `TimeSum`.

    exact     the sums are those of the rows; whoever adds to rows of these days takes it away, in the same transaction
    asked_at  since when whoever adds can know of it: sums are made some time later
    """

    project_id = models.CharField(max_length=40)
    first = models.DateField()
    last = models.DateField()
    asked_at = models.DateTimeField()
    exact = models.BooleanField(default=False)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["project_id", "first", "last"], name="summed_days_once")
        ]
        indexes = [
            models.Index(fields=["asked_at"], name="summed_days_to_do", condition=models.Q(exact=False))
        ]

    def __str__(self) -> str:
        return f"{self.project_id} {self.first} {self.last}"


class UsageSum(models.Model):
    """All requests of one endpoint, account or model in these days; or, by day, all there were.

    by    as in endpoints.usage.figures.By
    key   its id, "" by day; `name` is the last that it had in these days
    """

    days = models.ForeignKey(SummedDays, on_delete=models.CASCADE, db_index=False)
    by = models.CharField(max_length=8)
    key = models.CharField(max_length=40, blank=True, default="")
    name = models.CharField(max_length=80, blank=True, default="")
    requests = models.PositiveBigIntegerField()
    errors_4xx = models.PositiveBigIntegerField()
    errors_5xx = models.PositiveBigIntegerField()
    aborted = models.PositiveBigIntegerField()
    prompt_tokens = models.PositiveBigIntegerField()
    completion_tokens = models.PositiveBigIntegerField()
    estimated = models.PositiveBigIntegerField()
    unread = models.PositiveBigIntegerField()
    duration_ms = models.PositiveBigIntegerField()
    first_byte_ms = models.PositiveBigIntegerField()
    first_bytes = models.PositiveBigIntegerField()

    class Meta:
        indexes = [models.Index(fields=["days", "by"], name="usage_sum_of_days")]

    def __str__(self) -> str:
        return f"{self.by} {self.key}"


class TimeSum(models.Model):
    """The replica-seconds of one endpoint or model in these days, at one price; or, by day, all there were."""

    days = models.ForeignKey(SummedDays, on_delete=models.CASCADE, db_index=False)
    by = models.CharField(max_length=8)
    key = models.CharField(max_length=40, blank=True, default="")
    name = models.CharField(max_length=80, blank=True, default="")
    price_month = models.DecimalField(max_digits=14, decimal_places=2)
    currency = models.CharField(max_length=3)
    seconds = models.PositiveBigIntegerField()

    class Meta:
        indexes = [models.Index(fields=["days", "by"], name="time_sum_of_days")]

    def __str__(self) -> str:
        return f"{self.by} {self.key}"
