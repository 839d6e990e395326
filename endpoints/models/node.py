"""What replicas are placed on."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Node(models.Model):
    """A machine that runs replicas. What was found on it, and what an admin says instead.

    name             the runtime's name for it
    cpus, memory     as found; `cpus_set`, `memory_set` win over them where an admin has filled them in
    cpu_overcommit   how many CPUs may be promised for each one there is: a limit is a ceiling that few reach at once
    schedulable      False: what runs stays, nothing new comes
    seen_at          when the runtime last named it
    """

    name = models.SlugField(_("name"), primary_key=True, max_length=60)
    region = models.ForeignKey("endpoints.Region", models.PROTECT, related_name="nodes")
    cpus = models.FloatField(_("CPUs found"), default=0, editable=False)
    memory_bytes = models.BigIntegerField(_("memory found"), default=0, editable=False)
    cpus_set = models.FloatField(_("CPUs"), null=True, blank=True)
    memory_gib_set = models.FloatField(_("RAM (GiB)"), null=True, blank=True)
    cpu_overcommit = models.FloatField(_("CPU overcommitment"), default=8)
    schedulable = models.BooleanField(_("takes new replicas"), default=True)
    seen_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("node")
        verbose_name_plural = _("nodes")
        ordering = ["name"]

    def __str__(self) -> str:
        return self.name


class Gpu(models.Model):
    """One GPU. Whoever stands in `replica` owns it alone: the claim is this one column, so that no GPU can be claimed
    twice.

    uuid      the engine's device id
    model     as instance types name it ("rtx2080ti")
    found     True: discovery named it; False: an admin entered it
    use       what the last look found on it: [{"kind": "ours" | "foreign", "name", "pid", "memory_bytes"}]
    """

    uuid = models.CharField(_("UUID"), primary_key=True, max_length=80)
    node = models.ForeignKey(Node, models.CASCADE, related_name="gpus")
    index = models.PositiveSmallIntegerField(_("index"), default=0)
    model = models.CharField(_("model"), max_length=40)
    name = models.CharField(_("full name"), max_length=120, blank=True, default="")
    vram_bytes = models.BigIntegerField(_("VRAM"), default=0)
    enabled = models.BooleanField(_("may be claimed"), default=True)
    found = models.BooleanField(default=False, editable=False)
    replica = models.ForeignKey(
        "endpoints.Replica", models.SET_NULL, null=True, blank=True, related_name="gpus", editable=False
    )
    use = models.JSONField(default=list, blank=True, editable=False)
    seen_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        verbose_name = _("GPU")
        verbose_name_plural = _("GPUs")
        ordering = ["node", "index", "uuid"]

    def __str__(self) -> str:
        return f"{self.node_id} {self.index} {self.model}"
