"""API keys: one's own, and for admins those of others. A key is in one answer only, that of the POST which made it."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from iam import decisions, selectors, services
from iam.access import require
from iam.activity import activity
from iam.actors import current_actor
from iam.directory import directory
from iam.forms import ApiKeyForm
from iam.models import MAX_API_KEYS, ApiKey
from iam.roles import Permission
from iam.views.common import asked, once, status_of

callers = require(Permission.INVOKE)


@require_safe
@callers
def index(request: HttpRequest) -> HttpResponse:
    """One's own keys; below them, for admins, those of the others."""
    actor = current_actor(request)
    keys = list(selectors.api_keys(actor))
    now = timezone.now()
    known = activity(keys, now)
    rows = [{"key": key, "status": selectors.key_status(key, now), "activity": known[key.id]} for key in keys]
    own = [row for row in rows if row["key"].user_id == request.user.pk]  # type: ignore[attr-defined]
    assert actor.user is not None  # pages are people's
    counting = list(selectors.counting_keys(actor.user, now))
    context = {
        "own": own,
        "others": [row for row in rows if row not in own],
        "may_create": len(counting) < MAX_API_KEYS,
        "counting": counting,
    }
    return render(request, "iam/api_keys.html", context)


@callers
@sensitive_variables("text")
def create(request: HttpRequest) -> HttpResponse:
    """The form; when it is accepted, the key, once."""
    actor = current_actor(request)
    endpoints = directory().of_project(actor.project.id)
    form = ApiKeyForm(request.POST or None, endpoints=endpoints)
    if request.method == "POST" and form.is_valid():
        try:
            key, text = services.create_api_key(actor, **form.values())
        except ValidationError as error:
            form.add_error(None, error)
        else:
            usable = [item for item in endpoints if key.endpoint_ids is None or item.id in key.endpoint_ids]
            context = {
                "key": key,
                "shown": selectors.KeyText(key.id, text, usable[0].url if usable else ""),
                "leave_to": reverse("iam:api_keys"),
            }
            return once(request, "iam/api_key_once.html", context)
    return render(request, "iam/api_key_create.html", {"form": form}, status=status_of(request))


@require_safe
@callers
def detail(request: HttpRequest, key_id: str) -> HttpResponse:
    """One key: its facts, what it may call and called."""
    key = _get(request, key_id)
    endpoints = directory().of_project(key.project_id)
    now = timezone.now()
    context = {
        "key": key,
        "status": selectors.key_status(key, now),
        "activity": activity([key], now)[key.id],
        "narrowed": selectors.narrowed(key.endpoint_ids, endpoints),
        "uses": directory().uses(key.project_id, key.id),
        "question": asked(request, decisions.of_key(key, selectors.roles_of(key)), endpoints, now),
    }
    return render(request, "iam/api_key.html", context)


@require_POST
@callers
def delete(request: HttpRequest, key_id: str) -> HttpResponse:
    """Refused from now on, for good."""
    key = _get(request, key_id)
    services.delete_api_key(current_actor(request), key)
    messages.success(
        request, _("The key %(name)s is deleted: gateways refuse it from now on.") % {"name": key.name}
    )
    return redirect("iam:api_keys")


def _get(request: HttpRequest, key_id: str) -> ApiKey:
    return get_object_or_404(selectors.api_keys(current_actor(request)), id=key_id)
