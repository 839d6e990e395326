"""An endpoint's revisions, and what replaces its replicas: roll back, restart."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from config.errors import Conflict
from endpoints import services
from endpoints.history import number_of
from endpoints.interruption import NeedsInterruption
from endpoints.models import Endpoint
from endpoints.presenting import revision_list
from endpoints.views.common import get_endpoint
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission


@require(Permission.VIEW)
def revisions_tab(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """Who changed what, when, and what became of it."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    context = revision_list(endpoint, actor.may(Permission.EDIT), request.GET.get("before", ""))
    return render(request, "endpoints/revisions.html", context | {"tab": "revisions"})


@require(Permission.EDIT)
@require_POST
def rollback(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """Take up an older revision's configuration again."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    number = number_of(request.POST.get("revision", "")) or 0

    def act(*, allow_interruption: bool) -> str:
        changed = services.rollback_endpoint(
            actor=actor, endpoint=endpoint, number=number, allow_interruption=allow_interruption
        )
        now = changed.revision.number if changed.revision else 0
        return _("Revision %(number)s is being rolled out: it takes up revision %(restored)s again.") % {
            "number": now,
            "restored": number,
        }

    ask = {
        "title": _("Roll back %(name)s to revision %(number)s?") % {"name": endpoint.name, "number": number},
        "yes": _("Roll back, with an interruption"),
        "address": reverse("endpoints:rollback", args=[endpoint.id]),
        "sent": {"revision": str(number)},
    }
    return _replace(request, endpoint, act, ask)


@require(Permission.EDIT)
@require_POST
def restart(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """Replace every replica by one of the same configuration."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)

    def act(*, allow_interruption: bool) -> str:
        services.restart_endpoint(actor=actor, endpoint=endpoint, allow_interruption=allow_interruption)
        return _("%(name)s is being restarted, one replica after another.") % {"name": endpoint.name}

    ask = {
        "title": _("Restart %(name)s?") % {"name": endpoint.name},
        "yes": _("Restart, with an interruption"),
        "address": reverse("endpoints:restart", args=[endpoint.id]),
        "sent": {},
    }
    return _replace(request, endpoint, act, ask)


def _replace(
    request: HttpRequest, endpoint: Endpoint, act: Callable[..., str], ask: Mapping[str, object]
) -> HttpResponse:
    """Do it, or ask whether the service may be interrupted for it."""
    try:
        done = act(allow_interruption=request.POST.get("allow_interruption") == "on")
    except NeedsInterruption as question:
        context = {"endpoint": endpoint, "tab": "revisions", "can_edit": True, "question": question.message}
        return render(request, "endpoints/interrupt.html", {**context, **ask}, status=409)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    except Conflict as conflict:
        messages.error(request, conflict.message)
    else:
        messages.success(request, done)
        return HttpResponseRedirect(reverse("endpoints:detail", args=[endpoint.id]))
    return HttpResponseRedirect(reverse("endpoints:revisions", args=[endpoint.id]))
