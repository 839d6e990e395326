"""Where and on what an endpoint runs: data that an admin edits."""

from __future__ import annotations

from django.db import models
from django.utils.translation import gettext_lazy as _


class Region(models.Model):
    """A place with capacity, named as users know it."""

    code = models.CharField(_("code"), primary_key=True, max_length=20)
    name = models.CharField(_("name"), max_length=80)
    enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        verbose_name = _("region")
        verbose_name_plural = _("regions")
        ordering = ["code"]

    def __str__(self) -> str:
        return f"{self.code} · {self.name}"


class InstanceType(models.Model):
    """CPU, RAM and GPUs of one replica. vcpu 0 and memory 0 mean: no limit."""

    name = models.SlugField(_("name"), primary_key=True, max_length=60)
    family = models.CharField(_("family"), max_length=60)
    vcpu = models.FloatField(_("vCPU"), default=0)
    memory_gib = models.FloatField(_("RAM (GiB)"), default=0)
    gpu = models.CharField(_("GPU model"), max_length=40, blank=True, default="")
    gpu_count = models.PositiveSmallIntegerField(_("GPUs"), default=0)
    vram_gib_per_gpu = models.FloatField(_("VRAM per GPU (GiB)"), default=0)
    price_month = models.DecimalField(
        _("price per month"), max_digits=14, decimal_places=2, null=True, blank=True
    )
    currency = models.CharField(_("currency"), max_length=3, default="VND")
    position = models.PositiveSmallIntegerField(_("position"), default=0)
    enabled = models.BooleanField(_("enabled"), default=True)

    class Meta:
        verbose_name = _("instance type")
        verbose_name_plural = _("instance types")
        ordering = ["position", "name"]

    def __str__(self) -> str:
        return self.name

    @property
    def vram_gib(self) -> float:
        """VRAM of all its GPUs together."""
        return self.gpu_count * self.vram_gib_per_gpu
