"""How an endpoint scales: what was decided and why."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from endpoints.presenting import scaling
from endpoints.views.common import get_endpoint
from iam.access import require
from iam.actors import current_actor
from iam.roles import Permission


@require(Permission.VIEW)
def decisions_tab(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """The present state and the ledger. `?before=57` shows older decisions than that one."""
    actor = current_actor(request)
    endpoint = get_endpoint(actor, endpoint_id)
    context = scaling(endpoint, actor.may(Permission.EDIT), request.GET.get("before", ""))
    return render(request, "endpoints/scaling.html", context | {"tab": "scaling"})
