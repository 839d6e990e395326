"""What of Django's admin asks before it does what can't be undone at once: actions on rows, forms that are saved."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.contrib.admin import helpers
from django.contrib.admin.options import ModelAdmin
from django.http import HttpRequest
from django.template.response import TemplateResponse
from django.utils.functional import Promise
from django.utils.translation import gettext as _

_MOST_SHOWN = 100


def asked(
    admin: ModelAdmin[Any],
    request: HttpRequest,
    queryset: Any,
    *,
    question: str | Promise,
    consequence: str | Promise,
    yes: str | Promise,
) -> TemplateResponse | None:
    """The page that asks, None once it was answered with yes. What happens is listed, row by row."""
    if request.POST.get("confirmed") == "yes":
        return None
    rows = list(queryset[: _MOST_SHOWN + 1])
    context = {
        **admin.admin_site.each_context(request),
        "title": question,
        "consequence": consequence,
        "yes": yes,
        "rows": rows[:_MOST_SHOWN],
        "ids": [str(pk) for pk in queryset.values_list("pk", flat=True)],
        "more": len(rows) > _MOST_SHOWN,
        "opts": admin.opts,
        "action": request.POST.get("action", ""),
        "select_across": request.POST.get("select_across", "0"),
        "checkbox": helpers.ACTION_CHECKBOX_NAME,
        "media": admin.media,
    }
    return TemplateResponse(request, "admin/confirm_action.html", context)


def asked_before_saving(
    admin: ModelAdmin[Any], request: HttpRequest, row: Any, dangers: Iterable[str | Promise]
) -> TemplateResponse:
    """The page that asks whether a form shall be saved as it was sent, with what that brings about."""
    context = {
        **admin.admin_site.each_context(request),
        "title": _("Save %(name)s like this?") % {"name": row},
        "consequences": list(dangers),
        "sent": [
            (name, value)
            for name, values in request.POST.lists()
            for value in values
            if name != "csrfmiddlewaretoken"
        ],
        "row": row,
        "opts": admin.opts,
        "media": admin.media,
    }
    return TemplateResponse(request, "admin/confirm_change.html", context)
