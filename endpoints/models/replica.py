"""What runs: one row for every container ever asked for, until its endpoint is gone."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _


class ReplicaState(models.TextChoices):
    """Where a replica is in its life. The order is the order of life."""

    WAITING = "waiting", _("Waiting")  # the image is being fetched, or there is no room yet
    STARTING = "starting", _("Starting")  # the container is being made or loads its model
    READY = "ready", _("Ready")  # healthy; in the gateway's snapshot
    DRAINING = "draining", _("Draining")  # out of the snapshot, finishing its requests
    STOPPED = "stopped", _("Stopped")  # ended because it was no longer wanted
    FAILED = "failed", _("Failed")  # ended by itself, or never got healthy


LIVE_STATES = (ReplicaState.WAITING, ReplicaState.STARTING, ReplicaState.READY, ReplicaState.DRAINING)


class Replica(models.Model):
    """One running model server, or the record of one.

    name         the container's name: deterministic, written before the container is made
    slot         1…wanted; a replacement takes the slot of what it replaces with the next `attempt`
    epoch        the endpoint's count of restarts when it was made
    node         where it was placed, "" before; kept after its end, for people
    claimed      whether it still holds `cpus` and `memory_bytes` of its node, and its rows of `Gpu`
    gpu_ids      the GPUs it was given, kept after its end
    counted_until   until when its time is counted (endpoints.usage.replica_time): from the moment it got its place;
                    None before that, and when all of it is counted
    unhealthy_since   when it stopped answering its health path although it had been ready
    evidence     what was seen when it failed: {exit_code, oom_killed, logs, error, port}
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    endpoint = models.ForeignKey("endpoints.Endpoint", models.CASCADE, related_name="replicas")
    revision = models.ForeignKey("endpoints.Revision", models.CASCADE, related_name="replicas")
    slot = models.PositiveSmallIntegerField()
    attempt = models.PositiveIntegerField(default=1)
    generation = models.PositiveIntegerField(default=1)
    name = models.CharField(max_length=80, unique=True)
    state = models.CharField(
        _("state"), max_length=12, choices=ReplicaState.choices, default=ReplicaState.WAITING, db_index=True
    )
    runtime = models.CharField(max_length=20, blank=True, default="")
    runtime_id = models.CharField(max_length=100, blank=True, default="")
    host = models.CharField(max_length=255, blank=True, default="")
    port = models.PositiveIntegerField(default=0)
    epoch = models.PositiveIntegerField(default=0)
    node = models.ForeignKey(
        "endpoints.Node", models.SET_NULL, null=True, blank=True, related_name="replicas"
    )
    claimed = models.BooleanField(default=False, db_index=True)
    cpus = models.FloatField(default=0)
    memory_bytes = models.BigIntegerField(default=0)
    gpu_ids = models.JSONField(default=list, blank=True)
    counted_until = models.DateTimeField(null=True, blank=True, editable=False)
    reason_code = models.CharField(max_length=60, blank=True, default="")
    evidence = models.JSONField(default=dict, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True, blank=True)
    healthy_since = models.DateTimeField(null=True, blank=True)
    ready_at = models.DateTimeField(null=True, blank=True)
    routed_at = models.DateTimeField(null=True, blank=True)
    unhealthy_since = models.DateTimeField(null=True, blank=True)
    drain_started_at = models.DateTimeField(null=True, blank=True)
    ended_at = models.DateTimeField(null=True, blank=True)
    # The pull task's heartbeat: a pull whose beat is old belongs to a dead worker and is started again.
    pull_beat_at = models.DateTimeField(null=True, blank=True)
    # Who pulls for it now, and until when that holds without another heartbeat: only its holder reports.
    pull_token = models.CharField(max_length=40, blank=True, default="")
    pull_until = models.DateTimeField(null=True, blank=True)

    class Meta:
        verbose_name = _("replica")
        verbose_name_plural = _("replicas")
        ordering = ["slot", "-attempt"]
        constraints = [
            models.UniqueConstraint(
                fields=["endpoint", "revision", "slot", "attempt"], name="replica_attempt_unique"
            )
        ]
        indexes = [
            models.Index(
                fields=["counted_until"], name="replica_to_count", condition=~models.Q(counted_until=None)
            )
        ]

    def __str__(self) -> str:
        return self.name


class PhaseName(models.TextChoices):
    """The steps of a deployment that a person follows live (contract §5), in order."""

    QUEUED = "queued", _("Queued")
    SCHEDULING = "scheduling", _("Scheduling")
    PULLING = "pulling", _("Pulling image")
    CREATING = "creating", _("Creating")
    STARTING = "starting", _("Starting")
    LOADING = "loading", _("Loading model")
    HEALTH_CHECK = "health_check", _("Health check")
    ROUTING = "routing", _("Routing")
    ACTIVE = "active", _("Active")


class DeployPhase(models.Model):
    """One step of one replica's way to traffic, with its times. The bytes and layers are the pull's.

    tries            how often it was begun; with more than one, its duration says nothing about the usual one
    bytes_total      of the layers whose size is known
    bytes_per_s      over the last seconds
    bytes_moved_at   when the last byte came
    layers_waiting   layers whose size nobody has told yet
    """

    replica = models.ForeignKey(Replica, models.CASCADE, related_name="phases")
    name = models.CharField(max_length=16, choices=PhaseName.choices)
    started_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True, blank=True)
    bytes_done = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(default=0)
    tries = models.PositiveIntegerField(default=1)
    bytes_per_s = models.FloatField(default=0)
    bytes_moved_at = models.DateTimeField(null=True, blank=True)
    layers_waiting = models.PositiveIntegerField(default=0)

    class Meta:
        verbose_name = _("deploy phase")
        verbose_name_plural = _("deploy phases")
        ordering = ["started_at", "id"]
        constraints = [models.UniqueConstraint(fields=["replica", "name"], name="phase_once_a_replica")]

    def __str__(self) -> str:
        return self.name


class PhaseTimes(models.Model):
    """How long a phase took lately for an image, a model and an instance type: what an estimate is made from.

    seconds   the newest last, at most KEPT
    """

    KEPT = 9

    image = models.CharField(max_length=300)
    model = models.ForeignKey("registry.RegisteredModel", models.CASCADE, related_name="+")
    instance_type = models.ForeignKey("endpoints.InstanceType", models.CASCADE, related_name="+")
    name = models.CharField(max_length=16, choices=PhaseName.choices)
    seconds = models.JSONField(default=list)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("phase times")
        verbose_name_plural = _("phase times")
        constraints = [
            models.UniqueConstraint(
                fields=["image", "model", "instance_type", "name"], name="phase_times_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} {self.image}"


class HeldAddress(models.Model):
    """An address of a replica that ended, which some gateway may still be sending requests to: no other replica gets
    it until every gateway has applied a snapshot without it."""

    host = models.CharField(max_length=255)
    port = models.PositiveIntegerField()
    replica = models.CharField(max_length=80)
    since = models.DateTimeField()

    class Meta:
        verbose_name = _("held address")
        verbose_name_plural = _("held addresses")
        constraints = [models.UniqueConstraint(fields=["host", "port"], name="address_held_once")]

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"
