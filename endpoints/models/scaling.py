"""What was measured, and what was decided from it."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class MetricSeries(models.Model):
    """A small number for an endpoint, so that its many samples do not repeat its long id.

    endpoint    None once it is deleted: its samples, too many to go with it at once, are removed bit by bit, then this
    totals      all that was ever counted, as endpoints.metrics.totals packs it; "" before the first request
    counted_at  the newest slot that `totals` has in it, seconds since 1970
    removed     how many spans of samples of a deleted endpoint are removed already
    """

    endpoint = models.OneToOneField("endpoints.Endpoint", models.SET_NULL, null=True, related_name="series")
    totals = models.TextField(blank=True, default="")
    counted_at = models.PositiveBigIntegerField(default=0)
    removed = models.PositiveSmallIntegerField(default=0)

    class Meta:
        verbose_name = _("metric series")
        verbose_name_plural = _("metric series")

    def __str__(self) -> str:
        return self.endpoint_id or ""


class MetricSample(models.Model):
    """What one endpoint did in one slot of time.

    resolution   length of the slot, seconds: one of endpoints.metrics.sample.RESOLUTIONS
    at           its beginning, seconds since 1970, a multiple of `resolution`
    series       no constraint of the database: a constraint needs an index that begins with the series, and every
                 round would then write to as many pages of it as there are endpoints
    figures      endpoints.metrics.sample.Sample as it packs itself, JSON; as text, which takes half of jsonb's room
    """

    series = models.ForeignKey(
        MetricSeries, models.DO_NOTHING, related_name="samples", db_index=False, db_constraint=False
    )
    resolution = models.PositiveSmallIntegerField()
    at = models.PositiveBigIntegerField()
    figures = models.TextField()

    class Meta:
        verbose_name = _("metric sample")
        verbose_name_plural = _("metric samples")
        # In the order of time: a round appends, and what is too old goes from the other end. One endpoint's samples
        # are looked up slot by slot, for all slots of a span are known.
        constraints = [
            models.UniqueConstraint(fields=["resolution", "at", "series"], name="metric_sample_in_slot")
        ]

    def __str__(self) -> str:
        return f"{self.series_id} {self.resolution} {self.at}"


class ScaleState(models.Model):
    """What the autoscaler remembers of an endpoint between two looks, and its last finding.

    memory      endpoints.autoscaling.policy.Memory as it packs itself
    finding     the last verdict, {"rule", "blocker", …}: what the page shows as the present state
    checked_at  when it looked last
    """

    endpoint = models.OneToOneField("endpoints.Endpoint", models.CASCADE, related_name="scale_state")
    memory = models.JSONField(default=dict)
    finding = models.JSONField(default=dict)
    checked_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("scale state")
        verbose_name_plural = _("scale states")

    def __str__(self) -> str:
        return self.endpoint_id


class Decision(models.Model):
    """One decision of the autoscaler, with all that led to it. Only what differs from the one before is kept.

    before, after   wanted replicas; equal where something kept it from changing, or where a wait begins
    rule            stable code of what asked for it: endpoints.autoscaling.policy.Rule
    blocker         stable code of what holds it up or back, "" if nothing does: endpoints.autoscaling.policy.Blocker
    inputs          what was measured, by metric: {"cpu": {"value", "target", "count"}, …}
    params          more for the sentence: {"metric", "value", "target", "seconds", "left_s", …}
    actor_name      a person's, where one caused it; "" for the autoscaler itself
    """

    endpoint = models.ForeignKey("endpoints.Endpoint", models.CASCADE, related_name="decisions")
    at = models.DateTimeField()
    rule = models.CharField(max_length=40)
    before = models.PositiveSmallIntegerField()
    after = models.PositiveSmallIntegerField()
    blocker = models.CharField(max_length=40, blank=True, default="")
    inputs = models.JSONField(default=dict, blank=True)
    params = models.JSONField(default=dict, blank=True)
    actor_name = models.CharField(max_length=200, blank=True, default="")

    class Meta:
        verbose_name = _("decision")
        verbose_name_plural = _("decisions")
        ordering = ["-at", "-id"]
        indexes = [models.Index(fields=["endpoint", "-at"], name="decision_of_endpoint")]

    def __str__(self) -> str:
        return f"{self.endpoint_id} {self.before} → {self.after} ({self.rule})"
