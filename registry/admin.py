"""Frameworks and models in Django's admin. Secrets are never shown there."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest

from registry.models import Framework, RegisteredModel


@admin.register(Framework)
class FrameworkAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Which frameworks may be chosen. Definitions come from files and are read there."""

    list_display = ("name", "version", "slug", "enabled", "updated_at")
    list_filter = ("enabled",)
    readonly_fields = ("slug", "name", "version", "definition", "updated_at")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """A framework is a file (manage.py load_frameworks)."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Its file would bring it back: switch it off instead."""
        return False


@admin.register(RegisteredModel)
class RegisteredModelAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Reading and finding. Changes go through the console and the API, which check them and do the work."""

    list_display = ("name", "project", "framework", "source", "status", "size_bytes", "created_at")
    list_filter = ("status", "source", "framework", "task")
    search_fields = ("name", "id", "project__name")
    list_select_related = ("project", "framework")
    exclude = (
        "hub_token",
        "registry_username",
        "registry_password",
        "environment",
        "lease_token",
        "lease_until",
    )

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Models are imported."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Read only."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Deleting removes files too: the console does it."""
        return False
