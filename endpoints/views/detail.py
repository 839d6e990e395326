"""One endpoint: its tabs and its buttons."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext_lazy
from django.views.decorators.http import require_POST

from config.errors import Conflict
from endpoints import services
from endpoints.models import Endpoint
from endpoints.presenting import overview, use_it
from endpoints.selectors import events_of, replicas_of
from endpoints.views.common import get_endpoint
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission

# Of replicas that ended; as many as an endpoint keeps records of.
LOGS_OFFERED = 20

_VERBS: dict[str, tuple[Callable[..., Endpoint], object]] = {
    "pause": (services.pause_endpoint, gettext_lazy("%(name)s is being paused.")),
    "resume": (services.resume_endpoint, gettext_lazy("%(name)s is being resumed.")),
    "retry": (services.retry_endpoint, gettext_lazy("%(name)s is tried again.")),
    "keep": (services.keep_revision, gettext_lazy("%(name)s keeps the revision that serves.")),
    "delete": (services.delete_endpoint, gettext_lazy("%(name)s is being deleted.")),
}


@require(Permission.VIEW)
def detail(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """Overview: how the deployment goes, what runs, where it is."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    context = overview(endpoint, actor.may(Permission.EDIT))
    return render(request, "endpoints/detail.html", context | {"tab": "overview"})


@require(Permission.VIEW)
def use_tab(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """How to call it."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    context = {
        "endpoint": endpoint,
        "tab": "use",
        "can_edit": actor.may(Permission.EDIT),
        "can_administer": actor.may(Permission.ADMINISTER),
    }
    return render(request, "endpoints/use.html", context | use_it(endpoint))


@require(Permission.VIEW)
def logs_tab(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """The log of one replica, live."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    replicas = replicas_of(endpoint, ended=LOGS_OFFERED)
    wanted = request.GET.get("replica", "")
    shown = next((r for r in replicas if r.name == wanted), replicas[0] if replicas else None)
    context = {
        "endpoint": endpoint,
        "tab": "logs",
        "can_edit": actor.may(Permission.EDIT),
        "replicas": replicas,
        "shown": shown,
    }
    return render(request, "endpoints/logs.html", context)


@require(Permission.VIEW)
def events_tab(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """Who did what, when."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    context = {
        "endpoint": endpoint,
        "tab": "events",
        "can_edit": actor.may(Permission.EDIT),
        "events": events_of(endpoint),
    }
    return render(request, "endpoints/events.html", context)


@require(Permission.EDIT)
@require_POST
def act(request: HttpRequest, endpoint_id: str, verb: str) -> HttpResponse:
    """Pause, resume, retry, keep, delete."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    service, words = _VERBS[verb]
    try:
        service(actor=actor, endpoint=endpoint)
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    except Conflict as conflict:
        messages.error(request, conflict.message)
    else:
        messages.success(request, str(words) % {"name": endpoint.name})
    if verb == "delete" or request.POST.get("back") == "list":
        return HttpResponseRedirect(reverse("endpoints:list"))
    return HttpResponseRedirect(reverse("endpoints:detail", args=[endpoint.id]))
