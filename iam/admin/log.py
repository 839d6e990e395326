"""The audit log of all projects and of the platform itself. Read only: nobody changes it, staff neither."""

from __future__ import annotations

import json
from datetime import UTC
from typing import Any

from django.contrib import admin
from django.utils.html import format_html
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy as _

from iam import audit_words
from iam.admin.audited import ModelAdmin, ReadOnly
from iam.models import AuditEvent


class KindFilter(admin.SimpleListFilter):
    """By what was acted on. Its choices are known words: no look at the whole log."""

    title = _("target")
    parameter_name = "kind"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, str]]:
        """All there are words for."""
        return [(kind, str(words)) for kind, words in audit_words.KINDS.items()]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """Those of the kind."""
        return queryset.filter(target_kind=self.value()) if self.value() else queryset


class ScopeFilter(admin.SimpleListFilter):
    """The platform's own acts are in no project's log: here is where they are seen."""

    title = _("scope")
    parameter_name = "scope"

    def lookups(self, request: Any, model_admin: Any) -> list[tuple[str, Any]]:
        """Two."""
        return [("platform", _("The platform itself")), ("projects", _("Projects"))]

    def queryset(self, request: Any, queryset: Any) -> Any:
        """By whether there is a project."""
        match self.value():
            case "platform":
                return queryset.filter(project_id="")
            case "projects":
                return queryset.exclude(project_id="")
        return queryset


@admin.register(AuditEvent)
class AuditEventAdmin(ReadOnly, ModelAdmin):
    """Who did what to what, from where, with what was before and after."""

    list_display = ("moment", "who", "said", "target_name", "address", "project_id")
    list_display_links = ("moment", "said")
    list_filter = (ScopeFilter, KindFilter, "actor_kind", "at")
    search_fields = (
        *("=project_id", "actor_name", "=actor_id", "action", "=target_id", "target_name"),
        *("=address", "=request_id"),
    )
    search_help_text = _("A name, an action, or an id, address or request id as a whole.")
    show_full_result_count = False
    list_per_page = 50
    fields = (
        *("moment", "project_id", "who", "actor_kind", "actor_id", "said", "action"),
        *("target_kind", "target_id", "target_name", "was", "became", "address", "request_id"),
    )
    readonly_fields = ("moment", "who", "said", "was", "became")

    @admin.display(description=_("time (UTC)"), ordering="id")
    def moment(self, event: AuditEvent) -> str:
        """To the second."""
        return f"{event.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}"

    @admin.display(description=_("actor"))
    def who(self, event: AuditEvent) -> str:
        """In words."""
        return audit_words.actor_label(event.actor_kind, event.actor_name)

    @admin.display(description=_("act"), ordering="action")
    def said(self, event: AuditEvent) -> str:
        """In words."""
        return audit_words.sentence(event.action)

    @admin.display(description=_("before"))
    def was(self, event: AuditEvent) -> SafeString | str:
        """As a document."""
        return _document(event.before)

    @admin.display(description=_("after"))
    def became(self, event: AuditEvent) -> SafeString | str:
        """As a document."""
        return _document(event.after)


def _document(values: dict[str, Any]) -> SafeString | str:
    if not values:
        return "–"
    return format_html('<pre class="document">{}</pre>', json.dumps(values, ensure_ascii=False, indent=2))
