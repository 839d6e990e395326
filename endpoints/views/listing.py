"""The list of endpoints and what can be done to several of them at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_POST

from config.errors import Conflict
from endpoints import services
from endpoints.models import Endpoint
from endpoints.selectors import PAGE_SIZES, ListQuery, counts_of, endpoint_page, endpoints_of
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission
from registry.models import ModelStatus, RegisteredModel

_MOST_AT_ONCE = 100


def list_context(request: HttpRequest) -> dict[str, object]:
    """Everything the list page shows, from its address and the session's region."""
    actor = current_actor(request)
    query = ListQuery.parse(request.GET, request.session.get("region", ""))
    page = endpoint_page(actor.project, query)
    shown = replace(query, page=page.number)
    context: dict[str, object] = {
        "page": page,
        "query": shown,
        "sizes": PAGE_SIZES,
        "can_edit": actor.may(Permission.EDIT),
        "project": actor.project,
    }
    if not page.object_list and not query.search and not query.status:
        context["models_ready"] = RegisteredModel.objects.filter(
            project=actor.project, status=ModelStatus.READY
        ).exists()
    else:
        context["counts"] = counts_of(actor.project, query.region)
    return context


@require(Permission.VIEW)
def endpoint_list(request: HttpRequest) -> HttpResponse:
    """The page, or only its table when htmx asks."""
    wanted = request.headers.get("HX-Target") == "list"
    response = render(
        request, "endpoints/_table.html" if wanted else "endpoints/list.html", list_context(request)
    )
    response["Vary"] = "HX-Request"
    return response


@require(Permission.EDIT)
@require_POST
def bulk(request: HttpRequest, verb: str) -> HttpResponse:
    """Pause, resume or delete every ticked endpoint; says how many, and names each that could not be."""
    actor = current_actor(request)
    act: Callable[..., Endpoint] = {
        "pause": services.pause_endpoint,
        "resume": services.resume_endpoint,
        "delete": services.delete_endpoint,
    }[verb]
    chosen = request.POST.getlist("endpoint")[:_MOST_AT_ONCE]
    done = 0
    for endpoint in endpoints_of(actor.project).filter(pk__in=chosen):
        try:
            act(actor=actor, endpoint=endpoint)
            done += 1
        except ValidationError as error:
            messages.error(request, f"{endpoint.name}: {' '.join(error.messages)}")
        except Conflict as conflict:
            messages.error(request, f"{endpoint.name}: {conflict.message}")
    if done:
        messages.success(request, _bulk_words(verb, done))
    elif not chosen:
        messages.warning(request, _("Nothing was ticked."))
    return HttpResponseRedirect(f"{reverse('endpoints:list')}?{request.POST.get('back', '')}".rstrip("?"))


def _bulk_words(verb: str, count: int) -> str:
    words = {
        "pause": ngettext("%(n)s endpoint is being paused.", "%(n)s endpoints are being paused.", count),
        "resume": ngettext("%(n)s endpoint is being resumed.", "%(n)s endpoints are being resumed.", count),
        "delete": ngettext("%(n)s endpoint is being deleted.", "%(n)s endpoints are being deleted.", count),
    }
    return words[verb] % {"n": count}
