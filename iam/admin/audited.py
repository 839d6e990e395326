"""Django's admin, on record: whatever is added, changed or deleted there stands in the audit log, field by field."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.admin.options import BaseModelAdmin
from django.contrib.admin.utils import unquote
from django.db import models, transaction
from django.forms import CheckboxInput
from django.http import HttpRequest, HttpResponse
from django.utils.functional import Promise

from iam import audit
from iam.admin.asking import asked_before_saving
from iam.models import User

if TYPE_CHECKING:  # the generics of django-stubs are no generics at run time
    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
else:
    ModelAdmin, TabularInline = admin.ModelAdmin, admin.TabularInline

__all__ = ["Audited", "ReadOnly", "TabularInline", "state"]

# Acts that have a word of their own: kind → verb → action. All others are "<kind>.create", ".change", ".delete".
_ACTIONS = {
    "member": {"create": "member.add", "change": "member.role", "delete": "member.remove"},
    "invitation": {"delete": "invitation.withdraw"},
    "service_account": {"change": "service_account.update"},
}
# Written by the machinery, not by people.
_SILENT = frozenset({"lease_token", "lease_until", "seen_at", "last_login", "last_used_at"})
_BEFORE = "_audit_before"


def action_of(row: models.Model, verb: str) -> str:
    """What the audit log calls it."""
    kind = audit.kind_of(row)
    return _ACTIONS.get(kind, {}).get(verb, f"{kind}.{verb}")


def state(row: models.Model) -> dict[str, Any]:
    """All columns that people or services set, by name. Secrets are still in it: `audit.record` masks them."""
    return {
        field.name: field.value_from_object(row)
        for field in row._meta.concrete_fields
        if field.name not in _SILENT and not getattr(field, "auto_now", False)
    }


class Audited(ModelAdmin):
    """What every table here is registered with.

    consequence        what its deletion brings about, told on the page that asks
    switched_off       boolean fields that ask before they go off, and what that brings about; of an inline, too
    services_record    its changes go through services, which leave the record themselves
    """

    consequence: str | Promise = ""
    switched_off: ClassVar[Mapping[str, str | Promise]] = {}
    services_record = False

    def dangers(self, request: HttpRequest, row: Any) -> list[str | Promise]:
        """What saving the form as it was sent would bring about that is asked about first. Rows of it that go are."""
        found: list[str | Promise] = _goes_off(request, self.switched_off, row)
        for inline in self.get_inline_instances(request, row):
            prefix = f"{inline.get_formset(request, row).get_default_prefix()}-"
            if any(name.startswith(prefix) and name.endswith("-DELETE") for name in request.POST):
                registered = admin.site._registry.get(inline.model)
                found.append(getattr(inline, "consequence", "") or getattr(registered, "consequence", ""))
            found += _rows_go_off(request, getattr(inline, "switched_off", {}), inline.model, prefix)
        return found

    def what_goes_with(self, row: Any) -> dict[str, Any]:
        """What of other tables is deleted with it and has no record of its own."""
        return {}

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: Any = None,
    ) -> Any:
        """Asks first, if there is something to ask."""
        if request.method == "POST" and object_id is not None and request.POST.get("confirmed") != "yes":
            row = self.get_object(request, unquote(object_id))
            if row is not None and self.has_change_permission(request, row):
                dangers = self.dangers(request, row)
                if dangers:
                    return asked_before_saving(self, request, row, dangers)
        return super().changeform_view(request, object_id, form_url, extra_context)

    def get_object(self, request: HttpRequest, object_id: str, from_field: str | None = None) -> Any:
        """The row; as it is now is kept beside the request, to compare with later."""
        row = super().get_object(request, object_id, from_field)
        if row is not None:
            request.__dict__.setdefault(_BEFORE, {})[type(row), str(row.pk)] = state(row)
        return row

    def log_addition(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Recorded with what it is made of."""
        if not self.services_record:
            self._record(request, obj, "create", {}, _filled(obj))
        return super().log_addition(request, obj, message)

    def log_change(self, request: HttpRequest, obj: Any, message: Any) -> Any:
        """Recorded if anything is another one now."""
        was = request.__dict__.get(_BEFORE, {}).get((type(obj), str(obj.pk)))
        if not self.services_record and was is not None:
            before, after = audit.difference(was, state(obj))
            if before or after:
                self._record(request, obj, "change", before, after)
        return super().log_change(request, obj, message)

    def log_deletions(self, request: HttpRequest, queryset: Any) -> Any:
        """Recorded with what they were. Django calls it before it deletes them."""
        for row in queryset:
            self._record(request, row, "delete", {**state(row), **self.what_goes_with(row)}, {})
        return super().log_deletions(request, queryset)

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """The rows of a table within a row's page."""
        was = {inner.instance.pk: dict(inner.initial) for inner in formset.initial_forms}
        for inner in formset.deleted_forms:
            if inner.instance.pk in was:  # afterwards it has no id any more
                self._record(request, inner.instance, "delete", state(inner.instance), {})
        super().save_formset(request, form, formset, change)
        for row in formset.new_objects:
            self._record(request, row, "create", {}, _filled(row))
        for row, fields in formset.changed_objects:
            self._record(request, row, "change", *_sides(was.get(row.pk, {}), state(row), fields))

    def response_action(self, request: HttpRequest, queryset: Any, *args: Any) -> HttpResponse | None:
        """An action on several rows happens to all of them, with its records, or to none."""
        with transaction.atomic():
            return super().response_action(request, queryset, *args)

    def _record(self, request: HttpRequest, row: models.Model, verb: str, before: Any, after: Any) -> None:
        assert isinstance(request.user, User)
        owner = getattr(row, "account", row)  # of a secret
        project_id = str(getattr(owner, "project_id", "") or "")
        audit.record(
            request.user, action_of(row, verb), row, project_id=project_id, before=before, after=after
        )


class ReadOnly(BaseModelAdmin):  # type: ignore[type-arg]
    """For what is looked at here and changed by nobody, or elsewhere."""

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """No."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """No."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """No."""
        return False


def _goes_off(
    request: HttpRequest, fields: Mapping[str, str | Promise], row: models.Model, prefix: str = ""
) -> list[str | Promise]:
    def ticked(name: str) -> bool:
        return CheckboxInput().value_from_datadict(request.POST, request.FILES, f"{prefix}{name}")

    return [told for name, told in fields.items() if getattr(row, name) and not ticked(name)]


def _rows_go_off(
    request: HttpRequest, fields: Mapping[str, str | Promise], model: type[models.Model], prefix: str
) -> list[str | Promise]:
    """Of the rows of a table within a row's page. Each consequence once, however many they are."""
    if not fields:
        return []
    named = re.compile(rf"{re.escape(prefix)}\d+-{re.escape(model._meta.pk.name)}")
    keys = {
        request.POST[name]: name.removesuffix(model._meta.pk.name)
        for name in request.POST
        if named.fullmatch(name)
    }
    rows = model._default_manager.in_bulk([key for key in keys if key])
    found = [_goes_off(request, fields, row, keys[str(pk)]) for pk, row in rows.items()]
    return list(dict.fromkeys(chain.from_iterable(found)))


def _filled(row: models.Model) -> dict[str, Any]:
    return {name: value for name, value in state(row).items() if value not in (None, "", [], {})}


def _sides(
    before: dict[str, Any], after: dict[str, Any], fields: Iterable[str]
) -> tuple[dict[str, Any], dict[str, Any]]:
    return {name: before.get(name) for name in fields}, {name: after.get(name) for name in fields}
