"""Frameworks and models in Django's admin. A model's credentials can be replaced there, and are never shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from iam.admin.audited import Audited
from iam.admin.identities import staff_actor
from registry import services
from registry.models import Framework, RegisteredModel

if TYPE_CHECKING:
    CredentialsModelForm = forms.ModelForm[RegisteredModel]
else:
    CredentialsModelForm = forms.ModelForm


@admin.register(Framework)
class FrameworkAdmin(Audited):
    """Which frameworks may be chosen. Definitions come from files and are read there."""

    list_display = ("name", "version", "slug", "enabled", "updated_at")
    list_filter = ("enabled",)
    readonly_fields = ("slug", "name", "version", "definition", "updated_at")
    switched_off: ClassVar[Mapping[str, str | Promise]] = {
        "enabled": _("Nobody can import a model with it any more. Models and endpoints that use it go on.")
    }

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A framework is a file (manage.py load_frameworks)."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Its file would bring it back: switch it off instead."""
        return False


class CredentialsForm(CredentialsModelForm):
    """New credentials, typed blind. Left empty they stay."""

    new_hub_token = forms.CharField(
        label=_("New hub token"),
        required=False,
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "off"}),
        help_text=_("Replaces the stored one. It is not shown again."),
    )
    new_registry_username = forms.CharField(
        label=_("New registry user"),
        required=False,
        max_length=200,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    new_registry_password = forms.CharField(
        label=_("New registry password"),
        required=False,
        max_length=500,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("User and password are replaced together. They are not shown again."),
    )
    forget = forms.BooleanField(
        label=_("Forget the stored credentials"),
        required=False,
        help_text=_("What needs them can't be fetched again until new ones are entered."),
    )

    class Meta:
        model = RegisteredModel
        fields = ()

    def clean(self) -> dict[str, Any]:
        """Either new ones or none, and a user only with a password."""
        values = super().clean() or self.cleaned_data
        username, password = values.get("new_registry_username"), values.get("new_registry_password")
        if bool(username) != bool(password):
            self.add_error("new_registry_password", _("Enter user and password together."))
        if values.get("forget") and any(
            values.get(name) for name in ("new_hub_token", "new_registry_username")
        ):
            self.add_error("forget", _("Enter new ones or forget the old ones, not both."))
        return values

    def changes(self) -> dict[str, str]:
        """As `services.update_model` takes them."""
        values = self.cleaned_data
        if values["forget"]:
            return {"hub_token": "", "registry_username": "", "registry_password": ""}
        named = {
            "hub_token": values["new_hub_token"],
            "registry_username": values["new_registry_username"],
            "registry_password": values["new_registry_password"],
        }
        return {name: value for name, value in named.items() if value}


@admin.register(RegisteredModel)
class RegisteredModelAdmin(Audited):
    """Reading, finding, and replacing credentials. All else goes through the console, which checks it and does the
    work."""

    services_record = True
    form = CredentialsForm
    list_display = ("name", "project", "framework", "source", "status", "size_bytes", "credentials")
    list_filter = ("status", "source", "framework", "task")
    search_fields = ("name", "id", "project__name")
    list_select_related = ("project", "framework")
    fieldsets = (
        (None, {"fields": ("name", "id", "project", "framework", "task", "source", "source_ref")}),
        (
            _("Credentials"),
            {
                "fields": (
                    *("credentials", "new_hub_token", "new_registry_username", "new_registry_password"),
                    "forget",
                )
            },
        ),
        (_("Facts"), {"fields": ("status", "size_bytes", "settings", "facts", "created_by", "created_at")}),
    )
    readonly_fields = (
        *("name", "id", "project", "framework", "task", "source", "source_ref", "credentials"),
        *("status", "size_bytes", "settings", "facts", "created_by", "created_at"),
    )

    @admin.display(description=_("stored credentials"))
    def credentials(self, model: RegisteredModel) -> str:
        """Which there are, and nothing of what they are."""
        stored = [
            str(words)
            for value, words in (
                (model.hub_token, _("hub token")),
                (model.registry_password, _("registry password")),
            )
            if value
        ]
        return ", ".join(stored) or "–"

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Models are imported."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Deleting removes files too: the console does it."""
        return False

    def dangers(self, request: HttpRequest, row: RegisteredModel) -> list[str | Promise]:
        """What is forgotten is nowhere else."""
        forget = [CredentialsForm.base_fields["forget"].help_text] if "forget" in request.POST else []
        return [*super().dangers(request, row), *forget]

    def save_model(self, request: HttpRequest, obj: RegisteredModel, form: Any, change: bool) -> None:
        """By the service."""
        changes = form.changes()
        if changes:
            stored = RegisteredModel.objects.select_related("project").get(pk=obj.pk)
            services.update_model(staff_actor(request, stored.project), stored, changes)
