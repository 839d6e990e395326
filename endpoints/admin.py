"""Places, machines, GPUs and endpoints' limits in Django's admin: what discovery can't know, and where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.core.validators import MaxValueValidator, MinValueValidator
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext
from django.utils.translation import gettext_lazy as _

from endpoints import services
from endpoints.limits import LIMITS
from endpoints.models import Endpoint, Gpu, InstanceType, Node, Region
from endpoints.placement import wake
from iam.admin.audited import Audited
from iam.admin.identities import staff_actor


@admin.register(Region)
class RegionAdmin(Audited):
    """Where endpoints can run."""

    list_display = ("code", "name", "enabled")
    consequence = _(
        "Nothing can be created there any more. One that machines or endpoints are in can't be deleted."
    )
    switched_off: ClassVar[Mapping[str, str | Promise]] = {
        "enabled": _("Nothing can be created there any more. What is there goes on.")
    }


@admin.register(InstanceType)
class InstanceTypeAdmin(Audited):
    """What replicas can be. The GPU's model must be written as its GPUs' is."""

    list_display = ("name", "family", "vcpu", "memory_gib", "gpu", "gpu_count", "price_month", "enabled")
    list_filter = ("enabled", "family")
    search_fields = ("name",)
    consequence = _(
        "Nobody can choose it any more. One that a revision is made of can't be deleted: switch it off."
    )
    switched_off: ClassVar[Mapping[str, str | Promise]] = {
        "enabled": _("Nobody can choose it any more. What is made of it goes on.")
    }


_NOT_CLAIMED: Mapping[str, str | Promise] = {
    "enabled": _("No replica gets it any more: those that need one wait for another. Who has it keeps it.")
}


class GpuInline(admin.TabularInline):  # type: ignore[type-arg]
    """The GPUs of a machine."""

    model = Gpu
    extra = 0
    fields = ("index", "uuid", "model", "enabled", "replica")
    readonly_fields = ("index", "uuid", "replica")
    show_change_link = True
    can_delete = False
    switched_off = _NOT_CLAIMED

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """On a page of their own, where all of it can be entered."""
        return False


@admin.register(Node)
class NodeAdmin(Audited):
    """Machines are found by the platform; here they get their region, other figures, and are cordoned."""

    list_display = ("name", "region", "cpus", "cpus_set", "memory_found", "memory_gib_set", "schedulable")
    list_filter = ("region", "schedulable")
    fields = (
        "name",
        "region",
        "schedulable",
        "cpus",
        "cpus_set",
        "cpu_overcommit",
        "memory_found",
        "memory_gib_set",
        "seen_at",
    )
    readonly_fields = ("name", "cpus", "memory_found", "seen_at")
    inlines = (GpuInline,)
    switched_off: ClassVar[Mapping[str, str | Promise]] = {
        "schedulable": _(
            "It takes no new replicas: those that start or wake need room elsewhere. What runs there stays."
        )
    }

    @admin.display(description=_("memory found (GiB)"))
    def memory_found(self, node: Node) -> str:
        """In the unit in which it is corrected."""
        return f"{node.memory_bytes / 2**30:.1f}"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A machine that the runtime does not know could run nothing."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Node | None = None) -> bool:
        """Not while replicas hold room there; one that is still there would be found again."""
        return obj is not None and not obj.replicas.filter(claimed=True).exists()

    def save_model(self, request: HttpRequest, obj: Node, form: Any, change: bool) -> None:
        """Whoever waits for room may have it now. Only what was edited is written: discovery writes the rest."""
        obj.save(update_fields=form.changed_data) if change else obj.save()
        wake(obj.region_id)


@admin.register(Gpu)
class GpuAdmin(Audited):
    """GPUs are found through NVIDIA's driver. One of a machine without it, or of a remote engine, is entered here."""

    list_display = ("uuid", "node", "index", "model", "vram_bytes", "enabled", "found", "replica")
    list_filter = ("node", "model", "enabled", "found")
    list_select_related = ("node", "replica")
    search_fields = ("uuid", "model", "name")
    fields = (
        "uuid",
        "node",
        "index",
        "model",
        "name",
        "vram_bytes",
        "enabled",
        "found",
        "replica",
        "seen_at",
    )
    readonly_fields = ("found", "replica", "seen_at")
    switched_off = _NOT_CLAIMED

    def get_readonly_fields(self, request: HttpRequest, obj: Gpu | None = None) -> Any:
        """What the driver says is not corrected by hand, but for the model: that is how instance types name it."""
        if obj is None:
            return self.readonly_fields
        told = ("node", "index", "name", "vram_bytes") if obj.found or obj.replica_id else ()
        return (*self.readonly_fields, "uuid", *told)

    def has_delete_permission(self, request: HttpRequest, obj: Gpu | None = None) -> bool:
        """Not while a replica owns it."""
        return obj is not None and obj.replica_id is None

    def save_model(self, request: HttpRequest, obj: Gpu, form: Any, change: bool) -> None:
        """Whoever waits for a GPU may have it now. The claim is never written from here."""
        obj.save(update_fields=form.changed_data) if change else obj.save(force_insert=True)
        wake(obj.node.region_id)
        if obj.replica_id and "model" in form.changed_data:
            messages.info(request, gettext("The replica that owns it keeps it."))


@admin.register(Endpoint)
class EndpointAdmin(Audited):
    """Endpoints of every project: finding one, and its limits. All else is done in the console of its project."""

    services_record = True
    list_display = ("name", "project", "region", "status", *LIMITS)
    list_filter = ("status", "region", "project")
    list_select_related = ("project", "region")
    search_fields = ("name", "=id", "project__name")
    fieldsets = (
        (None, {"fields": ("name", "id", "project", "region", "status", "private", "created_at")}),
        (
            _("Limits"),
            {"fields": tuple(LIMITS), "description": _("Of all its callers together. Empty: no limit.")},
        ),
    )
    readonly_fields = ("name", "id", "project", "region", "status", "private", "created_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """In the console, which knows what fits."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Endpoint | None = None) -> bool:
        """In the console: its row goes last, when nothing of it is left."""
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Endpoint | None = None) -> Any:
        """One that is being deleted changes no more."""
        return (*self.readonly_fields, *(LIMITS if obj and obj.deleting_at else ()))

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        """Limits are one or more."""
        form = super().get_form(request, obj, change, **kwargs)
        for name, most in LIMITS.items():
            if name in form.base_fields:
                form.base_fields[name].validators += [MinValueValidator(1), MaxValueValidator(most)]
        return form

    def save_model(self, request: HttpRequest, obj: Endpoint, form: Any, change: bool) -> None:
        """By the service, which tells the gateways."""
        changes = {name: form.cleaned_data[name] for name in form.changed_data}
        stored = Endpoint.objects.select_related("project").get(pk=obj.pk)
        services.update_endpoint(actor=staff_actor(request, stored.project), endpoint=stored, changes=changes)
