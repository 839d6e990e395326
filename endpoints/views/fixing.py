"""The button on a cause card."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from config.errors import Conflict
from endpoints import fixes
from endpoints.interruption import NeedsInterruption
from endpoints.models import Endpoint
from endpoints.views.common import get_endpoint
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission


@require(Permission.EDIT)
@require_POST
def fix(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """Take the way out that the page offered."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    key = request.POST.get("fix", "")
    try:
        fixes.apply(
            actor=actor,
            endpoint=endpoint,
            key=key,
            allow_interruption=request.POST.get("allow_interruption") == "on",
        )
    except NeedsInterruption as question:
        return _ask(request, endpoint, key, question.message)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    except Conflict as conflict:
        messages.error(request, conflict.message)
    else:
        messages.success(request, _("%(name)s is tried again with that.") % {"name": endpoint.name})
    return HttpResponseRedirect(reverse("endpoints:detail", args=[endpoint.id]))


def _ask(request: HttpRequest, endpoint: Endpoint, key: str, question: str) -> HttpResponse:
    """Whether the replicas that serve may be interrupted for it."""
    label = next((item.label for item in fixes.offered(endpoint) if item.key == key), key)
    context = {
        "endpoint": endpoint,
        "tab": "overview",
        "can_edit": True,
        "question": question,
        "title": f"{label}?",
        "yes": _("Do it, with an interruption"),
        "address": reverse("endpoints:fix", args=[endpoint.id]),
        "sent": {"fix": key},
    }
    return render(request, "endpoints/interrupt.html", context, status=409)
