"""How an endpoint scales: what was decided and why, and what other limits would have done."""

from __future__ import annotations

import time
from typing import Any

from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_POST

from endpoints.autoscaling import trial
from endpoints.forms import EndpointForm
from endpoints.models import Endpoint, InstanceType
from endpoints.presenting import scaling
from endpoints.trial_page import shown
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


@require(Permission.EDIT)
@require_POST
def dry_run(request: HttpRequest, endpoint_id: str) -> HttpResponse:
    """The settings form as it is typed now, tried on stored metrics; saves nothing. `range`: a key of trial.RANGES."""
    endpoint = get_endpoint(current_actor(request), endpoint_id)
    form = EndpointForm(request.POST)
    form.is_valid()
    span = request.POST.get("range", "")
    context: dict[str, Any] = {"endpoint": endpoint, "ranges": trial.RANGES}
    context["span"] = span = span if span in trial.RANGES else trial.DEFAULT_RANGE
    try:
        limits = trial.checked_limits(form.values(), _instance_type(endpoint, form))
    except ValidationError as error:
        context["errors"] = [
            (form.fields[name].label, " ".join(messages)) for name, messages in error.message_dict.items()
        ]
    else:
        context["trial"] = shown(trial.run(endpoint, limits, span, time.time()))
    return render(request, "endpoints/_dry_run.html", context)


def _instance_type(endpoint: Endpoint, form: EndpointForm) -> InstanceType | None:
    """The chosen one, which says whether a GPU threshold makes sense; else the present one."""
    chosen = InstanceType.objects.filter(name=form.values()["instance_type"], enabled=True).first()
    return chosen or (endpoint.revision.instance_type if endpoint.revision else None)
